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
	config StoreConfig
	dir    string
	space  space
	// namespaceID returns containerd's namespace for one of Kubernetes.
	namespaceID func(ctx context.Context, namespace string) (string, error)

	db      *metadata.DB
	files   fileStore
	content content.Store
	images  images.Store
	leases  leases.Manager
	quota   *quota
	uploads *uploads
	// pushLeases hold what was pushed.
	pushLeases *pushLeases
	// asked holds what pushes take to be there.
	asked asked

	// leaseDuration is defaultLeaseDuration, pushDuration defaultPushDuration,
	// idleTimeout defaultIdleTimeout and now time.Now, except in tests.
	leaseDuration, pushDuration, idleTimeout time.Duration
	now                                      func() time.Time
}

// StoreConfig says how a store is opened.
type StoreConfig struct {
	// Dir is where it lies; it is created (0700) when absent.
	Dir string
	// Reserve is how many bytes of the disk the store leaves free: content that
	// would need them is refused with an error that wraps syscall.ENOSPC.
	Reserve int64
	// NamespaceBytes is how many bytes one namespace may have, what is being written
	// included; 0 for as many as it likes. What would be more is refused with an error
	// that wraps distribution.ErrFull and errdefs.ErrResourceExhausted.
	NamespaceBytes int64
	// NamespaceUID returns the UID of a Kubernetes namespace, under which its
	// content is kept, so that one that is made again starts empty. An error for
	// which there is no such namespace wraps distribution.ErrNameUnknown. Nil where
	// namespaces are mere names.
	NamespaceUID func(ctx context.Context, namespace string) (string, error)
	// Namespaces returns the UIDs of all namespaces that there are, or an error where
	// it does not know for sure. What lies in others is collected once they have been
	// missed for NamespaceDelay. Nil where namespaces are mere names, which are never
	// gone.
	Namespaces     func(ctx context.Context) ([]string, error)
	NamespaceDelay time.Duration
}

// OpenStore opens a store. Writes that an earlier process left unfinished are
// dropped, uploads of clients excepted. The caller closes the store.
//
// It fails within about a second when another process has the store open.
func OpenStore(ctx context.Context, config StoreConfig) (*Store, error) {
	dir := config.Dir
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
	store, err := newStore(ctx, config, bdb)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the image store in %s: %w", dir, err), bdb.Close())
	}
	return store, nil
}

// newStore builds the store over its database, which it alone has open.
func newStore(ctx context.Context, config StoreConfig, bdb *bolt.DB) (*Store, error) {
	root := filepath.Join(config.Dir, "content")
	contents, err := local.NewStore(root)
	if err != nil {
		return nil, err
	}
	begun := filepath.Join(config.Dir, "uploads")
	if err := os.MkdirAll(begun, 0o700); err != nil {
		return nil, err
	}
	// Without this folder a collection ends before it comes to unfinished writes.
	if err := os.MkdirAll(filepath.Join(root, "blobs"), 0o700); err != nil {
		return nil, err
	}
	below, ok := contents.(localStore)
	if !ok {
		return nil, fmt.Errorf("content store %T cannot list its writes", contents)
	}
	files := fileStore{below}
	left, err := files.clean(ctx, filepath.Join(root, "ingest"))
	if err != nil {
		return nil, err
	}
	db := metadata.NewDB(bdb, files, nil, metadata.WithPolicyIsolated)
	if err := db.Init(ctx); err != nil {
		return nil, err
	}
	namespaceID := config.NamespaceUID
	if namespaceID == nil {
		namespaceID = containerdNamespace
	}
	s := &Store{
		config:        config,
		dir:           config.Dir,
		space:         space{dir: config.Dir, reserve: config.Reserve, free: freeBytes},
		namespaceID:   namespaceID,
		db:            db,
		files:         files,
		content:       db.ContentStore(),
		images:        metadata.NewImageStore(db),
		leases:        metadata.NewLeaseManager(db),
		uploads:       newUploads(begun),
		leaseDuration: defaultLeaseDuration,
		pushDuration:  defaultPushDuration,
		idleTimeout:   defaultIdleTimeout,
		now:           time.Now,
	}
	s.quota = &quota{store: s, limit: config.NamespaceBytes, used: map[string]*usage{}}
	s.pushLeases = &pushLeases{store: s, of: map[[2]string]pushLease{}}
	s.asked = newAsked(func() time.Time { return s.now() })
	db.RegisterCollectibleResource(metadata.ResourceStream, s.asked) // of which there are none
	s.takeUp(ctx, left)
	if err := s.takeUpBegun(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the store. What is under way fails; opened content stays
// readable.
func (s *Store) Close() error { return errors.Join(s.uploads.close(), s.db.Close()) }

// Collect removes what no tag and no lease holds, and what namespaces had that are
// gone. Reads go on meanwhile, writes of metadata wait for it. That it is not
// known which namespaces there are holds nothing else up.
func (s *Store) Collect(ctx context.Context) error {
	dropped, err := s.dropGoneNamespaces(ctx)
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "What gone namespaces had stays in the image store for now")
	}
	s.uploads.forgetAllEnded(s.now())
	stats, err := s.db.GarbageCollect(ctx)
	s.pushLeases.forget() // some may be no more
	s.quota.forget()
	if err != nil {
		return fmt.Errorf("collecting garbage in the image store: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Collected garbage in the image store", "duration", stats.Elapsed())
	return s.forgetNamespaces(ctx, dropped)
}

// Repository returns the repository name of a namespace, for one import: what
// is pushed and mounted through the returned value is protected until its
// Commit. Whether the names are valid is found by the first call that uses
// them.
func (s *Store) Repository(namespace, name string) *Repository {
	return &Repository{store: s, name: distribution.Repository{Namespace: namespace, Name: name}}
}
