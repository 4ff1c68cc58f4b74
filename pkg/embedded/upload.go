// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// defaultPushDuration is how long what was pushed is kept before a tag, an index or
	// a referrer holds it, and how long an upload may take.
	defaultPushDuration = 24 * time.Hour
	// pushLeaseInterval is how long one lease is used for all that is pushed to a
	// repository: to make one for each blob would take a write of its own.
	pushLeaseInterval = time.Hour
	// defaultIdleTimeout is how long the file of an upload stays open for the next
	// chunk: to open it means to read all that is there, for its digest.
	defaultIdleTimeout = time.Minute
	// maxWaiting is how many requests wait for one upload.
	maxWaiting = 8
	// uploadRefPrefix begins containerd's references of uploads. Other writes do not
	// outlive the process.
	uploadRefPrefix = "upload/"
)

// upload is one upload. What is not said to be otherwise belongs to who has its place.
type upload struct {
	store *Store
	key   uploadKey
	begun time.Time
	// place holds one value while somebody has the upload.
	place   chan struct{}
	waiting atomic.Int32 // how many want it
	filled  atomic.Bool  // whether something came

	algorithm digest.Algorithm
	size      int64
	writer    content.Writer // nil while it is closed
	idle      *time.Timer    // closes the writer
	counted   bool           // as one whose writer is open though nobody has it
	stored    bool           // that it was begun, for the next process
}

// uploadKey names an upload, by containerd's namespace and reference.
type uploadKey struct{ namespace, ref string }

func newUploadKey(namespace, name, id string) uploadKey {
	return uploadKey{namespace, uploadRefPrefix + name + "/" + id}
}

// name is that of the repository.
func (k uploadKey) name() string {
	return strings.TrimPrefix(k.ref[:strings.LastIndex(k.ref, "/")], uploadRefPrefix)
}

// StartUpload implements distribution.Backend.
func (s *Store) StartUpload(ctx context.Context, repo distribution.Repository, algorithm digest.Algorithm) (distribution.Upload, error) {
	if err := repo.Validate(); err != nil {
		return nil, err
	}
	namespace, err := s.namespaceID(ctx, repo.Namespace)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.space.check(0), s.quota.check(namespaces.WithNamespace(ctx, namespace), 1)); err != nil {
		return nil, storeError(err)
	}
	u := &upload{
		store: s, key: newUploadKey(namespace, repo.Name, rand.Text()), place: make(chan struct{}, 1),
		algorithm: algorithm, begun: s.now(),
	}
	u.place <- struct{}{}
	if err := s.uploads.add(u, s.now()); err != nil {
		return nil, err
	}
	return u, nil
}

// ResumeUpload implements distribution.Backend.
func (s *Store) ResumeUpload(ctx context.Context, repo distribution.Repository, id string) (distribution.Upload, error) {
	if err := repo.Validate(); err != nil {
		return nil, err
	}
	namespace, err := s.namespaceID(ctx, repo.Namespace)
	if err != nil {
		return nil, err
	}
	u := s.uploads.get(newUploadKey(namespace, repo.Name, id))
	if u == nil {
		return nil, distribution.ErrUploadUnknown
	}
	defer u.waiting.Add(-1)
	if u.waiting.Add(1) > maxWaiting {
		return nil, distribution.Explain(distribution.ErrTooMany, "too many requests wait for this upload: send one after another")
	}
	select {
	case u.place <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.uploads.get(u.key) != u { // it ended while it was waited for
		<-u.place
		return nil, distribution.ErrUploadUnknown
	}
	if u.idle != nil {
		u.idle.Stop()
		u.idle = nil
	}
	s.uploads.leaveIdle(u)
	return u, nil
}

// inside returns ctx for calls to containerd in the namespace of the upload.
func (u *upload) inside(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, u.key.namespace)
}

// ID implements distribution.Upload.
func (u *upload) ID() string { return u.key.ref[strings.LastIndex(u.key.ref, "/")+1:] }

// Size implements distribution.Upload.
func (u *upload) Size() int64 { return u.size }

// Append implements distribution.Upload.
func (u *upload) Append(ctx context.Context, r io.Reader, size int64) error {
	return storeError(u.append(ctx, r, size))
}

func (u *upload) append(ctx context.Context, r io.Reader, size int64) error {
	if err := u.store.space.check(max(size, 0)); err != nil {
		return err
	}
	if err := u.store.quota.check(u.inside(ctx), max(size, 0)); err != nil {
		return err
	}
	w, err := u.open(ctx)
	if err != nil {
		return err
	}
	observed := &observedWriter{Writer: w, filled: &u.filled}
	bounded, done := u.store.bounded(u.inside(ctx), r)
	defer done()
	_, err = io.CopyBuffer(observed, bounded, make([]byte, copyBufferSize))
	if !observed.failed { // whatever the reader did: what came is there
		status, statusErr := w.Status()
		u.size = status.Offset
		return errors.Join(err, statusErr)
	}
	// What a write that failed has left, the file alone knows.
	closeErr := u.close()
	if status, statusErr := u.store.content.Status(u.inside(ctx), u.key.ref); statusErr == nil {
		u.size = status.Offset
	}
	return errors.Join(err, closeErr)
}

// observedWriter remembers whether something was written, and whether that failed.
type observedWriter struct {
	io.Writer
	filled *atomic.Bool
	failed bool
}

func (w *observedWriter) Write(p []byte) (int, error) {
	w.filled.Store(true)
	n, err := w.Writer.Write(p)
	w.failed = w.failed || err != nil || n < len(p)
	return n, err
}

