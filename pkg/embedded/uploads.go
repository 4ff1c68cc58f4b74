// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// maxUploads bounds the uploads of a namespace.
	maxUploads = 1000
	// emptyDuration is how long an upload is kept of which nothing came: clients begin
	// some that they do not need after all.
	emptyDuration = time.Hour
	// maxIdle is how many files stay open for the next chunk, and maxIdleOfNamespace
	// how many of them are of one namespace.
	maxIdle, maxIdleOfNamespace = 256, 32
)

// uploads are those that are under way, by containerd's namespace and reference.
type uploads struct {
	// dir has a file for each of which nothing came yet.
	dir   string
	mu    sync.Mutex
	known map[string]map[string]*upload
	// idle counts the open files of those that nobody has at this moment.
	idle   map[string]int
	idlers int
}

func newUploads(dir string) *uploads {
	return &uploads{dir: dir, known: map[string]map[string]*upload{}, idle: map[string]int{}}
}

// add makes an upload known, unless the namespace has too many.
func (s *uploads) add(u *upload, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetEnded(u.key.namespace, now)
	if others := len(s.known[u.key.namespace]); others >= maxUploads {
		return distribution.Explain(distribution.ErrTooMany, "%d uploads of this namespace are under way: end some, or try again later", others)
	}
	s.put(u)
	return nil
}

func (s *uploads) put(u *upload) {
	if s.known[u.key.namespace] == nil {
		s.known[u.key.namespace] = map[string]*upload{}
	}
	s.known[u.key.namespace][u.key.ref] = u
}

func (s *uploads) get(key uploadKey) *upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key.namespace][key.ref]
}

func (s *uploads) remove(u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(u.key)
}

func (s *uploads) drop(key uploadKey) {
	s.unnote(key)
	delete(s.known[key.namespace], key.ref)
	if len(s.known[key.namespace]) == 0 {
		delete(s.known, key.namespace)
	}
}

// forgetAllEnded forgets what nobody can go on with.
func (s *uploads) forgetAllEnded(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for namespace := range s.known {
		s.forgetEnded(namespace, now)
	}
}

// forgetEnded forgets the uploads of a namespace that took too long. What they had goes
// with their leases.
func (s *uploads) forgetEnded(namespace string, now time.Time) {
	for _, u := range s.known[namespace] {
		if u.ended(now) {
			s.drop(u.key)
		}
	}
}

// ended reports whether an upload that nobody has at this moment took too long. Its file
// may still be open for the next chunk, for a while.
func (u *upload) ended(now time.Time) bool {
	age := now.Sub(u.begun)
	return len(u.place) == 0 && (age > u.store.pushDuration || age > emptyDuration && !u.filled.Load())
}

// joinIdle reports whether the file of an upload may stay open for the next chunk.
func (s *uploads) joinIdle(u *upload) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idlers >= maxIdle || s.idle[u.key.namespace] >= maxIdleOfNamespace {
		return false
	}
	s.idlers++
	s.idle[u.key.namespace]++
	u.counted = true
	return true
}

// leaveIdle is called by who has the upload, or closes its file.
func (s *uploads) leaveIdle(u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !u.counted {
		return
	}
	u.counted = false
	s.idlers--
	if s.idle[u.key.namespace]--; s.idle[u.key.namespace] == 0 {
		delete(s.idle, u.key.namespace)
	}
}

// close closes the files of all uploads, which go on in the next process.
func (s *uploads) close() error {
	s.mu.Lock()
	known := s.known
	s.known = map[string]map[string]*upload{}
	s.mu.Unlock()
	var errs []error
	for _, of := range known {
		for _, u := range of {
			select {
			case u.place <- struct{}{}:
				errs = append(errs, u.close())
				<-u.place // who waits finds that it ended
			default: // a request that goes on fails by itself
			}
		}
	}
	return errors.Join(errs...)
}

// takeUp makes the uploads known that an earlier process has left.
func (s *Store) takeUp(ctx context.Context, left []uploadKey) {
	for _, key := range left {
		status, err := s.content.Status(namespaces.WithNamespace(ctx, key.namespace), key.ref)
		if err != nil { // of no use to anybody, and collected
			continue
		}
		u := &upload{
			store: s, key: key, place: make(chan struct{}, 1),
			algorithm: digest.Canonical, size: status.Offset, begun: status.StartedAt, stored: true,
		}
		u.filled.Store(status.Offset > 0)
		s.uploads.put(u)
	}
}

// begunNote is what a file says of an upload of which nothing came. It is not flushed to the disk: no more is lost with it than the
// client's first request.
type begunNote struct {
	Namespace string           `json:"namespace"`
	Ref       string           `json:"ref"`
	Algorithm digest.Algorithm `json:"algorithm"`
	Begun     time.Time        `json:"begun"`
}

func (s *uploads) notePath(key uploadKey) string {
	return filepath.Join(s.dir, digest.FromString(key.namespace+"/"+key.ref).Encoded())
}

// note has the next process know of an upload of which nothing came.
func (s *uploads) note(u *upload) error {
	if s.get(u.key) != u { // it ended
		return nil
	}
	raw, err := json.Marshal(begunNote{u.key.namespace, u.key.ref, u.algorithm, u.begun})
	if err != nil {
		return err
	}
	return os.WriteFile(s.notePath(u.key), raw, 0o600)
}

// unnote removes the note, if there is one.
func (s *uploads) unnote(key uploadKey) { _ = os.Remove(s.notePath(key)) }

// takeUpBegun makes the uploads known of which nothing came in an earlier process, and removes what does not say such a thing.
func (s *Store) takeUpBegun() error {
	entries, err := os.ReadDir(s.uploads.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(s.uploads.dir, entry.Name())
		var n begunNote
		raw, err := os.ReadFile(path)
		key := uploadKey{}
		if err == nil && json.Unmarshal(raw, &n) == nil && strings.HasPrefix(n.Ref, uploadRefPrefix) && n.Algorithm.Available() {
			key = uploadKey{n.Namespace, n.Ref}
		}
		u := &upload{store: s, key: key, place: make(chan struct{}, 1), algorithm: n.Algorithm, begun: n.Begun, stored: true}
		if s.uploads.notePath(key) != path || u.ended(s.now()) || s.uploads.get(key) != nil {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		s.uploads.put(u)
	}
	return nil
}

// pushLeases are the leases that hold what is pushed, by namespace and repository.
type pushLeases struct {
	store *Store
	mu    sync.Mutex
	of    map[[2]string]pushLease
}

// forget has the next push make a new lease.
func (l *pushLeases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.of)
}

// pushLease holds what was pushed to a repository since it was made.
type pushLease struct {
	id   string
	made time.Time
}

// storeError says in the terms of the endpoint what an error of the store means.
func storeError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", distribution.ErrNoSpace, err)
	}
	return err
}
