// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	if ctx.Value(openLaterKey{}) != nil {
		return &laterWriter{open: func() (content.Writer, error) { return s.openWriter(context.WithoutCancel(ctx), opts...) }}, nil
	}
	return s.openWriter(ctx, opts...)
}

func (s fileStore) openWriter(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.localStore.Writer(ctx, append(opts, withExpectedDigest(ctx))...)
	if errdefs.IsAlreadyExists(err) {
		// The file is there, for another namespace or out of a commit that was
		// cut short. This writer must bring the bytes all the same: where no content
		// has the expected digest nothing is spared.
		if expected, ok := ctx.Value(expectedDigestKey{}).(digest.Digest); ok {
			ctx = expectAlgorithm(ctx, expected.Algorithm())
		}
		w, err = s.localStore.Writer(ctx, append(opts, withExpectedDigest(ctx))...)
	}
	if err != nil {
		return nil, err
	}
	return &fileWriter{Writer: w, store: s}, nil
}

// directRefPrefix begins the references of writes that go to the files
// directly. Those of the metadata store begin with a namespace, of which none is so
// called.
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

// clean removes what writes have left in the folder of unfinished ones, which no
// writer of another process goes on with: all but uploads, which it returns, and of
// these what was cut short such that containerd cannot even list it.
func (s fileStore) clean(ctx context.Context, dir string) (left []uploadKey, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		ref, err := os.ReadFile(filepath.Join(path, "ref"))
		// The metadata store puts its namespace and a number in front, the store of files
		// calls the folder by the digest of that.
		parts := strings.SplitN(string(ref), "/", 3)
		if err == nil && len(parts) == 3 && strings.HasPrefix(parts[2], uploadRefPrefix) && digest.FromBytes(ref).Encoded() == entry.Name() {
			if _, err := s.Status(ctx, string(ref)); err == nil {
				left = append(left, uploadKey{parts[0], parts[2]})
				continue
			}
		}
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	return left, nil
}

type openLaterKey struct{}

// openLater has a writer open its file with its first use: the metadata store opens
// writers while the whole database waits, and to open one that goes on is to read all
// that it has.
func openLater(ctx context.Context) context.Context {
	return context.WithValue(ctx, openLaterKey{}, true)
}

// laterWriter opens a writer with its first use. As any, it has one user at a time.
type laterWriter struct {
	open   func() (content.Writer, error)
	opened content.Writer
}

func (w *laterWriter) writer() (content.Writer, error) {
	if w.opened == nil {
		opened, err := w.open()
		if err != nil {
			return nil, err
		}
		w.opened = opened
	}
	return w.opened, nil
}

// Write implements content.Writer.
func (w *laterWriter) Write(p []byte) (int, error) {
	opened, err := w.writer()
	if err != nil {
		return 0, err
	}
	return opened.Write(p)
}

// Close implements content.Writer.
func (w *laterWriter) Close() error {
	if w.opened == nil {
		return nil
	}
	return w.opened.Close()
}

// Digest implements content.Writer.
func (w *laterWriter) Digest() digest.Digest {
	opened, err := w.writer()
	if err != nil {
		return ""
	}
	return opened.Digest()
}

// Commit implements content.Writer.
func (w *laterWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	opened, err := w.writer()
	if err != nil {
		return err
	}
	return opened.Commit(ctx, size, expected, opts...)
}

// Status implements content.Writer.
func (w *laterWriter) Status() (content.Status, error) {
	opened, err := w.writer()
	if err != nil {
		return content.Status{}, err
	}
	return opened.Status()
}

// Truncate implements content.Writer.
func (w *laterWriter) Truncate(size int64) error {
	opened, err := w.writer()
	if err != nil {
		return err
	}
	return opened.Truncate(size)
}

// Sync implements content.Syncer.
func (w *laterWriter) Sync() error {
	opened, err := w.writer()
	if err != nil {
		return err
	}
	if syncer, ok := opened.(content.Syncer); ok {
		return syncer.Sync()
	}
	return nil
}

type expectedDigestKey struct{}

// expectDigest tells fileStore what a writer's content will be committed as:
// the metadata store keeps that from the store below it.
func expectDigest(ctx context.Context, dgst digest.Digest) context.Context {
	return context.WithValue(ctx, expectedDigestKey{}, dgst)
}

// expectAlgorithm is expectDigest where no more than the algorithm is known: that of a
// digest that no content has.
func expectAlgorithm(ctx context.Context, algorithm digest.Algorithm) context.Context {
	return expectDigest(ctx, digest.NewDigestFromEncoded(algorithm, strings.Repeat("0", 2*algorithm.Size())))
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
// good bytes away. It goes for nothing but what has the digest: anybody can say
// that something has.
func (w *fileWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	if info, err := w.store.Info(ctx, expected); err == nil && info.Size != size && w.Digest() == expected {
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
