// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/distribution"
)

// TestUploadsOutliveTheProcess: they go on in the next one, however this one ended.
func TestUploadsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	blob, long := layer("0123456789"), newItem("", digest.SHA512, []byte("0123456789"))
	tests := []struct {
		name string
		next func(t *testing.T, s *Store) *Store
	}{
		{name: "closed", next: func(t *testing.T, s *Store) *Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openStore(t, s.dir)
		}},
		{name: "killed", next: func(t *testing.T, s *Store) *Store {
			dir := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
				t.Fatal(err)
			}
			return openStore(t, dir)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			first, second, empty := begin(t, s, app, digest.SHA256), begin(t, s, app, digest.SHA512), begin(t, s, app, digest.SHA512)
			cancelled := begin(t, s, app, digest.SHA256)
			add(t, first, "0123")
			release(t, second)
			add(t, resume(t, s, app, second.ID()), "01234")
			release(t, empty)
			release(t, cancelled)
			if again := resume(t, s, app, cancelled.ID()); true {
				if err := again.Cancel(t.Context()); err != nil {
					t.Fatal(err)
				}
				release(t, again)
			}
			held := begin(t, s, app, digest.SHA256) // somebody has it
			s = tt.next(t, s)
			collect(t, s)
			for _, after := range []struct {
				id    string
				size  int64
				whole item
			}{{first.ID(), 4, blob}, {second.ID(), 5, long}, {empty.ID(), 0, long}} {
				u := resume(t, s, app, after.id)
				if u.Size() != after.size {
					t.Errorf("%d bytes, want %d", u.Size(), after.size)
				}
				if err := finish(t, u, "0123456789"[after.size:], after.whole.desc.Digest); err != nil {
					t.Fatal(err)
				}
				wantRead(t, s, after.whole)
			}
			wantGone(t, s, held.ID()) // nobody knows of it yet
			wantGone(t, s, cancelled.ID())
			if left := notes(t, s); len(left) > 0 {
				t.Errorf("notes are left: %v", left)
			}
		})
	}
}

// notes returns the files of uploads of which nothing came.
func notes(t *testing.T, s *Store) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "uploads", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestNotesOfUploads: whatever is there in their place, the store opens, and has what they say and nothing else.
func TestNotesOfUploads(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(path string) error
		after  time.Duration // how old it is
		want   bool
	}{
		{name: "as it was", damage: func(string) error { return nil }, want: true},
		{name: "old", damage: func(string) error { return nil }, after: emptyDuration + time.Minute},
		{name: "cut short", damage: func(path string) error { return os.Truncate(path, 20) }},
		{name: "empty", damage: func(path string) error { return os.Truncate(path, 0) }},
		{name: "another's", damage: func(path string) error { return os.Rename(path, path+"x") }},
		{name: "no upload's", damage: func(path string) error {
			return rewrite(path, []byte(`{"namespace":"ns","ref":"x","algorithm":"sha256"}`))
		}},
		{name: "of no algorithm", damage: func(path string) error {
			raw, err := os.ReadFile(path)
			return errors.Join(err, rewrite(path, []byte(strings.Replace(string(raw), "sha256", "md5", 1))))
		}},
		{name: "a folder", damage: func(path string) error {
			return errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o700))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			now := time.Now().Add(-tt.after)
			s.now = func() time.Time { return now }
			u := begin(t, s, app, digest.SHA256)
			release(t, u)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			names := notes(t, s)
			if len(names) != 1 {
				t.Fatal(names)
			}
			if err := tt.damage(names[0]); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, s.dir)
			if !tt.want {
				wantGone(t, s, u.ID())
				if left := notes(t, s); len(left) > 0 {
					t.Errorf("notes are left: %v", left)
				}
				return
			}
			s.now = func() time.Time { return time.Now().Add(emptyDuration + time.Minute) }
			collect(t, s)
			wantGone(t, s, u.ID())
			if left := notes(t, s); len(left) > 0 {
				t.Errorf("notes are left after its time: %v", left)
			}
		})
	}
}

// TestGarbledUploads: whatever a crash has left of an upload, the store opens, and what it offers to go on with is right.
func TestGarbledUploads(t *testing.T) {
	t.Parallel()
	file := func(name, data string) func(dir string) error {
		return func(dir string) error { return rewrite(filepath.Join(dir, name), []byte(data)) }
	}
	tests := []struct {
		name   string
		damage func(dir string) error
		want   int64 // how many bytes are there; -1 for no upload
	}{
		{name: "as it was", damage: func(string) error { return nil }, want: 4},
		{name: "data cut short", damage: file("data", "01"), want: 2},
		{name: "data gone", damage: func(dir string) error { return os.Remove(filepath.Join(dir, "data")) }, want: -1},
		{name: "reference cut short", damage: file("ref", "1/ns/upl"), want: -1},
		{name: "reference empty", damage: file("ref", ""), want: -1},
		{name: "reference of another", damage: file("ref", "7/ns/upload/app/x"), want: -1},
		{name: "time cut short", damage: file("startedat", "2022-"), want: -1},
		{name: "time empty", damage: file("updatedat", ""), want: -1},
		{name: "a file in its place", damage: func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, []byte("x"), 0o600))
		}, want: -1},
		{name: "nothing", damage: os.RemoveAll, want: -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := openStore(t, dir)
			u := begin(t, s, app, digest.SHA256)
			add(t, u, "0123")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			ingest, err := filepath.Glob(filepath.Join(dir, "content", "ingest", "*"))
			if err != nil || len(ingest) != 1 {
				t.Fatal(ingest, err)
			}
			if err := tt.damage(ingest[0]); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir)
			blob := layer("0123456789")
			if tt.want < 0 {
				wantGone(t, s, u.ID())
				if n := ingests(t, s); n != 0 {
					t.Errorf("%d unfinished writes are left", n)
				}
			} else {
				again := resume(t, s, app, u.ID())
				if again.Size() != tt.want {
					t.Errorf("%d bytes, want %d", again.Size(), tt.want)
				}
				if err := finish(t, again, "0123456789"[tt.want:], blob.desc.Digest); err != nil {
					t.Fatal(err)
				}
			}
			collect(t, s)
			pushBlob(t, s, app, blob)
			wantRead(t, s, blob)
		})
	}
}

