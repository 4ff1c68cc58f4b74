// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
)

const foreignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

// naming is a manifest that names as much as one may.
func naming(t *testing.T, n int, mediaType string, dgst func(int) digest.Digest) item {
	t.Helper()
	var layers []string
	for i := range maxManifestParts {
		layers = append(layers, fmt.Sprintf(`{"mediaType":%q,"digest":%q}`, mediaType, dgst(i)))
	}
	return newItem(ocispec.MediaTypeImageManifest, digest.SHA256, fmt.Appendf(nil, `{"n":%d,"layers":[%s]}`, n, strings.Join(layers, ",")))
}

// TestManifestsThatNameMuch: what they name is not in memory when others are deleted, or the bytes of the namespace are counted. It
// runs before those that run in parallel.
func TestManifestsThatNameMuch(t *testing.T) {
	s := openStore(t, t.TempDir())
	blob := layer("content")
	pushBlob(t, s, app, blob)
	for n := range 4 {
		putManifest(t, s, app, naming(t, n, foreignLayer, func(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }))
	}
	inside := namespaces.WithNamespace(t.Context(), "ns")
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{name: "counting bytes", do: func() error { _, err := s.bytes(inside); return err }},
		{name: "a deletion", do: func() error { return s.DeleteBlob(t.Context(), app, blob.desc.Digest) }},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := tt.do()
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; err != nil || used > 1<<20 {
			t.Errorf("%s: %v, and took %d bytes", tt.name, err, used)
		}
	}
}

// TestNamedAgainAndAgain: a manifest has one label for what it names, and one file is looked at.
func TestNamedAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("content")
	pushBlob(t, s, app, blob)
	manifest := naming(t, 0, blob.desc.MediaType, func(int) digest.Digest { return blob.desc.Digest })
	putManifest(t, s, app, manifest)
	info, err := s.content.Info(namespaces.WithNamespace(t.Context(), "ns"), manifest.desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		mediaTypeLabel: manifest.desc.MediaType, repositoryLabel(app.Name): "true",
		referenceLabelPrefix + blob.desc.Digest.String(): blob.desc.Digest.String(),
	}
	if diff := cmp.Diff(want, info.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

// TestStoredByEarlierVersions: the labels of manifests ended in numbers.
func TestStoredByEarlierVersions(t *testing.T) {
	t.Parallel()
	blob := layer("content")
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   error // of the deletion of the blob
		kept   bool  // by the collector
	}{
		{name: "the config", labels: map[string]string{referenceLabelPrefix + "0": blob.desc.Digest.String()}, want: distribution.ErrInUse, kept: true},
		{name: "a layer", labels: map[string]string{referenceLabelPrefix + "0": "x", referenceLabelPrefix + "9999": blob.desc.Digest.String()}, want: distribution.ErrInUse, kept: true},
		{name: "a layer that is not for distribution", labels: map[string]string{optionalReferenceLabelPrefix + "12": blob.desc.Digest.String()}, want: distribution.ErrInUse, kept: true},
		{name: "a referrer", labels: map[string]string{referrerLabelPrefix + blob.desc.Digest.String(): blob.desc.Digest.String()}, kept: true},
		{name: "something else", labels: map[string]string{referenceLabelPrefix + "0": digest.FromString("x").String()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			pushBlob(t, s, app, blob)
			manifest := index(t)
			putManifest(t, s, app, manifest, "v1")
			inside := namespaces.WithNamespace(t.Context(), "ns")
			if err := s.label(inside, manifest.desc.Digest, tt.labels); err != nil {
				t.Fatal(err)
			}
			expireLeases(t, s)
			collect(t, s)
			if got := read(t, s, "ns", "app", blob) != ""; got != tt.kept {
				t.Errorf("kept: %t, want %t", got, tt.kept)
			}
			pushBlob(t, s, app, blob)
			if err := s.DeleteBlob(t.Context(), app, blob.desc.Digest); !errors.Is(err, tt.want) {
				t.Errorf("deleted: %v, want %v", err, tt.want)
			}
		})
	}
}
