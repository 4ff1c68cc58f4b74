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
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	clocktesting "k8s.io/utils/clock/testing"
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
		left     int
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
		{name: "one that is not whole, beside one that is", left: 1, registry: func(t *testing.T) http.Handler {
			h := api(ofIndex)(t)
			gone := describe(ocispec.MediaTypeImageManifest, []byte("gone"))
			broken := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{gone}, Subject: &index}
			broken.SchemaVersion = 2
			raw := marshal(t, broken)
			_, listing := newIndex(t, ofIndex.manifest, describe(broken.MediaType, raw))
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/referrers/"+index.Digest.String()):
					w.Write(listing)
				case strings.HasSuffix(r.URL.Path, "/manifests/"+digest.FromBytes(raw).String()):
					w.Header().Set("Content-Type", broken.MediaType)
					w.Write(raw)
				default:
					h.ServeHTTP(w, r)
				}
			})
		}, want: []image{ofIndex}, requests: 8},
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
			got, err := i.MirrorReferrers(t.Context(), src, res, dst)
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
			if diff := cmp.Diff(&Referrers{Tags: tt.tags, LeftOut: tt.left}, got); diff != "" {
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
			if diff := cmp.Diff(&Referrers{Tags: tt.tags, LeftOut: tt.left}, again); diff != "" {
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
	manifests := map[string][]byte{}
	for n := range maxReferrers + 10 {
		i := referrer(strings.Repeat("x", n))
		manifests[i.manifest.Digest.String()] = i.raw
	}
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		switch {
		case strings.Contains(r.URL.Path, "/referrers/"):
			index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
			index.SchemaVersion = 2
			for n := range maxReferrers + 10 {
				index.Manifests = append(index.Manifests, referrer(strings.Repeat("x", n)).manifest)
			}
			json.NewEncoder(w).Encode(index)
		case manifests[path.Base(r.URL.Path)] != nil:
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Write(manifests[path.Base(r.URL.Path)])
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

// TestReferrersWithinBounds has a registry list more, or larger things, than there is room for.
func TestReferrersWithinBounds(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	large := make([]image, 12) // of 4 KiB and more each, with a blob as large
	for n := range large {
		m := ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeEmptyJSON, []byte("{}")), Subject: &img.manifest,
		}
		m.SchemaVersion = 2
		content := bytes.Repeat([]byte{byte(n)}, 4000)
		m.Layers = []ocispec.Descriptor{describe("application/octet-stream", content)}
		m.Layers[0].Annotations = map[string]string{"long": strings.Repeat("x", 4000)}
		raw := marshal(t, m)
		large[n] = image{manifest: describe(m.MediaType, raw), raw: raw, blobs: [][]byte{[]byte("{}"), content}}
	}
	api := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	for _, i := range large {
		put(t, api, "app", i.manifest.Digest.String(), i.manifest.MediaType, i.raw, i.blobs...)
	}
	tests := []struct {
		name    string
		handler http.Handler
		change  func(*Options)
		want    int
		fails   Kind
	}{
		{name: "all", handler: api, change: func(*Options) {}, want: len(large)},
		{name: "more manifests than there is memory for", handler: api, want: manifestShare, change: func(o *Options) {
			o.MaxManifestBytes = large[0].manifest.Size
		}},
		{name: "more bytes than may be mirrored", handler: api, change: func(o *Options) { o.MaxImageBytes = 16000 }, fails: Blocked},
		{name: "a list of more than a manifest may list", handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/referrers/") {
				io.WriteString(w, `{"manifests":[{}`+strings.Repeat(",{}", maxDescriptors)+"]}")
				return
			}
			http.NotFound(w, r)
		}), change: func(*Options) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up, dst := serve(t, tt.handler), newMemory()
			src := source(up.reference(t, "app:v1"))
			res := &Resolved{Digest: img.manifest.Digest, MediaType: img.manifest.MediaType, Manifest: img.raw}
			_, err := newImporter(t, tt.change).MirrorReferrers(t.Context(), src, res, dst)
			if tt.fails != "" {
				wantFailure(t, err, src.Reference, tt.fails, "it has ")
			} else if err != nil {
				t.Fatal(err)
			}
			copied := 0
			for _, i := range large {
				if dst.content[i.manifest.Digest] != nil {
					copied++
				}
			}
			if copied != tt.want {
				t.Errorf("%d were copied, want %d", copied, tt.want)
			}
		})
	}
}