// TestUploadsAreBounded: one namespace has so many, of which those that nobody goes on with end, and others are not hindered.
func TestUploadsAreBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	now := time.Now()
	s.now = func() time.Time { return now }
	full := func(when string) {
		t.Helper()
		if _, err := s.StartUpload(t.Context(), app, digest.SHA256); !errors.Is(err, distribution.ErrTooMany) {
			t.Errorf("%s: got %v, want %v", when, err, distribution.ErrTooMany)
		}
	}
	filled := begin(t, s, app, digest.SHA256)
	add(t, filled, "0123")
	for range maxUploads - 1 {
		release(t, begin(t, s, app, digest.SHA256))
	}
	full("at first")
	release(t, begin(t, s, distribution.Repository{Namespace: "other", Name: "app"}, digest.SHA256))

	if err := resume(t, s, app, filled.ID()).Close(); err != nil {
		t.Error(err)
	}
	now = now.Add(emptyDuration + time.Second) // those of which nothing came are no more
	for range maxUploads - 1 {
		release(t, begin(t, s, app, digest.SHA256))
	}
	full("after an hour")
	release(t, resume(t, s, app, filled.ID()))
	now = now.Add(s.pushDuration)
	collect(t, s)
	if n := len(s.uploads.known); n != 0 {
		t.Errorf("uploads of %d namespaces are known after a day", n)
	}
	wantGone(t, s, filled.ID())
}

// TestUploadsOfBeforeCount: a restart does not give a namespace as many uploads again.
func TestUploadsOfBeforeCount(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	for range 3 {
		add(t, begin(t, s, app, digest.SHA256), "0123")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.dir)
	if diff := cmp.Diff(3, len(s.uploads.known["ns"])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestUploadThatTookTooLong: its lease ended, what it had was collected, and its client is told.
func TestUploadThatTookTooLong(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{true, false} {
		t.Run(fmt.Sprintf("open=%v", open), func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			s.pushDuration = -2 * pushLeaseInterval // the lease, not the upload
			u := begin(t, s, app, digest.SHA256)
			add(t, u, "0123")
			s.pushDuration = defaultPushDuration
			u = resume(t, s, app, u.ID())
			if !open {
				if err := u.close(); err != nil {
					t.Fatal(err)
				}
			}
			collect(t, s)
			blob := layer("0123456789")
			if err := finish(t, u, "456789", blob.desc.Digest); !errors.Is(err, distribution.ErrUploadUnknown) {
				t.Errorf("got %v, want %v", err, distribution.ErrUploadUnknown)
			}
			wantGone(t, s, u.ID())
			pushBlob(t, s, app, blob)
			wantRead(t, s, blob)
		})
	}
}

// TestStoreClosesUnderUploads: who waits for an upload is let go, and who has one fails by itself.
func TestStoreClosesUnderUploads(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	u := begin(t, s, app, digest.SHA256)
	add(t, u, "0123")
	held := begin(t, s, app, digest.SHA256)
	waits := make(chan error)
	go func() {
		_, err := s.ResumeUpload(t.Context(), app, held.ID())
		waits <- err
	}()
	eventually(t, func() bool { return held.waiting.Load() == 1 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := held.Append(t.Context(), strings.NewReader("x"), 1); err == nil {
		t.Error("a closed store takes content")
	}
	release(t, held)
	if err := <-waits; !errors.Is(err, distribution.ErrUploadUnknown) {
		t.Errorf("who waited: got %v, want %v", err, distribution.ErrUploadUnknown)
	}
}

// TestUploadsNeedSpace: what would use up the reserve is refused, and nothing else is harmed.
func TestUploadsNeedSpace(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("0123456789")
	config := layer("{}")
	pushBlob(t, s, app, config)
	u := begin(t, s, app, digest.SHA256)
	add(t, u, "0123")
	s.space.reserve = 1 << 60
	if _, err := s.StartUpload(t.Context(), app, digest.SHA256); !errors.Is(err, distribution.ErrNoSpace) {
		t.Errorf("StartUpload: got %v, want %v", err, distribution.ErrNoSpace)
	}
	u = resume(t, s, app, u.ID())
	if err := u.Append(t.Context(), strings.NewReader("456"), 3); !errors.Is(err, distribution.ErrNoSpace) {
		t.Errorf("Append: got %v, want %v", err, distribution.ErrNoSpace)
	}
	if err := u.Commit(t.Context(), strings.NewReader("456789"), -1, blob.desc.Digest); !errors.Is(err, distribution.ErrNoSpace) {
		t.Errorf("Commit: got %v, want %v", err, distribution.ErrNoSpace)
	}
	release(t, u)
	manifest := image(t, config)
	if err := s.PutManifest(t.Context(), app, manifest.desc, manifest.data, []string{"v1"}); !errors.Is(err, distribution.ErrNoSpace) {
		t.Errorf("PutManifest: got %v, want %v", err, distribution.ErrNoSpace)
	}
	s.space.reserve = 0
	if err := finish(t, resume(t, s, app, u.ID()), "456789", blob.desc.Digest); err != nil {
		t.Fatal(err)
	}
	putManifest(t, s, app, manifest, "v1")
	wantRead(t, s, blob)
}
