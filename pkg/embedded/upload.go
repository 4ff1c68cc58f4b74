// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// pushDuration is how long what was pushed is kept before a tag, an index or a
	// referrer holds it, and how long an upload may take.
	pushDuration = 24 * time.Hour
	// pushLeaseInterval is how long one lease is used for all that is pushed to a
	// repository: to make one for each blob would take a write of its own.
	pushLeaseInterval = time.Hour
	// maxUploads bounds the uploads of a namespace.
	maxUploads = 1000
	// idleTimeout is how long the file of an upload stays open for the next chunk: to
	// open it means to read all that is there, for its digest.
	idleTimeout = time.Minute
	// uploadRefPrefix begins containerd's references of uploads. Other writes do not
	// outlive the process.
	uploadRefPrefix = "upload/"
)

// uploads are those that this process knows of. What was sent of others is on disk.
type uploads struct {
	mu     sync.Mutex
	known  map[uploadKey]*upload
	leases map[uploadKey]pushLease // by repository, without ref
}

// uploadKey names an upload, by containerd's namespace and reference.
type uploadKey struct{ namespace, ref string }

// pushLease holds what was pushed to a repository.
type pushLease struct {
	id   string
	made time.Time
}

// upload is one upload. All but known and key belong to who has its place.
type upload struct {
	store *Store
	repo  distribution.Repository
	key   uploadKey
	place chan struct{} // holds one value while somebody has the upload

	algorithm digest.Algorithm
	size      int64
	begun     time.Time
	writer    content.Writer // nil while it is closed
	idle      *time.Timer    // closes the writer
}

func uploadRef(repo distribution.Repository, id string) string {
	return uploadRefPrefix + repo.Name + "/" + id
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
	if err := s.checkSpace(0); err != nil {
		return nil, storeError(err)
	}
	u := &upload{
		store: s, repo: repo, key: uploadKey{namespace, uploadRef(repo, rand.Text())}, place: make(chan struct{}, 1),
		algorithm: algorithm, begun: s.now(),
	}
	u.place <- struct{}{}
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	others := 0
	for key, other := range s.uploads.known {
		switch {
		case s.now().Sub(other.begun) > pushDuration && len(other.place) == 0:
			delete(s.uploads.known, key) // its lease has ended, and what it had goes with that
		case key.namespace == namespace:
			others++
		}
	}
	if others >= maxUploads {
		return nil, distribution.Explain(distribution.ErrTooMany, "%d uploads of this namespace are under way: end some, or try again later", others)
	}
	s.uploads.known[u.key] = u
	return u, nil
}

