// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseManifest(t *testing.T) {
	t.Parallel()
	const (
		index = ocispec.MediaTypeImageIndex
		image = ocispec.MediaTypeImageManifest
	)
	d := `{"mediaType":"application/x","digest":"` + sha256Zeros + `","size":7}`
	type parsed struct {
		MediaType       string
		Children, Blobs int
	}
	tests := []struct {
		name, contentType, document string
		want                        parsed
		wantErr                     string
	}{
		{name: "OCI image", contentType: image, document: `{"schemaVersion":2,"config":D,"layers":[D]}`, want: parsed{image, 0, 2}},
		{name: "OCI image with media type", contentType: image, document: `{"schemaVersion":2,"mediaType":"` + image + `","config":D}`, want: parsed{image, 0, 1}},
		{name: "parameters", contentType: image + "; charset=utf-8", document: `{"schemaVersion":2,"config":D}`, want: parsed{image, 0, 1}},
		{name: "docker image", contentType: dockerManifest, document: `{"schemaVersion":2,"mediaType":"` + dockerManifest + `","config":D,"layers":[D,D]}`, want: parsed{dockerManifest, 0, 3}},
		{name: "OCI index", contentType: index, document: `{"schemaVersion":2,"manifests":[{"mediaType":"` + image + `","digest":"` + sha256Zeros + `","size":7}]}`, want: parsed{index, 1, 0}},
		{name: "layers that are null", contentType: image, document: `{"schemaVersion":2,"config":D,"layers":null}`, want: parsed{image, 0, 1}},
		{name: "empty index", contentType: index, document: `{"schemaVersion":2,"manifests":[]}`, want: parsed{index, 0, 0}},
		{name: "index of layers", contentType: index, document: `{"schemaVersion":2,"manifests":[D]}`, want: parsed{index, 0, 1}},
		{name: "docker list", contentType: dockerList, document: `{"schemaVersion":2,"manifests":[]}`, want: parsed{dockerList, 0, 0}},
		{name: "vague type", contentType: "application/json", document: `{"schemaVersion":2,"mediaType":"` + image + `","config":D}`, want: parsed{image, 0, 1}},
		{name: "no type at all", contentType: "", document: `{"schemaVersion":2,"config":D}`, wantErr: "media type"},
		{name: "foreign layer", contentType: dockerManifest, document: `{"schemaVersion":2,"config":D,"layers":[{"mediaType":"` + dockerForeign + `","digest":"` + sha256Zeros + `","size":7,"urls":["https://x/y"]}]}`, want: parsed{dockerManifest, 0, 1}},
		{name: "foreign layer without URLs", contentType: dockerManifest, document: `{"schemaVersion":2,"config":D,"layers":[{"mediaType":"` + dockerForeign + `","digest":"` + sha256Zeros + `","size":7}]}`, want: parsed{dockerManifest, 0, 2}},

		{name: "schema 1 in disguise", contentType: image, document: `{"schemaVersion":2,"config":D,"fsLayers":[]}`, wantErr: "schema 1"},
		{name: "a manifest as a layer", contentType: image, document: `{"schemaVersion":2,"config":D,"layers":[{"mediaType":"` + index + `","digest":"` + sha256Zeros + `","size":7}]}`, wantErr: "as a layer"},
		{name: "an algorithm that is not served", contentType: image, document: `{"schemaVersion":2,"config":{"digest":"sha384:` + strings.Repeat("0", 96) + `","size":1}}`, wantErr: "descriptor"},
		{name: "larger than anything", contentType: image, document: `{"schemaVersion":2,"config":{"digest":"` + sha256Zeros + `","size":9223372036854775807}}`, wantErr: "descriptor"},
		{name: "too many layers", contentType: image, document: `{"schemaVersion":2,"config":D,"layers":[` + strings.Repeat("{},", 1<<20) + `{}]}`, wantErr: "more than 10000"},
		{name: "layers that are no list", contentType: image, document: `{"schemaVersion":2,"config":D,"layers":{}}`, wantErr: "JSON"},
		{name: "schema 1", contentType: dockerSchema1Signed, document: `{"schemaVersion":1}`, wantErr: "schema 1"},
		{name: "schema 1 by its version", contentType: "application/json", document: `{"schemaVersion":1,"name":"x"}`, wantErr: "schema 1"},
		{name: "schema 1 in a list", contentType: dockerList, document: `{"schemaVersion":2,"manifests":[{"mediaType":"` + dockerSchema1 + `","digest":"` + sha256Zeros + `","size":7}]}`, wantErr: "schema 1"},
		{name: "HTML", contentType: "text/html; charset=utf-8", document: `<html>`, wantErr: "web page"},
		{name: "OCI artifact manifest", contentType: "application/vnd.oci.artifact.manifest.v1+json", document: `{}`, wantErr: "neither"},
		{name: "not JSON", contentType: image, document: `nope`, wantErr: "JSON"},
		{name: "trailing data", contentType: image, document: `{"schemaVersion":2,"config":D}{}`, wantErr: "JSON"},
		{name: "no version", contentType: image, document: `{"config":D}`, wantErr: "schemaVersion"},
		{name: "media types disagree", contentType: image, document: `{"schemaVersion":2,"mediaType":"` + index + `","manifests":[]}`, wantErr: "another media type"},
		{name: "both", contentType: image, document: `{"schemaVersion":2,"config":D,"layers":[],"manifests":[]}`, wantErr: "at once"},
		{name: "both, as index", contentType: index, document: `{"schemaVersion":2,"layers":[],"manifests":[]}`, wantErr: "at once"},
		{name: "image as index", contentType: index, document: `{"schemaVersion":2,"config":D}`, wantErr: "content of another"},
		{name: "index as image", contentType: image, document: `{"schemaVersion":2,"manifests":[]}`, wantErr: "content of another"},
		{name: "no config", contentType: image, document: `{"schemaVersion":2,"layers":[D]}`, wantErr: "no config"},
		{name: "bad digest", contentType: image, document: `{"schemaVersion":2,"config":{"digest":"sha256:../x","size":1}}`, wantErr: "descriptor"},
		{name: "negative size", contentType: image, document: `{"schemaVersion":2,"config":{"digest":"` + sha256Zeros + `","size":-1}}`, wantErr: "descriptor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw := []byte(strings.ReplaceAll(tt.document, "D", d))
			m, err := parseManifest(raw, tt.contentType, digest.FromBytes(raw))
			if tt.wantErr != "" {
				if KindOf(err) != UnsupportedManifest || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want UnsupportedManifest with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, parsed{m.self.MediaType, len(m.children), len(m.blobs)}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if m.self.Digest != digest.FromBytes(raw) || m.self.Size != int64(len(raw)) {
				t.Errorf("descriptor %v is not that of the document", m.self)
			}
		})
	}
}

