// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// newReferrer makes a signature of a subject.
func newReferrer(t *testing.T, name string, subject *ocispec.Descriptor) image {
	t.Helper()
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.signature",
		Config: describe(ocispec.MediaTypeEmptyJSON, []byte("{}")), Subject: subject,
	}
	m.SchemaVersion = 2
	content := []byte(name)
	m.Layers = []ocispec.Descriptor{describe("application/octet-stream", content)}
	raw := marshal(t, m)
	return image{manifest: describe(m.MediaType, raw), raw: raw, blobs: [][]byte{[]byte("{}"), content}}
}

func TestMirrorReferrers(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64", blob("layer", 100))
	index, indexRaw := newIndex(t, img.manifest)
	ofIndex, ofChild, other := newReferrer(t, "of the index", &index), newReferrer(t, "of the child", &img.manifest), newReferrer(t, "cosign", nil)
	stem := "sha256-" + index.Digest.Encoded()
	store := func(t *testing.T, registry http.Handler, images ...image) {
		put(t, registry, "app", img.manifest.Digest.String(), img.manifest.MediaType, img.raw, img.blobs...)
		put(t, registry, "app", "v1", index.MediaType, indexRaw)
		for _, i := range images {
			put(t, registry, "app", i.manifest.Digest.String(), i.manifest.MediaType, i.raw, i.blobs...)
		}
	}
	api := func(images ...image) func(*testing.T) http.Handler {
		return func(t *testing.T) http.Handler {
			h := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
			store(t, h, images...)
			return h
		}
	}
	answering := func(status int, below string) func(*testing.T) http.Handler {
		return func(t *testing.T) http.Handler {
			h := newRegistry()
			store(t, h)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, below) {
					http.Error(w, "SECRET", status)
					return
				}
				h.ServeHTTP(w, r)
			})
		}
	}
	tests := []struct {
		name     string
		registry func(*testing.T) http.Handler
		want     []image
		tags     map[string]digest.Digest
		fails    Kind
		requests int // of the second look, when all is there
	}{
		{name: "by the API, of the index and its images", registry: api(ofIndex, ofChild), want: []image{ofIndex, ofChild}, requests: 6},
		{name: "none", registry: api(), requests: 6},
		{name: "by tags where there is no API", registry: func(t *testing.T) http.Handler {
			h := newRegistry()
			store(t, h, ofIndex)
			listing, raw := newIndex(t, ofIndex.manifest)
			put(t, h, "app", stem, listing.MediaType, raw)
			return h
		}, want: []image{ofIndex}, requests: 6},
		{name: "cosign's tags", registry: func(t *testing.T) http.Handler {
			h := api()(t)
			put(t, h, "app", stem+".sig", other.manifest.MediaType, other.raw, other.blobs...)
			put(t, h, "app", stem+".sbom", other.manifest.MediaType, other.raw)
			return h
		}, want: []image{other}, tags: map[string]digest.Digest{stem + ".sig": other.manifest.Digest, stem + ".sbom": other.manifest.Digest}, requests: 6},
		{name: "listed falsely", registry: func(t *testing.T) http.Handler {
			h := newRegistry()
			store(t, h, ofChild, ofIndex, other)
			gone := ofIndex.manifest
			gone.Digest = digest.Digest(sha256Zeros)
			long := ofIndex.manifest
			long.Size++
			_, raw := newIndex(t, gone, long, other.manifest, ofChild.manifest, describe(ocispec.MediaTypeImageLayer, []byte("x")))
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/manifests/"+stem) {
					w.Write(raw)
					return
				}
				h.ServeHTTP(w, r)
			})
		}, requests: 10},
		{name: "an API that answers something else", registry: func(t *testing.T) http.Handler {
			h := newRegistry()
			store(t, h)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/referrers/") {
					io.WriteString(w, "<h1>welcome")
					return
				}
				h.ServeHTTP(w, r)
			})
		}, requests: 6},
		{name: "access to the API is refused", registry: answering(http.StatusForbidden, "/referrers/"), requests: 6},
		{name: "the API fails", registry: answering(http.StatusInternalServerError, "/referrers/"), fails: Unavailable},
		{name: "the API limits", registry: answering(http.StatusTooManyRequests, "/referrers/"), fails: RateLimited},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, tt.registry(t))
			i, src, dst := newImporter(t), source(up.reference(t, "app:v1")), newMemory()
			res := &Resolved{Digest: index.Digest, MediaType: index.MediaType, Manifest: indexRaw}
			tags, err := i.MirrorReferrers(t.Context(), src, res, dst)
			if tt.fails != "" {
				wantFailure(t, err, src.Reference, tt.fails, "")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.tags == nil {
				tt.tags = map[string]digest.Digest{}
			}
			if diff := cmp.Diff(tt.tags, tags); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			want := map[digest.Digest][]byte{}
			for _, i := range tt.want {
				want[i.manifest.Digest] = i.raw
				for _, b := range i.blobs {
					want[digest.FromBytes(b)] = b
				}
			}
			if !maps.EqualFunc(want, dst.content, slices.Equal) {
				t.Errorf("copied %v, want %v", slices.Collect(maps.Keys(dst.content)), slices.Collect(maps.Keys(want)))
			}
			up.requests()
			again, err := i.MirrorReferrers(t.Context(), src, &Resolved{Digest: index.Digest, Unchanged: true}, dst)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.tags, again); diff != "" {
				t.Errorf("tags of the second look (-want +got):\n%s", diff)
			}
			if seen := up.requests(); len(seen) != tt.requests {
				t.Errorf("%d requests for the second look, want %d: %v", len(seen), tt.requests, seen)
			}
		})
	}
}

// TestManyReferrers: no registry can have more copied than is sensible.
func TestManyReferrers(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	referrer := func(n string) image { return newReferrer(t, n, &img.manifest) }
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		switch {
		case strings.Contains(r.URL.Path, "/referrers/"):
			index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
			index.SchemaVersion = 2
			for n := range maxReferrers + 10 {
				d := referrer(strings.Repeat("x", n)).manifest
				d.Data = referrer(strings.Repeat("x", n)).raw
				index.Manifests = append(index.Manifests, d)
			}
			json.NewEncoder(w).Encode(index)
		case strings.Contains(r.URL.Path, "/blobs/"):
			if strings.HasSuffix(r.URL.Path, digest.FromString("{}").Encoded()) {
				io.WriteString(w, "{}")
				return
			}
			for n := range maxReferrers + 10 {
				content := bytes.Repeat([]byte("x"), n)
				if strings.HasSuffix(r.URL.Path, digest.FromBytes(content).Encoded()) {
					w.Write(content)
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	dst := newMemory()
	res := &Resolved{Digest: img.manifest.Digest, MediaType: img.manifest.MediaType, Manifest: img.raw}
	if _, err := newImporter(t).MirrorReferrers(t.Context(), source(up.reference(t, "app:v1")), res, dst); err != nil {
		t.Fatal(err)
	}
	copied := 0
	for n := range maxReferrers + 10 {
		if dst.content[referrer(strings.Repeat("x", n)).manifest.Digest] != nil {
			copied++
		}
	}
	if copied != maxReferrers {
		t.Errorf("%d referrers were copied, want %d", copied, maxReferrers)
	}
}
