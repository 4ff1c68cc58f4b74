// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/distribution"
)

// expireLeases has all leases end, as time does.
func expireLeases(t *testing.T, s *Store) {
	t.Helper()
	for _, namespace := range storedNamespaces(t, s) {
		ctx := namespaces.WithNamespace(t.Context(), namespace)
		held, err := s.leases.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, lease := range held {
			if err := s.leases.Delete(ctx, lease); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.pushLeases.forget()
}

// blobs returns the files of content.
func blobs(t *testing.T, s *Store) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "content", "blobs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDeleteFails(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "deleted")
	pushAll(t, s, app, items, "v1", "v2")
	pushAll(t, s, other, items, "v1")
	blob, config, amd := items[0].desc.Digest, items[1].desc.Digest, items[4].desc.Digest
	absent := digest.FromString("absent")
	third := distribution.Repository{Namespace: "ns", Name: "third"}
	byDigest := func(do func(context.Context, distribution.Repository, digest.Digest) error, repo distribution.Repository, dgst digest.Digest) func() error {
		return func() error { return do(t.Context(), repo, dgst) }
	}
	for _, tt := range []struct {
		name string
		do   func() error
		want error
	}{
		{name: "a layer in use", do: byDigest(s.DeleteBlob, app, blob), want: distribution.ErrInUse},
		{name: "a config in use", do: byDigest(s.DeleteBlob, app, config), want: distribution.ErrInUse},
		{name: "an image of an index", do: byDigest(s.DeleteManifest, app, amd), want: distribution.ErrInUse},
		{name: "a manifest as a blob", do: byDigest(s.DeleteBlob, app, root.desc.Digest), want: distribution.ErrInUse},
		{name: "a blob as a manifest", do: byDigest(s.DeleteManifest, app, blob), want: distribution.ErrManifestUnknown},
		{name: "a blob that is not there", do: byDigest(s.DeleteBlob, app, absent), want: distribution.ErrBlobUnknown},
		{name: "a manifest that is not there", do: byDigest(s.DeleteManifest, app, absent), want: distribution.ErrManifestUnknown},
		{name: "a blob of another repository", do: byDigest(s.DeleteBlob, third, blob), want: distribution.ErrBlobUnknown},
		{name: "a manifest of another repository", do: byDigest(s.DeleteManifest, third, root.desc.Digest), want: distribution.ErrManifestUnknown},
		{name: "a tag that is not there", do: func() error { return s.DeleteTag(t.Context(), app, "v3") }, want: distribution.ErrManifestUnknown},
		{name: "a tag of another repository", do: func() error { return s.DeleteTag(t.Context(), other, "v2") }, want: distribution.ErrManifestUnknown},
	} {
		if err := tt.do(); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "app", items)); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}

// TestDelete deletes an image from the root to the leaves, while another repository has it too.
func TestDelete(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "deleted")
	for _, repo := range []distribution.Repository{app, other} {
		pushAll(t, s, repo, items, "v1", "v2")
	}
	config, signature := referring(t, "signature", root.desc)
	pushBlob(t, s, app, config)
	putManifest(t, s, app, signature)
	if err := s.DeleteTag(t.Context(), app, "v2"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), app, "v2"); !errors.Is(err, distribution.ErrManifestUnknown) {
		t.Errorf("the tag: got %v, want it gone", err)
	}
	// What refers to an image does not keep it; what is deleted refers no more.
	if err := s.DeleteManifest(t.Context(), app, signature.desc.Digest); err != nil {
		t.Fatal(err)
	}
	if got := referrersOf(t, s, app, root.desc.Digest); len(got) > 0 {
		t.Errorf("referrers: got %v, want none", got)
	}
	for n := len(items) - 1; n >= 0; n-- {
		i := items[n]
		remove := s.DeleteBlob
		if isManifest(i.desc.MediaType) {
			remove = s.DeleteManifest
		}
		if err := remove(t.Context(), app, i.desc.Digest); err != nil {
			t.Fatalf("%s: %v", i.desc.MediaType, err)
		}
		if read(t, s, "ns", "app", i) != "" {
			t.Errorf("%s is there after it was deleted", i.desc.MediaType)
		}
	}
	if tags, err := s.Tags(t.Context(), app); !errors.Is(err, distribution.ErrNameUnknown) {
		t.Errorf("tags: got %v, %v, want none", tags, err)
	}
	collect(t, s)
	if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "other", items)); diff != "" {
		t.Errorf("in the other repository (-want +got):\n%s", diff)
	}
	// What is deleted may be pushed again.
	pushAll(t, s, app, items, "v1")
	if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "app", items)); diff != "" {
		t.Errorf("pushed again (-want +got):\n%s", diff)
	}
}

// TestDeletedSpaceIsFreed: at once what was deleted itself, and what it named once the lease of its push has ended.
func TestDeletedSpaceIsFreed(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "freed")
	pushAll(t, s, app, items, "v1")
	config, signature := referring(t, "signature", root.desc)
	pushBlob(t, s, app, config)
	putManifest(t, s, app, signature)
	if err := s.DeleteManifest(t.Context(), app, root.desc.Digest); err != nil {
		t.Fatal(err)
	}
	collect(t, s)
	if got := len(blobs(t, s)); got != len(items)+1 {
		t.Errorf("%d files, want all but that of the index", got)
	}
	expireLeases(t, s)
	collect(t, s)
	if got := blobs(t, s); len(got) > 0 {
		t.Errorf("%v, want no file", got)
	}
}
