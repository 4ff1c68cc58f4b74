// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/util/cache"
)

const (
	// askedDuration is how long what a client was told to be there is kept, for the
	// manifest of a push that does not send it again.
	askedDuration = 2 * time.Hour
	// maxAsked bounds how much of that is known.
	maxAsked = 16 << 10
)

// asked is what clients asked for and did not read, by HEAD: the collector takes it for
// something that is in use. It is in memory alone, since pulls ask as well: the next
// process knows nothing of it.
type asked struct {
	of *cache.LRUExpireCache // gc.Node → nil
}

var _ metadata.Collector = asked{}

func newAsked(now func() time.Time) asked {
	return asked{cache.NewLRUExpireCacheWithClock(maxAsked, clockFunc(now))}
}

type clockFunc func() time.Time

func (f clockFunc) Now() time.Time { return f() }

func contentNode(namespace string, dgst digest.Digest) gc.Node {
	return gc.Node{Type: metadata.ResourceContent, Namespace: namespace, Key: dgst.String()}
}

func (a asked) add(namespace string, dgst digest.Digest) {
	a.of.Add(contentNode(namespace, dgst), nil, askedDuration)
}

func (a asked) remove(namespace string, dgst digest.Digest) {
	a.of.Remove(contentNode(namespace, dgst))
}

// forget removes what is of a namespace that is gone.
func (a asked) forget(namespace string) {
	a.of.RemoveAll(func(key any) bool { return key.(gc.Node).Namespace == namespace })
}

// StartCollection implements metadata.Collector.
func (a asked) StartCollection(context.Context) (metadata.CollectionContext, error) {
	now := askedNow{}
	for _, key := range a.of.Keys() {
		node := key.(gc.Node)
		now[node.Namespace] = append(now[node.Namespace], node)
	}
	return now, nil
}

// ReferenceLabel implements metadata.Collector. No label refers to it.
func (asked) ReferenceLabel() string { return "" }

// askedNow is what one collection knows of it, by namespace. It has no resources of its
// own: content that nobody asked for is the database's.
type askedNow map[string][]gc.Node

// Active implements metadata.CollectionContext.
func (a askedNow) Active(namespace string, fn func(gc.Node)) {
	for _, node := range a[namespace] {
		fn(node)
	}
}

// All implements metadata.CollectionContext.
func (askedNow) All(func(gc.Node)) {}

// Leased implements metadata.CollectionContext.
func (askedNow) Leased(string, string, func(gc.Node)) {}

// Remove implements metadata.CollectionContext.
func (askedNow) Remove(gc.Node) {}

// Cancel implements metadata.CollectionContext.
func (askedNow) Cancel() error { return nil }

// Finish implements metadata.CollectionContext.
func (askedNow) Finish() error { return nil }
