// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"k8s.io/klog/v2"
)

// goneSinceLabel is the label of a namespace that was missed since then, as RFC
// 3339 has it. It is part of the storage format.
const goneSinceLabel = "tagger.dev/gone-since"

// dropGoneNamespaces removes all tags and leases of the namespaces that have been
// missed for long enough, and returns them. What is stored is looked at first: a
// namespace is there before anything is stored in it.
func (s *Store) dropGoneNamespaces(ctx context.Context) ([]string, error) {
	if s.config.Namespaces == nil {
		return nil, nil
	}
	var stored []string
	if err := s.db.View(func(tx *bolt.Tx) (err error) {
		stored, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	}); err != nil || len(stored) == 0 {
		return nil, err
	}
	all, err := s.config.Namespaces(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking which namespaces there are: %w", err)
	}
	if len(all) == 0 { // not of a cluster that works
		return nil, errors.New("looking which namespaces there are: none is")
	}
	there := map[string]bool{}
	for _, id := range all {
		there[id] = true
	}
	var dropped []string
	for _, id := range stored {
		var drop bool
		if err := s.db.Update(func(tx *bolt.Tx) (err error) {
			if drop, err = s.missed(ctx, tx, id, there[id]); err != nil || !drop {
				return err
			}
			return s.dropNamespace(boltutil.WithTransaction(namespaces.WithNamespace(ctx, id), tx))
		}); err != nil {
			return nil, fmt.Errorf("dropping what namespace %s had: %w", id, err)
		}
		if drop {
			s.asked.forget(id)
			dropped = append(dropped, id)
		}
	}
	return dropped, nil
}

// missed notes since when a namespace is missed, and reports whether that is long
// ago.
func (s *Store) missed(ctx context.Context, tx *bolt.Tx, id string, there bool) (bool, error) {
	names := metadata.NewNamespaceStore(tx)
	labels, err := names.Labels(ctx, id)
	if err != nil {
		return false, err
	}
	noted, now := labels[goneSinceLabel], s.now()
	if there {
		if noted == "" {
			return false, nil
		}
		return false, names.SetLabel(ctx, id, goneSinceLabel, "")
	}
	since, err := time.Parse(time.RFC3339, noted)
	if err != nil || since.After(now) { // not noted yet, or by a clock that was ahead
		since = now
		if err := names.SetLabel(ctx, id, goneSinceLabel, now.UTC().Format(time.RFC3339)); err != nil {
			return false, err
		}
	}
	return now.Sub(since) >= s.config.NamespaceDelay, nil
}

// dropNamespace removes what the collector starts from in the namespace of ctx.
func (s *Store) dropNamespace(ctx context.Context) error {
	images, err := s.images.List(ctx)
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := s.images.Delete(ctx, image.Name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	held, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, lease := range held {
		if err := s.leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// forgetNamespaces removes namespaces that have nothing any more.
func (s *Store) forgetNamespaces(ctx context.Context, ids []string) error {
	for _, id := range ids {
		err := s.db.Update(func(tx *bolt.Tx) error { return metadata.NewNamespaceStore(tx).Delete(ctx, id) })
		switch {
		case errdefs.IsFailedPrecondition(err), errdefs.IsNotFound(err): // the next collection does it
			continue
		case err != nil:
			return fmt.Errorf("forgetting namespace %s: %w", id, err)
		}
		klog.FromContext(ctx).Info("Dropped what a namespace had in the image store that is gone", "uid", id)
	}
	return nil
}
