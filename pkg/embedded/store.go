// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	// Digests of this algorithm are served too.
	_ "crypto/sha512"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// lockTimeout bounds the wait for a database that another process holds.
	lockTimeout = time.Second
	// defaultLeaseDuration is how long the content of an import that never
	// came to its Commit is kept for the next attempt, which comes after an hour
	// at the latest.
	defaultLeaseDuration = 2 * time.Hour
)

// Store is an image store in a directory. All of its methods may be called
// concurrently.
type Store struct {
	dir     string
	reserve int64 // bytes of the disk that are not used
	db      *metadata.DB
	files   fileStore
	content content.Store
	images  images.Store
	leases  leases.Manager

	// leaseDuration is defaultLeaseDuration except in tests.
	leaseDuration time.Duration
}

// OpenStore opens the store in dir, which is created (0700) when absent. Writes
// that an earlier process left unfinished are dropped. The caller closes the
// store. Reserve is how many bytes of the disk it leaves free: content that would
// need them is refused with an error that wraps syscall.ENOSPC.
//
// It fails within about a second when another process has the store open.
func OpenStore(ctx context.Context, dir string, reserve int64) (*Store, error) {
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("creating the image store: %w", err)
	}
	bdb, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{
		Timeout: lockTimeout,
		// As containerd opens it: the free list is rebuilt at start, which
		// spares writes and survives more kinds of damage.
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
		NoStatistics:   true,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("opening the image store in %s: another process has it open: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("opening the image store in %s: %w", dir, err)
	}
	store, err := newStore(ctx, dir, reserve, bdb)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the image store in %s: %w", dir, err), bdb.Close())
	}
	return store, nil
}

// newStore builds the store over its database, which it alone has open.
func newStore(ctx context.Context, dir string, reserve int64, bdb *bolt.DB) (*Store, error) {
	root := filepath.Join(dir, "content")
	// No writer outlives its process, and a write that was cut short can be
	// such that containerd cannot even list it.
	if err := os.RemoveAll(filepath.Join(root, "ingest")); err != nil {
		return nil, err
	}
	contents, err := local.NewStore(root)
	if err != nil {
		return nil, err
	}
	below, ok := contents.(localStore)
	if !ok {
		return nil, fmt.Errorf("content store %T cannot list its writes", contents)
	}
	files := fileStore{below}
	db := metadata.NewDB(bdb, files, nil, metadata.WithPolicyIsolated)
	if err := db.Init(ctx); err != nil {
		return nil, err
	}
	return &Store{
		dir:           dir,
		reserve:       reserve,
		db:            db,
		files:         files,
		content:       db.ContentStore(),
		images:        metadata.NewImageStore(db),
		leases:        metadata.NewLeaseManager(db),
		leaseDuration: defaultLeaseDuration,
	}, nil
}

// Close closes the store. What is under way fails; opened content stays
// readable.
func (s *Store) Close() error { return s.db.Close() }

// Collect removes what no tag and no lease holds. Reads go on meanwhile, writes
// of metadata wait for it.
func (s *Store) Collect(ctx context.Context) error {
	stats, err := s.db.GarbageCollect(ctx)
	if err != nil {
		return fmt.Errorf("collecting garbage in the image store: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Collected garbage in the image store", "duration", stats.Elapsed())
	return nil
}

// Repository returns the repository name of a namespace, for one import: what
// is pushed and mounted through the returned value is protected until its
// Commit. Whether the names are valid is found by the first call that uses
// them.
func (s *Store) Repository(namespace, name string) *Repository {
	return &Repository{store: s, name: distribution.Repository{Namespace: namespace, Name: name}}
}
