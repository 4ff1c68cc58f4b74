// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// published is an index of two images that share a layer, with an attestation,
// at app:v1 of a registry.
type published struct {
	http.Handler
	index   digest.Digest
	content map[digest.Digest][]byte
	size    int64 // of the distinct blobs
}

func publish(t *testing.T) published {
	t.Helper()
	p := published{Handler: newRegistry(), content: map[digest.Digest][]byte{}}
	shared := blob("shared", 3<<20)
	amd64, arm64 := newImage(t, "amd64", shared, blob("x", 1000)), newImage(t, "arm64", shared, blob("y", 10))
	attestation := newImage(t, "unknown", blob("z", 20))
	attestation.manifest.Platform.OS = "unknown"
	for _, i := range []image{amd64, arm64, attestation} {
		put(t, p, "app", i.manifest.Digest.String(), i.manifest.MediaType, i.raw, i.blobs...)
		for _, b := range i.blobs {
			if d := digest.FromBytes(b); p.content[d] == nil {
				p.content[d] = b
				p.size += int64(len(b))
			}
		}
		p.content[i.manifest.Digest] = i.raw
	}
	index, raw := newIndex(t, amd64.manifest, arm64.manifest, attestation.manifest)
	put(t, p, "app", "v1", index.MediaType, raw)
	p.index = index.Digest
	p.content[index.Digest] = raw
	return p
}

func TestMirror(t *testing.T) {
	t.Parallel()
	p := publish(t)
	up := serve(t, p)
	i := newImporter(t)
	src := source(up.reference(t, "app:v1"))
	res, err := i.Resolve(t.Context(), src, "")
	if err != nil {
		t.Fatal(err)
	}
	up.requests()
	dst := newMemory()
	var busy atomic.Bool
	var reports []Progress
	got, err := i.Mirror(t.Context(), src, res, dst, func(p Progress) {
		if !busy.CompareAndSwap(false, true) {
			t.Error("progress by two goroutines at once")
		}
		reports = append(reports, p)
		busy.Store(false)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &Mirrored{Size: p.size, Platforms: []string{"linux/amd64", "linux/arm64"}, MediaType: ocispec.MediaTypeImageIndex}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !maps.EqualFunc(p.content, dst.content, slices.Equal) {
		t.Error("the mirror has other content than the source")
	}
	if last := dst.pushed[len(dst.pushed)-1]; last != p.index {
		t.Errorf("the last that was pushed is %s, not the root", last)
	}
	// Three manifests and seven blobs; the index came with res.
	if seen := up.requests(); len(seen) != 10 || len(slices.Compact(slices.Sorted(slices.Values(seen)))) != 10 {
		t.Errorf("%d requests, want 10 distinct ones: %v", len(seen), seen)
	}
	first, last := reports[0], reports[len(reports)-1]
	if diff := cmp.Diff([]Progress{{0, 7, 0, p.size}, {7, 7, p.size, p.size}}, []Progress{first, last}); diff != "" {
		t.Errorf("first and last progress (-want +got):\n%s", diff)
	}
	for n, r := range reports[1:] {
		if r.Bytes < reports[n].Bytes || r.Blobs < reports[n].Blobs {
			t.Errorf("progress goes back: %+v after %+v", r, reports[n])
		}
	}

	t.Run("again", func(t *testing.T) {
		res, err := i.Resolve(t.Context(), src, res.Digest)
		if err != nil || !res.Unchanged {
			t.Fatal(res, err)
		}
		up.requests()
		dst.pushed = nil
		if _, err := i.Mirror(t.Context(), src, res, dst, nil); err != nil {
			t.Fatal(err)
		}
		if got := up.count("/blobs/"); got != 0 {
			t.Errorf("%d blobs were fetched again", got)
		}
	})
}

// TestMirrorImage: what a single image says of itself is read on the way.
func TestMirrorImage(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "arm64", blob("a", 100), blob("a", 100), blob("b", 50))
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	config := digest.FromBytes(img.blobs[0])
	tests := []struct {
		name     string
		linkable []digest.Digest
		want     []string
		blobs    int
	}{
		{name: "copied", want: []string{"linux/arm64"}, blobs: 3},
		{name: "linked from elsewhere", linkable: []digest.Digest{config}, blobs: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, registry)
			i := newImporter(t)
			src := source(up.reference(t, "app:v1"))
			dst := newMemory()
			dst.linkable = tt.linkable
			got, err := i.Mirror(t.Context(), src, &Resolved{Digest: img.manifest.Digest, Unchanged: true}, dst, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := &Mirrored{Size: int64(len(img.blobs[0])) + 150, Platforms: tt.want, MediaType: img.manifest.MediaType}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := up.count("/blobs/"); got != tt.blobs {
				t.Errorf("%d blobs fetched, want %d", got, tt.blobs)
			}
		})
	}
}

