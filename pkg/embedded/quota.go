// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/api/resource"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// countInterval is how long what is known of a namespace's bytes is gone by: what is
	// written is added to it, what is collected or was there already is not taken off.
	countInterval = time.Minute
	// recountInterval is how soon it is counted again for who would be refused.
	recountInterval = time.Second
)

// quota bounds the bytes of each namespace: its content, and what is being written.
type quota struct {
	store *Store
	limit int64 // 0 for none
	mu    sync.Mutex
	used  map[string]*usage // by containerd's namespace
}

// usage is what a namespace has.
type usage struct {
	mu      sync.Mutex
	bytes   int64
	counted time.Time
}

// take counts bytes that are about to be written to the namespace of ctx. It fails where
// they are too many.
func (q *quota) take(ctx context.Context, bytes int64) error {
	if q.limit <= 0 {
		return nil
	}
	return q.with(ctx, bytes, func(u *usage) { u.bytes += bytes })
}

// check fails where take would.
func (q *quota) check(ctx context.Context, bytes int64) error {
	if q.limit <= 0 {
		return nil
	}
	return q.with(ctx, bytes, func(*usage) {})
}

func (q *quota) with(ctx context.Context, more int64, do func(*usage)) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	u := q.of(namespace)
	u.mu.Lock()
	defer u.mu.Unlock()
	age := q.store.now().Sub(u.counted)
	if age >= countInterval || age < 0 || more > q.limit-u.bytes && age >= recountInterval {
		if u.bytes, err = q.store.bytes(ctx); err != nil {
			return fmt.Errorf("counting what namespace %s has: %w", namespace, err)
		}
		u.counted = q.store.now()
	}
	if more > q.limit-u.bytes {
		return &quotaError{distribution.Explain(distribution.ErrFull,
			"the namespace has %s of the %s that it may have in this registry: delete what it does not need, which frees space within a day or so, or have the administrator raise --max-namespace-size",
			quantity(u.bytes), quantity(q.limit))}
	}
	do(u)
	return nil
}

func (q *quota) of(namespace string) *usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[namespace] == nil {
		q.used[namespace] = &usage{}
	}
	return q.used[namespace]
}

// forget has everything be counted again.
func (q *quota) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.used)
}

// bytes counts what the namespace of ctx has.
func (s *Store) bytes(ctx context.Context) (int64, error) {
	var sum int64
	// First what is being written: what is committed meanwhile counts twice rather than
	// not at all.
	statuses, err := s.content.ListStatuses(ctx)
	if err != nil {
		return 0, err
	}
	for _, status := range statuses {
		sum += status.Offset
	}
	err = s.view(ctx, func(all records) error {
		return all.each(func(_ digest.Digest, r record) error {
			sum += r.size()
			return nil
		})
	})
	return sum, err
}

func quantity(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }

// quotaError tells the endpoint what it is, and importers too.
type quotaError struct{ error }

func (e *quotaError) Unwrap() []error { return []error{e.error, errdefs.ErrResourceExhausted} }
