// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/distribution"
)

var app = distribution.Repository{Namespace: "ns", Name: "app"}

func begin(t *testing.T, s *Store, repo distribution.Repository, algorithm digest.Algorithm) *upload {
	t.Helper()
	u, err := s.StartUpload(t.Context(), repo, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return u.(*upload)
}

// resume takes an upload that was closed.
func resume(t *testing.T, s *Store, repo distribution.Repository, id string) *upload {
	t.Helper()
	u, err := s.ResumeUpload(t.Context(), repo, id)
	if err != nil {
		t.Fatal(err)
	}
	return u.(*upload)
}

// add appends to an upload and closes it.
func add(t *testing.T, u *upload, data string) {
	t.Helper()
	if err := u.Append(t.Context(), strings.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	release(t, u)
}

func release(t *testing.T, u *upload) {
	t.Helper()
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
}

// finish commits an upload with the rest of its content, and closes it.
func finish(t *testing.T, u *upload, rest string, dgst digest.Digest) error {
	t.Helper()
	defer release(t, u)
	return u.Commit(t.Context(), strings.NewReader(rest), int64(len(rest)), dgst)
}

// pushBlob uploads a blob as a client of the endpoint does.
func pushBlob(t *testing.T, s *Store, repo distribution.Repository, items ...item) {
	t.Helper()
	for _, i := range items {
		if err := finish(t, begin(t, s, repo, i.desc.Digest.Algorithm()), string(i.data), i.desc.Digest); err != nil {
			t.Fatal(err)
		}
	}
}

// wantGone fails unless an upload is there no more.
func wantGone(t *testing.T, s *Store, id string) {
	t.Helper()
	if u, err := s.ResumeUpload(t.Context(), app, id); !errors.Is(err, distribution.ErrUploadUnknown) {
		t.Errorf("the upload: got %v, %v, want it gone", u, err)
	}
}

// wantRead fails unless a client can read a blob.
func wantRead(t *testing.T, s *Store, i item) {
	t.Helper()
	if got := read(t, s, app.Namespace, app.Name, i); got != string(i.data) {
		t.Errorf("%s: got %q, want %q", i.desc.Digest, got, i.data)
	}
}

// ingests returns how many unfinished writes have files.
func ingests(t *testing.T, s *Store) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "content", "ingest"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return len(entries)
}

func TestUploadPieces(t *testing.T) {
	t.Parallel()
	const sha256, sha512 = digest.SHA256, digest.SHA512
	tests := []struct {
		name   string
		began  digest.Algorithm
		pieces []string
		rest   string
		as     digest.Algorithm
	}{
		{name: "at once", began: sha256, rest: "0123456789", as: sha256},
		{name: "in pieces", began: sha256, pieces: []string{"0123", "", "456"}, rest: "789", as: sha256},
		{name: "all before the end", began: sha256, pieces: []string{"0123456789"}, as: sha256},
		{name: "at once, sha512", began: sha512, rest: "0123456789", as: sha512},
		{name: "in pieces, sha512", began: sha512, pieces: []string{"0123"}, rest: "456789", as: sha512},
		{name: "sha512 at the end", began: sha256, rest: "0123456789", as: sha512},
		{name: "sha512 after all", began: sha256, pieces: []string{"0123", "456"}, rest: "789", as: sha512},
		{name: "sha512 after an empty piece", began: sha256, pieces: []string{""}, rest: "0123456789", as: sha512},
		{name: "sha256 after all", began: sha512, pieces: []string{"0123"}, rest: "456789", as: sha256},
		{name: "nothing", began: sha256, as: sha256},
		{name: "nothing, in pieces, sha512", began: sha256, pieces: []string{"", ""}, as: sha512},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			whole := newItem("", tt.as, []byte(strings.Join(tt.pieces, "")+tt.rest))
			for _, again := range []string{"new", "there already"} {
				u := begin(t, s, app, tt.began)
				id, size := u.ID(), 0
				for _, piece := range tt.pieces {
					add(t, u, piece)
					u = resume(t, s, app, id)
					if size += len(piece); u.Size() != int64(size) || u.ID() != id {
						t.Errorf("%s: %d bytes as %s, want %d as %s", again, u.Size(), u.ID(), size, id)
					}
				}
				if err := finish(t, u, tt.rest, whole.desc.Digest); err != nil {
					t.Fatalf("%s: %v", again, err)
				}
				content, err := s.Blob(t.Context(), app, whole.desc.Digest)
				if err != nil {
					t.Fatal(err)
				}
				if got := content.Descriptor(); got.Size != whole.desc.Size {
					t.Errorf("%s: %d bytes, want %d", again, got.Size, whole.desc.Size)
				}
				_ = content.Close() // read nothing
				wantRead(t, s, whole)
				wantGone(t, s, id)
				if n := ingests(t, s); n != 0 {
					t.Errorf("%s: %d unfinished writes are left", again, n)
				}
			}
		})
	}
}

