// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// tarred returns an archive of some files.
func tarred(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := packer{tar: tar.NewWriter(&out)}
	for name, body := range files {
		if err := writer.add(name, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.tar.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipped(t *testing.T, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := gzip.NewWriter(&out)
	if _, err := writer.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func encode(t *testing.T, object any) string {
	t.Helper()
	body, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestOpenSaved opens archives as docker writes them, and those that are no such.
func TestOpenSaved(t *testing.T) {
	t.Parallel()
	layer := string(tarred(t, map[string]string{"hello": "world"}))
	config := func(layers ...string) string {
		var image ocispec.Image
		for _, layer := range layers {
			image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromString(layer))
		}
		return encode(t, image)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	saved := func(names ...string) savedImage {
		return savedImage{Config: "config.json", RepoTags: names, Layers: []string{"layer.tar"}}
	}
	tests := []struct {
		name      string
		files     map[string]string
		reference string
		compress  func([]byte) []byte
		want      []string // the types of manifest, config and layers
		wantErr   string
	}{
		{
			name:  "as docker saves",
			files: map[string]string{"manifest.json": encode(t, []savedImage{saved("it:1")}), "config.json": config(layer), "layer.tar": layer},
			want:  []string{dockerManifest, dockerConfig, dockerLayerGzip},
		},
		{
			name: "all of it compressed", compress: func(body []byte) []byte { return zipped(t, body) }, reference: "it:1",
			files: map[string]string{"manifest.json": encode(t, []savedImage{saved("it:1")}), "config.json": config(layer), "layer.tar": layer},
			want:  []string{dockerManifest, dockerConfig, dockerLayerGzip},
		},
		{
			name: "all of it compressed by zstd", compress: func(body []byte) []byte { return encoder.EncodeAll(body, nil) },
			files: map[string]string{"manifest.json": encode(t, []savedImage{saved("it:1")}), "config.json": config(layer), "layer.tar": layer},
			want:  []string{dockerManifest, dockerConfig, dockerLayerGzip},
		},
		{
			name: "a layer compressed",
			files: map[string]string{"manifest.json": encode(t, []savedImage{saved()}), "config.json": config(layer),
				"layer.tar": string(zipped(t, []byte(layer)))},
			want: []string{dockerManifest, dockerConfig, dockerLayerGzip},
		},
		{
			name: "a layer compressed by zstd, which docker's own types do not know",
			files: map[string]string{"manifest.json": encode(t, []savedImage{saved()}), "config.json": config(layer),
				"layer.tar": string(encoder.EncodeAll([]byte(layer), nil))},
			want: []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerZstd},
		},
		{
			name: "two images, and which is not said",
			files: map[string]string{"manifest.json": encode(t, []savedImage{saved("it:1"), saved("it:2")}), "config.json": config(layer),
				"layer.tar": layer},
			wantErr: `there are 2 images in it; append which is meant: "it:1", "it:2"`,
		},
		{
			name: "an image that is not there", reference: "it:3",
			files:   map[string]string{"manifest.json": encode(t, []savedImage{saved("it:1")}), "config.json": config(layer), "layer.tar": layer},
			wantErr: `there is no image "it:3" in it, but "it:1"`,
		},
		{
			name:    "another layer than the config says",
			files:   map[string]string{"manifest.json": encode(t, []savedImage{saved()}), "config.json": config("another"), "layer.tar": layer},
			wantErr: "layer layer.tar: its content is " + digest.FromString(layer).String() + ", where the config says " + digest.FromString("another").String(),
		},
		{
			name:    "a layer too few",
			files:   map[string]string{"manifest.json": encode(t, []savedImage{saved()}), "config.json": config(layer, layer), "layer.tar": layer},
			wantErr: "manifest.json lists 1 layers, its config 2",
		},
		{
			name:    "a layer that is missing",
			files:   map[string]string{"manifest.json": encode(t, []savedImage{saved()}), "config.json": config(layer)},
			wantErr: "layer layer.tar: open layer.tar: file does not exist",
		},
		{name: "no image", files: map[string]string{"manifest.json": "[]"}, wantErr: "there is no image in it"},
		{name: "anything else", files: map[string]string{"hello": "world"}, wantErr: "this is no OCI layout: open oci-layout: file does not exist"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			body := tarred(t, tt.files)
			if tt.compress != nil {
				body = tt.compress(body)
			}
			file := filepath.Join(t.TempDir(), "it.tar")
			if err := os.WriteFile(file, body, 0o600); err != nil {
				t.Fatal(err)
			}
			source, err := Open(t.Context(), Location{Transport: DockerArchive, Path: file, Reference: tt.reference}, t.TempDir())
			if tt.wantErr != "" {
				if err == nil || !strings.HasSuffix(err.Error(), tt.wantErr) {
					t.Errorf("want an error %q, got %v", tt.wantErr, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			children, err := content.Successors(t.Context(), source, source.Root)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{source.Root.MediaType}
			for _, child := range children {
				got = append(got, child.MediaType)
				if _, err := content.FetchAll(t.Context(), source, child); err != nil { // which verifies it
					t.Error(err)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("media types (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOpenOfNothing holds what is said of what is no archive and no layout.
func TestOpenOfNothing(t *testing.T) {
	t.Parallel()
	// What bzip2 makes of an archive of a file hello; there is nothing here that writes it.
	bzipped, err := base64.StdEncoding.DecodeString("QlpoOTFBWSZTWTc1dEMAADRbkMmAQAB3BAAIZkSegAQAAAggAFREAAAGjQNpSNANHqAB" +
		"Pd1R8KaQqczo1njfaXMJIbyYSaCJQxaVhaM7JYAcEU3FQFwSIvQMb4u5IpwoSBuauiGA")
	if err != nil {
		t.Fatal(err)
	}
	whole := tarred(t, map[string]string{"a": strings.Repeat("It is a text. ", 100), "b": strings.Repeat("It is a text. ", 100)})
	tests := []struct {
		name      string
		transport string // absent: oci-archive
		body      []byte // of the file; nil for none
		folder    bool   // whether it is a folder instead
		want      string // in which NAME is the file
	}{
		{name: "empty", body: []byte{}, want: "NAME: this is not an archive"},
		{name: "text", body: []byte(strings.Repeat("It is a text. ", 100)), want: "NAME: this is not an archive: archive/tar: invalid tar header"},
		{name: "compressed text", body: zipped(t, []byte("text")), want: "NAME: this is not an archive: unexpected EOF"},
		{name: "cut off", body: whole[:len(whole)/2], want: "NAME: this archive is cut off; it ends before its last file does"},
		{name: "cut off, and compressed", body: zipped(t, whole)[:50], want: "NAME: this archive is cut off; it ends before its last file does"},
		{name: "something else, compressed by bzip2", body: bzipped, want: "this is no OCI layout: open oci-layout: file does not exist"},
		{name: "cut off, and compressed by bzip2", body: bzipped[:50], want: "NAME: this archive is cut off; it ends before its last file does"},
		{
			name: "compressed by xz", body: []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F"),
			want: "NAME: this archive is compressed by xz, which is not read here; unpack it before, by xz --decompress",
		},
		{name: "no folder", transport: OCI, want: "there is no such folder"},
		{name: "a file", transport: OCI, body: whole, want: "this is a file; an archive is named by docker-archive:NAME or oci-archive:NAME"},
		{name: "a folder of others", transport: OCI, folder: true, want: "this is no OCI layout: stat oci-layout: no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			where := Location{Transport: OCIArchive, Path: filepath.Join(t.TempDir(), "it")}
			if tt.transport != "" {
				where.Transport = tt.transport
			}
			switch {
			case tt.folder:
				if err := os.Mkdir(where.Path, 0o700); err != nil {
					t.Fatal(err)
				}
			case tt.body != nil:
				if err := os.WriteFile(where.Path, tt.body, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Open(t.Context(), where, t.TempDir())
			if want := "reading " + where.String() + ": " + strings.ReplaceAll(tt.want, "NAME", where.Path); err == nil || err.Error() != want {
				t.Errorf("want an error %q, got %v", want, err)
			}
		})
	}
}

// FuzzArchive holds that no archive makes the plugin read what is not in it, or crash.
func FuzzArchive(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte, name string) {
		file := filepath.Join(t.TempDir(), "it.tar")
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := openArchive(file, t.TempDir())
		if err != nil {
			return
		}
		defer a.Close()
		opened, err := a.Open(name)
		if err != nil {
			return
		}
		content, err := io.ReadAll(io.LimitReader(opened, 1<<20))
		if err == nil && !bytes.Contains(body, content) && !bytes.HasPrefix(body, gzipMagic) {
			t.Errorf("%s has what is not in the archive", name)
		}
	})
}
