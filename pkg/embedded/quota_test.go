// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/distribution"
)

// TestNamespaceBytes: a namespace has no more than it may, by whatever way it comes, and room again for what is collected.
func TestNamespaceBytes(t *testing.T) {
	t.Parallel()
	const limit = 1000
	dir, now := t.TempDir(), time.Now()
	open := func() *Store {
		s, err := OpenStore(t.Context(), StoreConfig{Dir: dir, NamespaceBytes: limit})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		s.now = func() time.Time { return now }
		return s
	}
	s := open()
	blob := func(c string, size int) item { return layer(strings.Repeat(c, size)) }
	large, small := blob("a", 600), blob("b", 400)
	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, distribution.ErrFull) || !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: got %v, want %v", what, err, distribution.ErrFull)
		}
	}
	pushBlob(t, s, app, large)
	// By its length, which may be beyond all measure, and while it comes.
	u := begin(t, s, app, digest.SHA256)
	full("by its length", u.Append(t.Context(), strings.NewReader("x"), 401))
	full("by a length beyond all measure", s.quota.check(u.inside(t.Context()), math.MaxInt64))
	release(t, u)
	u = begin(t, s, app, digest.SHA256)
	full("while it comes", u.Append(t.Context(), io.MultiReader(bytes.NewReader(small.data), strings.NewReader("x")), -1))
	if u.Size() != 400 {
		t.Errorf("%d bytes came, want the 400 that had room", u.Size())
	}
	release(t, u)
	_, err := s.StartUpload(t.Context(), app, digest.SHA256)
	full("another upload", err)
	full("an import", s.Repository("ns", "third").Push(t.Context(), small.desc, bytes.NewReader(small.data)))
	full("a manifest", s.PutManifest(t.Context(), app, index(t).desc, index(t).data, nil))
	if err := s.Mount(t.Context(), other, app, large.desc.Digest); err != nil {
		t.Errorf("a mount, which takes no space: %v", err)
	}
	pushBlob(t, s, distribution.Repository{Namespace: "other", Name: "app"}, large)

	// What was given up has room again, as soon as it may be counted.
	if err := resume(t, s, app, u.ID()).Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(recountInterval)
	pushBlob(t, s, app, small)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	_, err = s.StartUpload(t.Context(), app, digest.SHA256)
	full("after a restart", err)
	for _, repo := range []distribution.Repository{app, other} {
		if err := s.DeleteBlob(t.Context(), repo, large.desc.Digest); err != nil {
			t.Fatal(err)
		}
	}
	collect(t, s)
	pushBlob(t, s, app, blob("c", 600))
}

// TestContentThatIsThereTakesNoSpace: what is sent again counts until it is counted, and then once.
func TestContentThatIsThereTakesNoSpace(t *testing.T) {
	t.Parallel()
	s, err := OpenStore(t.Context(), StoreConfig{Dir: t.TempDir(), NamespaceBytes: 25})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	now := time.Now()
	s.now = func() time.Time { return now }
	for range 10 {
		pushBlob(t, s, app, layer("0123456789"))
		now = now.Add(recountInterval)
	}
}