func TestUploadOfOtherContent(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("content")
	u := begin(t, s, app, digest.SHA256)
	if err := finish(t, u, "another", blob.desc.Digest); !errors.Is(err, distribution.ErrDigestInvalid) {
		t.Errorf("got %v, want %v", err, distribution.ErrDigestInvalid)
	}
	wantGone(t, s, u.ID())
	if n := ingests(t, s); n != 0 || read(t, s, "ns", "app", blob) != "" {
		t.Errorf("%d unfinished writes are left, or the blob is there", n)
	}
	pushBlob(t, s, app, blob)
	wantRead(t, s, blob)
}

// TestUploadsAreOfTheirRepository: nobody goes on with another's.
func TestUploadsAreOfTheirRepository(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	u := begin(t, s, app, digest.SHA256)
	add(t, u, "content")
	for _, repo := range []distribution.Repository{{Namespace: "ns", Name: "other"}, {Namespace: "other", Name: "app"}} {
		if _, err := s.ResumeUpload(t.Context(), repo, u.ID()); !errors.Is(err, distribution.ErrUploadUnknown) {
			t.Errorf("in %s: got %v, want %v", repo, err, distribution.ErrUploadUnknown)
		}
	}
	wantGone(t, s, "../app/"+u.ID())
	release(t, resume(t, s, app, u.ID()))
}

func TestCancelledUpload(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	for _, pieces := range [][]string{nil, {"0123"}, {"0123", "456"}} {
		u := begin(t, s, app, digest.SHA256)
		for _, piece := range pieces {
			add(t, u, piece)
			u = resume(t, s, app, u.ID())
		}
		if err := u.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		release(t, u)
		wantGone(t, s, u.ID())
	}
	if n := ingests(t, s); n != 0 {
		t.Errorf("%d unfinished writes are left", n)
	}
}

// TestTwoWriters: the second one waits, for as long as it likes, and finds what the first has left.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("0123456789")
	first := begin(t, s, app, digest.SHA256)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.ResumeUpload(ended, app, first.ID()); !errors.Is(err, context.Canceled) {
		t.Errorf("while the first has it: got %v, want %v", err, context.Canceled)
	}
	type outcome struct {
		size int64
		err  error
	}
	outcomes := make(chan outcome)
	for range maxWaiting {
		go func() {
			u, err := s.ResumeUpload(t.Context(), app, first.ID())
			if err != nil {
				outcomes <- outcome{err: err}
				return
			}
			size := u.Size()
			outcomes <- outcome{size, u.Close()}
		}()
	}
	eventually(t, func() bool { return first.waiting.Load() == maxWaiting })
	if _, err := s.ResumeUpload(t.Context(), app, first.ID()); !errors.Is(err, distribution.ErrTooMany) {
		t.Errorf("one too many: got %v, want %v", err, distribution.ErrTooMany)
	}
	add(t, first, "0123")
	for range maxWaiting {
		if got := <-outcomes; got.err != nil || got.size != 4 {
			t.Errorf("one that waited: %+v, want the 4 bytes that are there", got)
		}
	}
	// Who waits for an upload that is committed meanwhile finds none.
	last := resume(t, s, app, first.ID())
	go func() {
		_, err := s.ResumeUpload(t.Context(), app, first.ID())
		outcomes <- outcome{err: err}
	}()
	eventually(t, func() bool { return first.waiting.Load() == 1 })
	if err := finish(t, last, "456789", blob.desc.Digest); err != nil {
		t.Fatal(err)
	}
	if got := <-outcomes; !errors.Is(got.err, distribution.ErrUploadUnknown) {
		t.Errorf("after the commit: got %v, want %v", got.err, distribution.ErrUploadUnknown)
	}
	wantRead(t, s, blob)
}

// eventually fails unless something that happens at the side is so in the end.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatal("it did not happen")
		}
	}
}

func openFiles(s *Store) int {
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	return s.uploads.idlers
}

// TestIdleUploads: the file is closed after a while, or at once where too many are open, and the upload goes on.
func TestIdleUploads(t *testing.T) {
	t.Parallel()
	blob := layer("0123456789")
	tests := []struct {
		name    string
		timeout time.Duration
		uploads int
		open    int // files, after a while
	}{
		{name: "after a while", timeout: time.Nanosecond, uploads: 3},
		{name: "not yet", timeout: time.Hour, uploads: 3, open: 3},
		{name: "too many", timeout: time.Hour, uploads: maxIdleOfNamespace + 5, open: maxIdleOfNamespace},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			s.idleTimeout = tt.timeout
			var ids []string
			for range tt.uploads {
				u := begin(t, s, app, digest.SHA256)
				add(t, u, "0123")
				ids = append(ids, u.ID())
			}
			eventually(t, func() bool { return openFiles(s) == tt.open })
			for _, id := range ids {
				add(t, resume(t, s, app, id), "456")
				if err := finish(t, resume(t, s, app, id), "789", blob.desc.Digest); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, func() bool { return openFiles(s) == 0 })
			if len(s.uploads.idle) > 0 || len(s.uploads.known) > 0 {
				t.Errorf("counted afterwards: %v, %v", s.uploads.idle, s.uploads.known)
			}
			wantRead(t, s, blob)
		})
	}
}

