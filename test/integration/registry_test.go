// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// content is an image, an index or an artifact.
type content interface {
	remote.Taggable
	Digest() (v1.Hash, error)
}

// TestMirrorHasEveryByte closes the source and compares what can be pulled then, of every platform, with what was there.
func TestMirrorHasEveryByte(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		make func(*testing.T) content
		want []string // platforms
	}{
		{"OCI index", func(t *testing.T) content { return newIndex(t, ociTypes) }, []string{"linux/amd64", "linux/arm64"}},
		{"docker manifest list", func(t *testing.T) content { return newIndex(t, dockerTypes) }, []string{"linux/amd64", "linux/arm64"}},
		{"index with uncompressed layers", func(t *testing.T) content { return newIndex(t, uncompressedTypes) }, []string{"linux/amd64", "linux/arm64"}},
		{"OCI image", func(t *testing.T) content { return newImage(t, ociTypes, "amd64") }, []string{"linux/amd64"}},
		{"docker image", func(t *testing.T) content { return newImage(t, dockerTypes, "arm64") }, []string{"linux/arm64"}},
		{"artifact", func(t *testing.T) content { return newArtifact(t, t.Name()) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			original := tt.make(t)
			out.Push(t, "team/app:latest", original)
			want := readAll(t, out.Name(t, "team/app:latest"), out.Options()...)
			dgst := digestOf(t, original)

			imp := s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("team/app:latest"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
			out.Close()

			entry := imp.Status.HashReference
			if diff := cmp.Diff(s.mirrored(namespace, "app", dgst), entry.ImageReference); diff != "" {
				t.Errorf("imageReference (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(out.Reference("team/app@"+dgst), entry.SourceReference); diff != "" {
				t.Errorf("sourceReference (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, entry.Platforms); diff != "" {
				t.Errorf("platforms (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, s.pull(t, entry.ImageReference)); diff != "" {
				t.Errorf("pulled by digest (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, s.pull(t, s.registry+"/"+namespace+"/app:latest")); diff != "" {
				t.Errorf("pulled as latest (-want +got):\n%s", diff)
			}
		})
	}
}

// TestClientsSeeTheDigest asks the two clients that print the digest of a tag.
func TestClientsSeeTheDigest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, client string
		args         []string
	}{
		{"crane digest", "crane", []string{"digest"}},
		{"regctl image digest", "regctl", []string{"image", "digest"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require(t, tt.client)
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			index := newIndex(t, ociTypes)
			out.Push(t, "app", index)
			s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
			got := s.run(t, tt.client, append(tt.args, s.registry+"/"+namespace+"/app:latest")...)
			if diff := cmp.Diff(digestOf(t, index)+"\n", got); diff != "" {
				t.Errorf("digest (-want +got):\n%s", diff)
			}
		})
	}
}