// TestMirrorOrder: no manifest arrives before all that it names, however the
// manifests lie below one another.
func TestMirrorOrder(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64", blob("a", 10))
	put(t, registry, "app", img.manifest.Digest.String(), img.manifest.MediaType, img.raw, img.blobs...)
	inner, innerRaw := newIndex(t, img.manifest)
	put(t, registry, "app", inner.Digest.String(), inner.MediaType, innerRaw)
	outer, outerRaw := newIndex(t, img.manifest, inner) // img lies at two depths
	dst := newMemory()
	up := serve(t, registry)
	res := &Resolved{Digest: outer.Digest, MediaType: outer.MediaType, Manifest: outerRaw}
	got, err := newImporter(t).Mirror(t.Context(), source(up.reference(t, "app:v1")), res, dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]digest.Digest{img.manifest.Digest, inner.Digest, outer.Digest}, dst.pushed[2:]); diff != "" {
		t.Errorf("order of the manifests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"linux/amd64"}, got.Platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

// TestMirrorSpecialBlobs: what need not be fetched is not, and what may not be
// copied neither.
func TestMirrorSpecialBlobs(t *testing.T) {
	t.Parallel()
	config, layer := []byte("{}"), blob("a", 10)
	inline := describe(ocispec.MediaTypeEmptyJSON, config)
	inline.Data = config
	wrong := describe(ocispec.MediaTypeImageLayer, layer)
	wrong.Data = blob("b", 10)
	foreign := describe(dockerForeign, blob("c", 10))
	foreign.URLs = []string{"https://192.0.2.1/layer"}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: inline, Layers: []ocispec.Descriptor{wrong, foreign}}
	m.SchemaVersion = 2
	raw := marshal(t, m)
	registry := newRegistry()
	put(t, registry, "app", "v1", m.MediaType, raw, layer)
	up := serve(t, registry)
	dst := newMemory()
	got, err := newImporter(t).Mirror(t.Context(), source(up.reference(t, "app:v1")), &Resolved{Digest: digest.FromBytes(raw)}, dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Mirrored{Size: 12, MediaType: m.MediaType}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := map[digest.Digest][]byte{inline.Digest: config, wrong.Digest: layer, digest.FromBytes(raw): raw}
	if diff := cmp.Diff(want, dst.content); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if got := up.count("/blobs/"); got != 1 {
		t.Errorf("%d blobs fetched, want 1", got)
	}
}

func TestMirrorFailures(t *testing.T) {
	t.Parallel()
	layer := blob("layer", 100<<10)
	img := newImage(t, "amd64", layer)
	index, indexRaw := newIndex(t, img.manifest)
	serveBlob := func(answer http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, digest.FromBytes(layer).String()):
				answer(w, r)
			case strings.Contains(r.URL.Path, "/blobs/"):
				w.Write(img.blobs[0])
			case strings.HasSuffix(r.URL.Path, img.manifest.Digest.String()):
				w.Header().Set("Content-Type", img.manifest.MediaType)
				w.Write(img.raw)
			default:
				w.Header().Set("Content-Type", index.MediaType)
				w.Write(indexRaw)
			}
		}
	}
	write := func(content []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.Write(content) }
	}
	fine := serveBlob(write(layer))
	lying := img.manifest
	lying.Size++
	lyingIndex, lyingRaw := newIndex(t, lying)
	other := img.manifest
	other.MediaType = dockerManifest
	otherIndex, otherRaw := newIndex(t, other)
	huge := img.manifest
	huge.Size = 5 << 20
	hugeIndex, hugeRaw := newIndex(t, huge)
	root := func(d ocispec.Descriptor, raw []byte) *Resolved {
		return &Resolved{Digest: d.Digest, MediaType: d.MediaType, Manifest: raw}
	}
	tests := []struct {
		name   string
		answer http.HandlerFunc
		res    *Resolved // default: the index
		change func(*Options)
		fail   error // of the destination
		want   Kind
		text   string
	}{
		{name: "blob is not there", answer: serveBlob(http.NotFound), want: NotFound, text: digest.FromBytes(layer).String()},
		{name: "child is not there", answer: http.NotFound, want: NotFound, text: img.manifest.Digest.String()},
		{name: "other content", answer: serveBlob(write(blob("other", len(layer)))), want: DigestMismatch, text: "sent other content"},
		{name: "too short", answer: serveBlob(write(layer[:50<<10])), want: Unavailable, text: "after 51200 of 102400 bytes"},
		{name: "cut", answer: serveBlob(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "102400")
			w.Write(layer[:50<<10])
		}), want: Unavailable, text: "after 51200 of 102400 bytes"},
		{name: "too long", answer: serveBlob(write(append(slices.Clone(layer), 'x'))), want: DigestMismatch, text: "more than its 102400 bytes"},
		{name: "fails", answer: serveBlob(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "SECRET", 500) }), want: Unavailable, text: "answered 500"},
		{name: "limits", answer: serveBlob(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "SECRET", 429) }), want: RateLimited},
		{name: "redirects to the metadata service", answer: serveBlob(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/SECRET", http.StatusTemporaryRedirect)
		}), want: Blocked, text: "link-local"},
		{name: "stops", answer: serveBlob(func(w http.ResponseWriter, r *http.Request) {
			w.Write(layer[:50<<10])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}), change: func(o *Options) { o.IdleTimeout = 50 * time.Millisecond }, want: Timeout, text: "sent nothing"},
		{name: "the index lies about a size", answer: fine, res: root(lyingIndex, lyingRaw), want: DigestMismatch, text: "where its index says"},
		{name: "the index lies about a media type", answer: fine, res: root(otherIndex, otherRaw), want: UnsupportedManifest, text: "another media type"},
		{name: "huge child", answer: fine, res: root(hugeIndex, hugeRaw), want: UnsupportedManifest, text: "larger"},
		{name: "too deep", answer: fine, change: func(o *Options) { o.MaxDepth = 1 }, want: UnsupportedManifest, text: "1 levels"},
		{name: "too many", answer: fine, change: func(o *Options) { o.MaxManifests = 1 }, want: UnsupportedManifest, text: "more than 1 manifests"},
		{name: "too much manifest", answer: fine, change: func(o *Options) { o.MaxManifestBytes = int64(len(img.raw)+len(indexRaw)) / manifestShare }, want: UnsupportedManifest, text: "together"},
		{name: "too large", answer: fine, change: func(o *Options) { o.MaxImageBytes = 100 << 10 }, want: Blocked, text: "at most 102400"},
		{name: "what was resolved was changed", answer: fine, res: root(index, img.raw), want: DigestMismatch},
		{name: "mirror fails", answer: fine, fail: errors.New("open /SECRET"), want: MirrorUnavailable, text: "the log of the server says why"},
		{name: "mirror is full", answer: fine, fail: &fs.PathError{Op: "write", Path: "/SECRET", Err: syscall.ENOSPC}, want: MirrorUnavailable, text: "no space left"},
		{name: "namespace is full at the mirror", answer: fine, fail: fmt.Errorf("SECRET: %w", errdefs.ErrResourceExhausted), want: MirrorUnavailable, text: "as much as it may"},
		{name: "mirror refuses", answer: fine, fail: fmt.Errorf("x: %w", errdefs.ErrPermissionDenied), want: MirrorUnauthorized},
		{name: "mirror knows why", answer: fine, fail: &Error{Kind: MirrorUnauthorized, Err: errors.New("why")}, want: MirrorUnauthorized, text: "why"},
		{name: "mirror refuses before it read", answer: fine, fail: errdefs.ErrFailedPrecondition, want: MirrorUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.res == nil {
				tt.res = root(index, indexRaw)
			}
			if tt.change == nil {
				tt.change = func(*Options) {}
			}
			ref := serve(t, tt.answer).reference(t, "app:v1")
			dst := newMemory()
			dst.fail = tt.fail
			_, err := newImporter(t, tt.change).Mirror(t.Context(), source(ref), tt.res, dst, nil)
			wantFailure(t, err, ref, tt.want, tt.text)
			if _, found := dst.content[tt.res.Digest]; found {
				t.Error("the root was pushed though something below it failed")
			}
		})
	}
}