// TestCutChunk: what came before a body broke off is there, without that the file is read again.
func TestCutChunk(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("0123456789")
	cut := errors.New("cut")
	u := begin(t, s, app, digest.SHA256)
	for _, piece := range []string{"0123", "", "456"} {
		if err := u.Append(t.Context(), io.MultiReader(strings.NewReader(piece), iotest.ErrReader(cut)), 10); !errors.Is(err, cut) {
			t.Errorf("got %v, want %v", err, cut)
		}
		if u.writer == nil {
			t.Error("the file was closed")
		}
		release(t, u)
		u = resume(t, s, app, u.ID())
	}
	if u.Size() != 7 {
		t.Errorf("%d bytes, want 7", u.Size())
	}
	// Also at the end, and then it is no blob yet.
	if err := u.Commit(t.Context(), io.MultiReader(strings.NewReader("8"), iotest.ErrReader(cut)), -1, blob.desc.Digest); !errors.Is(err, cut) {
		t.Errorf("got %v, want %v", err, cut)
	}
	release(t, u)
	if err := finish(t, resume(t, s, app, u.ID()), "9", digest.FromString("012345689")); err != nil {
		t.Fatal(err)
	}
}

// brokenWriter fails as a disk does: in the middle of a write, or with a commit.
type brokenWriter struct {
	content.Writer
	room     int
	noCommit error
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p[:min(len(p), w.room)])
	w.room -= n
	if err == nil && n < len(p) {
		err = errors.New("input/output error")
	}
	return n, err
}

func (w *brokenWriter) Commit(ctx context.Context, size int64, dgst digest.Digest, opts ...content.Opt) error {
	if w.noCommit != nil {
		return w.noCommit
	}
	return w.Writer.Commit(ctx, size, dgst, opts...)
}

// TestBrokenWrite: after a write that failed the upload has what is in its file.
func TestBrokenWrite(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("0123456789")
	u := begin(t, s, app, digest.SHA256)
	add(t, u, "01")
	u = resume(t, s, app, u.ID())
	u.writer = &brokenWriter{Writer: u.writer, room: 2}
	if err := u.Append(t.Context(), strings.NewReader("234"), 3); err == nil {
		t.Error("the write did not fail")
	}
	release(t, u)
	u = resume(t, s, app, u.ID())
	if u.Size() != 4 {
		t.Errorf("%d bytes, want 4", u.Size())
	}
	if err := finish(t, u, "456789", blob.desc.Digest); err != nil {
		t.Fatal(err)
	}
	wantRead(t, s, blob)
}

// TestBrokenCommit: the client may try again as long as what it sent is there, and is told when it is not.
func TestBrokenCommit(t *testing.T) {
	t.Parallel()
	broken := errors.New("input/output error")
	tests := []struct {
		name   string
		damage func(t *testing.T, s *Store, u *upload)
		want   error
		there  bool
	}{
		{name: "nothing was done", want: broken, there: true, damage: func(_ *testing.T, _ *Store, u *upload) {
			u.writer = &brokenWriter{Writer: u.writer, room: 10, noCommit: broken}
		}},
		{name: "collected", want: distribution.ErrUploadUnknown, damage: func(t *testing.T, s *Store, _ *upload) {
			if err := os.RemoveAll(filepath.Join(s.dir, "content", "ingest")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(s.dir, "content", "ingest"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			blob := layer("0123456789")
			u := begin(t, s, app, digest.SHA256)
			add(t, u, "0123")
			u = resume(t, s, app, u.ID())
			tt.damage(t, s, u)
			if err := finish(t, u, "456789", blob.desc.Digest); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if !tt.there {
				wantGone(t, s, u.ID())
				pushBlob(t, s, app, blob)
			} else if err := finish(t, resume(t, s, app, u.ID()), "", blob.desc.Digest); err != nil {
				t.Fatal(err)
			}
			wantRead(t, s, blob)
		})
	}
}

// TestUploadHealsDamage: a blob whose file was damaged is whole once it is pushed again.
func TestUploadHealsDamage(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("0123456789")
	pushBlob(t, s, app, blob)
	file := filepath.Join(s.dir, "content", "blobs", "sha256", blob.desc.Digest.Encoded())
	for _, damage := range []func() error{func() error { return rewrite(file, []byte("x")) }, func() error { return os.Remove(file) }} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Blob(t.Context(), app, blob.desc.Digest); !errors.Is(err, distribution.ErrBlobUnknown) {
			t.Errorf("damaged: got %v, want %v", err, distribution.ErrBlobUnknown)
		}
		pushBlob(t, s, app, blob)
		wantRead(t, s, blob)
	}
	if diff := cmp.Diff(0, ingests(t, s)); diff != "" {
		t.Errorf("unfinished writes (-want +got):\n%s", diff)
	}
}
