// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestUnchangedTagCostsOneRequest imports the same mirrored tag many times.
func TestUnchangedTagCostsOneRequest(t *testing.T) {
	t.Parallel()
	times := 100
	if testing.Short() {
		times = 20
	}
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	index := newIndex(t, ociTypes)
	out.Push(t, "app", index)
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Mirror: true})
	s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
	first := s.image(t, namespace, "app").Status.HashReferences[0]
	out.Requests()

	for range times {
		s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonUnchanged)
	}
	if diff := cmp.Diff(map[string]int{"HEAD manifests": times}, out.Requests()); diff != "" {
		t.Errorf("requests at the source (-want +got):\n%s", diff)
	}
	entries := s.image(t, namespace, "app").Status.HashReferences
	if len(entries) != 1 {
		t.Fatalf("%d entries, want one", len(entries))
	}
	if !first.ResolvedAt.Before(&entries[0].ResolvedAt) {
		t.Errorf("resolvedAt is %s, want it later than %s", entries[0].ResolvedAt, first.ResolvedAt)
	}
}

// referrerTags is how many tags are looked up for what refers to an image, at a registry without the referrers API. The manifest
// is fetched anew for that where it was not for the import itself.
const referrerTags = 4

// TestChangeIsNoticed imports a mirrored tag again after something changed.
func TestChangeIsNoticed(t *testing.T) {
	t.Parallel()
	onLayer := func(change func(name string) error) func(*testing.T, *server, string, *lab.Source, v1.Image) v1.Image {
		return func(t *testing.T, s *server, _ string, _ *lab.Source, image v1.Image) v1.Image {
			t.Helper()
			layer := must(must(image.Layers())(t)[0].Digest())(t)
			if err := change(s.storedBlob(t, layer.Hex)); err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	tests := []struct {
		name   string
		mirror bool // from the beginning
		// change returns the image that the tag means afterwards.
		change func(t *testing.T, s *server, namespace string, out *lab.Source, image v1.Image) v1.Image
		// entries is how many the history has afterwards.
		entries int
		want    map[string]int // requests at the source
	}{
		{
			name: "the tag moved", mirror: true,
			change: func(t *testing.T, _ *server, _ string, out *lab.Source, _ v1.Image) v1.Image {
				t.Helper()
				moved := newImage(t, ociTypes, "amd64")
				out.Push(t, "app", moved)
				return moved
			},
			entries: 2,
			want:    map[string]int{"HEAD manifests": 1, "GET manifests": 1 + referrerTags, "GET blobs": layers + 1},
		},
		{
			name: "a blob is gone from the disk", mirror: true,
			change:  onLayer(os.Remove),
			entries: 1,
			want:    map[string]int{"HEAD manifests": 1, "GET manifests": 2 + referrerTags, "GET blobs": 1},
		},
		{
			name: "a blob lost its end", mirror: true,
			change:  onLayer(truncate),
			entries: 1,
			want:    map[string]int{"HEAD manifests": 1, "GET manifests": 2 + referrerTags, "GET blobs": 1},
		},
		{
			name: "the manifest is gone from the disk", mirror: true,
			change: func(t *testing.T, s *server, _ string, _ *lab.Source, image v1.Image) v1.Image {
				t.Helper()
				if err := os.Remove(s.storedBlob(t, must(image.Digest())(t).Hex)); err != nil {
					t.Fatal(err)
				}
				return image
			},
			entries: 1,
			want:    map[string]int{"HEAD manifests": 1, "GET manifests": 2 + referrerTags},
		},
		{
			name: "mirror is switched on",
			change: func(t *testing.T, s *server, namespace string, _ *lab.Source, image v1.Image) v1.Image {
				t.Helper()
				if _, err := s.api.TaggerV1beta1().Images(namespace).Patch(t.Context(), "app", types.MergePatchType,
					[]byte(`{"spec":{"mirror":true}}`), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
				return image
			},
			entries: 1,
			want:    map[string]int{"HEAD manifests": 1, "GET manifests": 2 + referrerTags, "GET referrers": 1, "GET blobs": layers + 1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, t.TempDir())
			namespace := newNamespace()
			out := lab.New(t, lab.TrustedTLS)
			image := newImage(t, ociTypes, "amd64")
			out.Push(t, "app", image)
			s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Mirror: tt.mirror})
			s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)

			image = tt.change(t, s, namespace, out, image)
			out.Requests()
			imp := s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
			if diff := cmp.Diff(tt.want, out.Requests()); diff != "" {
				t.Errorf("requests at the source (-want +got):\n%s", diff)
			}
			want := s.mirrored(namespace, "app", digestOf(t, image))
			if diff := cmp.Diff(want, imp.Status.HashReference.ImageReference); diff != "" {
				t.Errorf("imageReference (-want +got):\n%s", diff)
			}
			history := s.history(t, namespace, "app")
			if len(history) != tt.entries || history[0] != want {
				t.Errorf("history %q, want %d entries, %s the first", history, tt.entries, want)
			}
			if diff := cmp.Diff(readAll(t, out.Name(t, "app"), out.Options()...), s.pull(t, want)); diff != "" {
				t.Errorf("pulled (-want +got):\n%s", diff)
			}
			s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{Mirror: ptr.To(true)}, v1beta1.ReasonUnchanged)
		})
	}
}

// storedBlob finds the file of a blob in the data directory by the digest in its name.
func (s *server) storedBlob(t *testing.T, hex string) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(filepath.Join(s.dir, "store"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && strings.Contains(filepath.Base(path), hex) {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no file of %s in the store: %v", hex, err)
	}
	return found
}

func truncate(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if err := os.Chmod(name, 0o600); err != nil { // blobs are read-only
		return err
	}
	return os.Truncate(name, info.Size()-1)
}