// TestPagesOfReferrers follows the links of a list, for as long as it leads on, and to nowhere else.
func TestPagesOfReferrers(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	referrers := []image{newReferrer(t, "0", &img.manifest), newReferrer(t, "1", &img.manifest), newReferrer(t, "2", &img.manifest)}
	tests := []struct {
		name  string
		links []string // of each page
		want  int
		asked int
	}{
		{name: "one page", want: 1, asked: 1},
		{name: "three pages", links: []string{`</v2/app/referrers/x?last=1&n=1>; rel="next"`, `<?last=2>;rel=next`}, want: 3, asked: 3},
		{name: "elsewhere", links: []string{`<https://127.0.0.1:1/elsewhere?last=1>; rel="next"`}, want: 2, asked: 2},
		{name: "other links", links: []string{`</v2/app/referrers/x?last=1>; rel="prev"`}, want: 1, asked: 1},
		{name: "several links", links: []string{`</first>; rel="first", <?last=1>; title="a, b; c"; rel="last next"`}, want: 2, asked: 2},
		{name: "no link", links: []string{`next`}, want: 1, asked: 1},
		{name: "round and round", links: []string{`<?last=1>;rel=next`, `<?last=1>;rel=next`}, want: 2, asked: maxPages},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newRegistry()
			for _, i := range referrers {
				put(t, h, "app", i.manifest.Digest.String(), i.manifest.MediaType, i.raw, i.blobs...)
			}
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/referrers/") {
					h.ServeHTTP(w, r)
					return
				}
				page, _ := strconv.Atoi(r.URL.Query().Get("last"))
				if page < len(tt.links) {
					w.Header().Set("Link", tt.links[page])
				}
				_, raw := newIndex(t, referrers[page].manifest)
				w.Write(raw)
			}))
			dst := newMemory()
			res := &Resolved{Digest: img.manifest.Digest, MediaType: img.manifest.MediaType, Manifest: img.raw}
			if _, err := newImporter(t).MirrorReferrers(t.Context(), source(up.reference(t, "app:v1")), res, dst); err != nil {
				t.Fatal(err)
			}
			copied := 0
			for _, i := range referrers {
				if dst.content[i.manifest.Digest] != nil {
					copied++
				}
			}
			if asked := up.count("/referrers/"); copied != tt.want || asked != tt.asked {
				t.Errorf("%d were copied from %d pages, want %d from %d", copied, asked, tt.want, tt.asked)
			}
		})
	}
}

// TestWithoutReferrersAPI: that one repository says so is believed of it alone, and not for ever.
func TestWithoutReferrersAPI(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	clock := clocktesting.NewFakePassiveClock(time.Now())
	up := serve(t, http.NotFoundHandler())
	i := newImporter(t, func(o *Options) { o.Clock = clock })
	look := func(name string, want int) {
		t.Helper()
		res := &Resolved{Digest: img.manifest.Digest, MediaType: img.manifest.MediaType, Manifest: img.raw}
		if _, err := i.MirrorReferrers(t.Context(), source(up.reference(t, name)), res, newMemory()); err != nil {
			t.Fatal(err)
		}
		if asked := up.count("/referrers/"); asked != want {
			t.Errorf("%s: asked the API %d times, want %d", name, asked, want)
		}
	}
	look("app:v1", 1)
	look("app:v2", 0)
	look("other:v1", 1)
	clock.SetTime(clock.Now().Add(noReferrersFor + time.Second))
	look("app:v1", 1)
}

func TestSchemeTag(t *testing.T) {
	t.Parallel()
	for algorithm, want := range map[digest.Algorithm]int{digest.SHA256: len("sha256-") + 64, digest.SHA512: len("sha512-") + 64} {
		if got := ReferrersTag(algorithm.FromString("x")); len(got) != want {
			t.Errorf("%s has %d characters, want %d", got, len(got), want)
		}
	}
}

// TestReferrersAreBounded lists referrers whose descriptors fill page after page.
func TestReferrersAreBounded(t *testing.T) {
	t.Parallel()
	padding := strings.Repeat("x", 1000)
	listing := ocispec.Index{Manifests: []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(sha256Zeros), Size: 10, Data: []byte(padding), ArtifactType: padding,
		URLs: []string{padding, padding}, Annotations: map[string]string{"a": padding}, Platform: &ocispec.Platform{OS: padding},
	}}}
	want := []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(sha256Zeros), Size: 10}}
	if diff := cmp.Diff(want, listed(marshal(t, listing))); diff != "" {
		t.Errorf("what is kept of a list (-want +got):\n%s", diff)
	}
}