// ResumeUpload implements distribution.Backend.
func (s *Store) ResumeUpload(ctx context.Context, repo distribution.Repository, id string) (distribution.Upload, error) {
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	namespace, err := s.namespaceID(ctx, repo.Namespace)
	if err != nil {
		return nil, err
	}
	key := uploadKey{namespace, uploadRef(repo, id)}
	u := s.knownUpload(key)
	if u == nil { // of this process; another may have left it
		status, err := s.content.Status(inside, key.ref)
		switch {
		case errdefs.IsNotFound(err):
			return nil, distribution.ErrUploadUnknown
		case err != nil:
			return nil, err
		}
		u = s.adoptUpload(&upload{
			store: s, repo: repo, key: key, place: make(chan struct{}, 1),
			algorithm: digest.Canonical, size: status.Offset, begun: status.StartedAt,
		})
	}
	select {
	case u.place <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.knownUpload(key) != u { // it ended while it was waited for
		<-u.place
		return nil, distribution.ErrUploadUnknown
	}
	if u.idle != nil {
		u.idle.Stop()
	}
	return u, nil
}

func (s *Store) knownUpload(key uploadKey) *upload {
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	return s.uploads.known[key]
}

// adoptUpload makes an upload known, unless somebody else did.
func (s *Store) adoptUpload(u *upload) *upload {
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	if other := s.uploads.known[u.key]; other != nil {
		return other
	}
	s.uploads.known[u.key] = u
	return u
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
	if err := u.store.checkSpace(max(size, 0)); err != nil {
		return err
	}
	w, err := u.open(ctx)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(w, &spaceReader{Reader: r, store: u.store}, make([]byte, copyBufferSize))
	if status, statusErr := w.Status(); statusErr == nil {
		u.size = status.Offset
	}
	if err != nil {
		// What a write that failed has left the file knows alone.
		closeErr := u.close()
		if status, statusErr := u.status(ctx); statusErr == nil {
			u.size = status.Offset
		}
		return errors.Join(err, closeErr)
	}
	return nil
}

// open returns the writer, at the end of what is there.
func (u *upload) open(ctx context.Context) (content.Writer, error) {
	if u.writer != nil {
		return u.writer, nil
	}
	ctx, err := u.store.pushing(ctx, u.repo)
	if err != nil {
		return nil, err
	}
	w, err := u.store.content.Writer(openLater(expectAlgorithm(ctx, u.algorithm)), content.WithRef(u.key.ref))
	if err != nil {
		return nil, err
	}
	status, err := w.Status() // opens the file, and reads it
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if status.Offset < u.size { // it was lost, and is not what the client thinks it is
		return nil, errors.Join(fmt.Errorf("%d of %d bytes are there: %w", status.Offset, u.size, distribution.ErrUploadUnknown), w.Close())
	}
	u.writer, u.size = w, status.Offset
	return w, nil
}

func (u *upload) status(ctx context.Context) (content.Status, error) {
	ctx, err := u.store.namespaced(ctx, u.repo)
	if err != nil {
		return content.Status{}, err
	}
	return u.store.content.Status(ctx, u.key.ref)
}

// Commit implements distribution.Upload.
func (u *upload) Commit(ctx context.Context, r io.Reader, size int64, dgst digest.Digest) error {
	if u.size == 0 {
		u.algorithm = dgst.Algorithm() // now that it is known
	}
	if err := u.append(ctx, r, size); err != nil {
		return storeError(err)
	}
	if err := u.commit(ctx, dgst); err != nil {
		return storeError(err)
	}
	return nil
}

func (u *upload) commit(ctx context.Context, dgst digest.Digest) error {
	if u.algorithm != dgst.Algorithm() {
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
	ctx, err = u.store.pushing(ctx, u.repo)
	if err != nil {
		return err
	}
	labels := map[string]string{repositoryLabel(u.repo.Name): "true"}
	u.writer = nil
	if err := w.Commit(ctx, u.size, dgst, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return errors.Join(err, w.Close())
	}
	u.forget()
	// What was there already keeps its labels, and gets these.
	return u.store.label(ctx, dgst, labels)
}

// Cancel implements distribution.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	u.forget()
	closeErr := u.close()
	inside, err := u.store.namespaced(ctx, u.repo)
	if err != nil {
		return errors.Join(closeErr, err)
	}
	if err := u.store.content.Abort(inside, u.key.ref); err != nil && !errdefs.IsNotFound(err) {
		return errors.Join(closeErr, err)
	}
	return closeErr
}

func (u *upload) forget() {
	u.store.uploads.mu.Lock()
	defer u.store.uploads.mu.Unlock()
	delete(u.store.uploads.known, u.key)
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

// Close implements distribution.Upload. The file stays open for a while.
func (u *upload) Close() error {
	if u.writer != nil {
		u.idle = time.AfterFunc(idleTimeout, func() {
			select {
			case u.place <- struct{}{}:
				_ = u.close() // what was written is there, or is missed by the next one who opens it
				<-u.place
			default: // somebody goes on
			}
		})
	}
	<-u.place
	return nil
}

// pushing returns ctx for calls to containerd whose content is kept for a while, until
// something of the repository holds it.
func (s *Store) pushing(ctx context.Context, repo distribution.Repository) (context.Context, error) {
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	namespace, err := s.namespaceID(ctx, repo.Namespace)
	if err != nil {
		return nil, err
	}
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	for key, lease := range s.uploads.leases {
		if s.now().Sub(lease.made) >= pushLeaseInterval {
			delete(s.uploads.leases, key)
		}
	}
	key := uploadKey{namespace: namespace, ref: repo.Name}
	lease, ok := s.uploads.leases[key]
	if !ok {
		made, err := s.leases.Create(inside, leases.WithID("push-"+rand.Text()), leases.WithExpiration(pushDuration+pushLeaseInterval))
		if err != nil {
			return nil, fmt.Errorf("leasing what is pushed to %s: %w", repo, err)
		}
		lease = pushLease{id: made.ID, made: s.now()}
		s.uploads.leases[key] = lease
	}
	return leases.WithLease(inside, lease.id), nil
}

// closeUploads closes the files of all uploads, which go on in the next process.
func (s *Store) closeUploads() error {
	s.uploads.mu.Lock()
	known := s.uploads.known
	s.uploads.known = map[uploadKey]*upload{}
	s.uploads.mu.Unlock()
	var errs []error
	for _, u := range known {
		select {
		case u.place <- struct{}{}:
			errs = append(errs, u.close())
		default: // a request that goes on fails by itself
		}
	}
	return errors.Join(errs...)
}

// storeError says in the terms of the endpoint what an error of the store means.
func storeError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", distribution.ErrNoSpace, err)
	}
	return err
}