// open returns the writer, at the end of what is there.
func (u *upload) open(ctx context.Context) (content.Writer, error) {
	if u.writer != nil {
		return u.writer, nil
	}
	leased, err := u.leased(ctx)
	if err != nil {
		return nil, err
	}
	w, err := u.store.content.Writer(openLater(expectAlgorithm(leased, u.algorithm)), content.WithRef(u.key.ref))
	if err != nil {
		return nil, err
	}
	status, err := w.Status() // opens the file, and reads it
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if status.Offset < u.size { // it is not what the client thinks it is
		return nil, errors.Join(fmt.Errorf("%d of %d bytes are there: %w", status.Offset, u.size, distribution.ErrUploadUnknown),
			w.Close(), u.Cancel(ctx))
	}
	u.writer, u.size = w, status.Offset
	u.store.uploads.unnote(u.key) // the file says it
	u.stored = true
	return w, nil
}

// leased returns ctx for calls to containerd whose content is kept.
func (u *upload) leased(ctx context.Context) (context.Context, error) {
	return u.store.pushLeases.hold(u.inside(ctx), u.key.namespace, u.key.name())
}

// Commit implements distribution.Upload.
func (u *upload) Commit(ctx context.Context, r io.Reader, size int64, dgst digest.Digest) error {
	if u.size == 0 && u.writer == nil {
		u.algorithm = dgst.Algorithm() // now that it is known
	}
	if err := u.append(ctx, r, size); err != nil {
		return storeError(err)
	}
	return storeError(u.commit(ctx, dgst))
}

func (u *upload) commit(ctx context.Context, dgst digest.Digest) error {
	if u.algorithm != dgst.Algorithm() { // what was hashed is hashed again
		if err := u.close(); err != nil {
			return err
		}
		u.algorithm = dgst.Algorithm()
	}
	w, err := u.open(ctx)
	if err != nil {
		return err
	}
	if w.Digest() != dgst {
		return errors.Join(distribution.Explain(distribution.ErrDigestInvalid, "what was uploaded has another digest than %s", dgst),
			u.Cancel(context.WithoutCancel(ctx)))
	}
	ctx, err = u.leased(ctx)
	if err != nil {
		return err
	}
	labels := map[string]string{repositoryLabel(u.key.name()): "true"}
	u.writer = nil // it is no more, whatever comes of it
	if err := w.Commit(ctx, u.size, dgst, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return u.notCommitted(ctx, errors.Join(err, w.Close()))
	}
	u.store.uploads.remove(u)
	// What was there already keeps its labels, and gets these.
	return u.store.label(ctx, dgst, labels)
}

// notCommitted returns what became of an upload whose commit failed: the client may
// try again, unless what it sent is there no more.
func (u *upload) notCommitted(ctx context.Context, err error) error {
	status, statusErr := u.store.content.Status(u.inside(ctx), u.key.ref)
	switch {
	case statusErr == nil && status.Offset == u.size:
		return err
	case errors.Is(err, fs.ErrNotExist): // it was collected, since it took too long
		err = fmt.Errorf("%w: %w", distribution.ErrUploadUnknown, err)
	}
	return errors.Join(err, u.Cancel(context.WithoutCancel(ctx)))
}

// Cancel implements distribution.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	u.store.uploads.remove(u)
	closeErr := u.close()
	if err := u.store.content.Abort(u.inside(ctx), u.key.ref); err != nil && !errdefs.IsNotFound(err) {
		return errors.Join(closeErr, err)
	}
	return closeErr
}

// close closes the writer.
func (u *upload) close() error {
	if u.writer == nil {
		return nil
	}
	w := u.writer
	u.writer = nil
	return w.Close()
}

// Close implements distribution.Upload. The file stays open for a while, unless too
// many do.
func (u *upload) Close() (err error) {
	defer func() { <-u.place }()
	switch {
	case !u.stored:
		u.stored = true
		return u.store.uploads.note(u)
	case u.writer == nil:
		return nil
	case !u.store.uploads.joinIdle(u):
		return u.close()
	}
	var idle *time.Timer
	idle = time.AfterFunc(u.store.idleTimeout, func() {
		u.place <- struct{}{}
		defer func() { <-u.place }()
		if u.idle == idle { // nobody has gone on
			u.store.uploads.leaveIdle(u)
			_ = u.close() // what was written is there, or is missed by the next one who opens it
		}
	})
	u.idle = idle
	return nil
}

// pushing returns ctx for calls to containerd whose content is kept for a while, until
// something of the repository holds it.
func (s *Store) pushing(ctx context.Context, repo distribution.Repository) (context.Context, error) {
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	namespace, err := namespaces.NamespaceRequired(inside)
	if err != nil {
		return nil, err
	}
	return s.pushLeases.hold(inside, namespace, repo.Name)
}

// hold returns ctx, which is of a containerd namespace, with the lease for what is
// pushed to a repository at this time.
func (l *pushLeases) hold(ctx context.Context, namespace, name string) (context.Context, error) {
	l.mu.Lock() // for a write as well, and writes wait for each other anyhow
	defer l.mu.Unlock()
	// The database knows no other time than that of the wall.
	now := l.store.now().Round(0)
	for key, lease := range l.of {
		if age := now.Sub(lease.made); age >= pushLeaseInterval || age < 0 {
			delete(l.of, key)
		}
	}
	key := [2]string{namespace, name}
	lease, ok := l.of[key]
	if !ok {
		lease = pushLease{id: "push-" + rand.Text(), made: now}
		if _, err := l.store.leases.Create(ctx, leases.WithID(lease.id), leases.WithExpiration(l.store.pushDuration+pushLeaseInterval)); err != nil {
			return nil, fmt.Errorf("leasing what is pushed to %s: %w", name, err)
		}
		l.of[key] = lease
	}
	return leases.WithLease(ctx, lease.id), nil
}