// TestParseManifestMemory: a manifest takes no more memory than a few times its own size, whatever it lists.
func TestParseManifestMemory(t *testing.T) {
	const size = 4 << 20
	d := `{"mediaType":"application/x","digest":"` + sha256Zeros + `","size":7}`
	for name, list := range map[string]string{
		"empty descriptors": "{},", "numbers": "0,", "annotations": `{"annotations":{"a":""}},`, "platforms": `{"platform":{"os.features":["",""]}},`,
	} {
		raw := []byte(`{"schemaVersion":2,"config":` + d + `,"layers":[` + strings.Repeat(list, size/len(list)) + d + `]}`)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := parseManifest(raw, ocispec.MediaTypeImageManifest, digest.FromBytes(raw)); KindOf(err) != UnsupportedManifest {
			t.Errorf("%s: got %v, want UnsupportedManifest", name, err)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 4*size {
			t.Errorf("%s: %d bytes were allocated for a manifest of %d", name, took, size)
		}
	}
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	of := func(os, architecture, variant string) ocispec.Descriptor {
		return ocispec.Descriptor{Platform: &ocispec.Platform{OS: os, Architecture: architecture, Variant: variant}}
	}
	got := platforms([]ocispec.Descriptor{
		of("linux", "amd64", ""), of("linux", "arm64", "v8"), of("unknown", "unknown", ""), {},
		of("linux", "amd64", ""), of("linux", "", ""), of("<b>", "amd64", ""), of("linux", strings.Repeat("a", 99), ""),
	})
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64/v8"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestURLsAreNotKept parses a manifest most of which are URLs: in memory they would take a multiple of it.
func TestURLsAreNotKept(t *testing.T) {
	t.Parallel()
	tests := []struct {
		urls string
		want int // blobs: the config, and the layer that is copied
		err  Kind
	}{
		{urls: `[]`, want: 2},
		{urls: `null`, want: 2},
		{urls: `["https://example.com"]`, want: 1},
		{urls: `[""` + strings.Repeat(`,""`, 1000) + `]`, want: 1},
		{urls: `"https://example.com"`, err: UnsupportedManifest},
		{urls: `[1]`, err: UnsupportedManifest},
	}
	for _, tt := range tests {
		raw := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":%q,"size":2,"urls":%s},"layers":[{"mediaType":%q,"digest":%q,"size":1,"urls":%s}]}`,
			digest.FromString("{}"), tt.urls, dockerForeign, digest.FromString("x"), tt.urls)
		m, err := parseManifest(raw, ocispec.MediaTypeImageManifest, digest.FromBytes(raw))
		if kind := KindOf(err); kind != tt.err {
			t.Errorf("%.30s: %v, want %q", tt.urls, err, tt.err)
		} else if err == nil && (len(m.blobs) != tt.want || len(m.config.URLs) > 1) {
			t.Errorf("%.30s: %d blobs, %d URLs; want %d blobs", tt.urls, len(m.blobs), len(m.config.URLs), tt.want)
		}
	}
}
