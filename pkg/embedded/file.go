// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"
)

// localStore is what plugins/content/local gives: a content.Store that also
// lists unfinished writes without reading each of them, which the garbage
// collector uses where it can.
type localStore interface {
	content.Store
	WalkStatusRefs(ctx context.Context, fn func(string) error) error
}

// fileStore is the store of files as the metadata store sees it. It adds two
// things to containerd's: a file that lost or gained bytes is replaced rather
// than taken for the content, and what will be committed under a digest of
// another algorithm than sha256 is hashed with that algorithm while it is
// written, not again at the end, where the whole database would wait for it.
type fileStore struct {
	localStore
}

// Writer implements content.Ingester.
func (s fileStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.localStore.Writer(ctx, append(opts, withExpectedDigest(ctx))...)
	if errdefs.IsAlreadyExists(err) {
		// The file is there, for another namespace or out of a commit that was
		// cut short. This writer must bring the bytes all the same: without an
		// expected digest nothing is spared.
		w, err = s.localStore.Writer(ctx, opts...)
	}
	if err != nil {
		return nil, err
	}
	return &fileWriter{Writer: w, store: s}, nil
}

// directRefPrefix begins the references of writes that go to the files
// directly. Those of the metadata store begin with a number.
const directRefPrefix = "direct-"

// WalkStatusRefs implements localStore for the garbage collector, which aborts
// what the metadata store knows nothing of: direct writes are not its business.
func (s fileStore) WalkStatusRefs(ctx context.Context, fn func(string) error) error {
	return s.localStore.WalkStatusRefs(ctx, func(ref string) error {
		if strings.HasPrefix(ref, directRefPrefix) {
			return nil
		}
		return fn(ref)
	})
}

// intact reports whether the file of dgst is there and has the given size. It
// does not read it.
func (s fileStore) intact(ctx context.Context, dgst digest.Digest, size int64) (bool, error) {
	info, err := s.Info(ctx, dgst)
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	}
	return info.Size == size, nil
}

type expectedDigestKey struct{}

// expectDigest tells fileStore what a writer's content will be committed as:
// the metadata store keeps that from the store below it.
func expectDigest(ctx context.Context, dgst digest.Digest) context.Context {
	return context.WithValue(ctx, expectedDigestKey{}, dgst)
}

func withExpectedDigest(ctx context.Context) content.WriterOpt {
	return func(opts *content.WriterOpts) error {
		if dgst, ok := ctx.Value(expectedDigestKey{}).(digest.Digest); ok {
			opts.Desc.Digest = dgst
		}
		return nil
	}
}

// fileWriter is a writer of fileStore.
type fileWriter struct {
	content.Writer
	store fileStore
}

// Commit implements content.Writer. A file of another size that has the name of
// the new content goes first, or the store below would keep it and throw the
// good bytes away.
func (w *fileWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	if info, err := w.store.Info(ctx, expected); err == nil && info.Size != size {
		klog.FromContext(ctx).Info("Replacing damaged content", "digest", expected, "haveBytes", info.Size, "wantBytes", size)
		if err := w.store.Delete(ctx, expected); err != nil {
			return fmt.Errorf("removing damaged content %s: %w", expected, err)
		}
	}
	return w.Writer.Commit(ctx, size, expected, opts...)
}

// Sync implements content.Syncer, by which the metadata store flushes content
// before it takes its lock.
func (w *fileWriter) Sync() error {
	if syncer, ok := w.Writer.(content.Syncer); ok {
		return syncer.Sync()
	}
	return nil
}
