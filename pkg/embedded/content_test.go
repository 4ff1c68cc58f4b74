// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
)

// item is a piece of content as a test sends it.
type item struct {
	desc ocispec.Descriptor
	data []byte
}

func newItem(mediaType string, algorithm digest.Algorithm, data []byte) item {
	return item{ocispec.Descriptor{MediaType: mediaType, Digest: algorithm.FromBytes(data), Size: int64(len(data))}, data}
}

func layer(content string) item {
	return newItem(ocispec.MediaTypeImageLayer, digest.SHA256, []byte(content))
}

func marshal(t *testing.T, mediaType string, v any) item {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return newItem(mediaType, digest.SHA256, data)
}

func image(t *testing.T, config item, layers ...item) item {
	t.Helper()
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config.desc,
	}
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, l.desc)
	}
	return marshal(t, manifest.MediaType, manifest)
}

func index(t *testing.T, manifests ...item) item {
	t.Helper()
	i := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, m := range manifests {
		i.Manifests = append(i.Manifests, m.desc)
	}
	return marshal(t, i.MediaType, i)
}

// sample is an index of two images that share a layer, children first.
func sample(t *testing.T, seed string) (all []item, root item) {
	t.Helper()
	shared := layer(seed + " shared")
	amdConfig := newItem(ocispec.MediaTypeImageConfig, digest.SHA256, []byte(`{"architecture":"amd64","author":"`+seed+`"}`))
	armConfig := newItem(ocispec.MediaTypeImageConfig, digest.SHA256, []byte(`{"architecture":"arm64","author":"`+seed+`"}`))
	long := newItem(ocispec.MediaTypeImageLayerGzip, digest.SHA512, []byte(seed+" of another algorithm"))
	amd, arm := image(t, amdConfig, shared), image(t, armConfig, shared, long)
	root = index(t, amd, arm)
	return []item{shared, amdConfig, armConfig, long, amd, arm, root}, root
}

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenStore(t.Context(), StoreConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func push(t *testing.T, repo *Repository, items ...item) {
	t.Helper()
	for _, i := range items {
		if err := repo.Push(t.Context(), i.desc, bytes.NewReader(i.data)); err != nil {
			t.Fatal(err)
		}
	}
}

func commit(t *testing.T, repo *Repository, root item, tags ...string) {
	t.Helper()
	named := map[string]digest.Digest{}
	for _, tag := range tags {
		named[tag] = root.desc.Digest
	}
	if err := repo.Commit(t.Context(), named); err != nil {
		t.Fatal(err)
	}
}

func collect(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mount(t *testing.T, repo *Repository, i item) bool {
	t.Helper()
	ok, err := repo.Mount(t.Context(), i.desc)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func complete(t *testing.T, repo *Repository, root item) bool {
	t.Helper()
	ok, err := repo.Complete(t.Context(), root.desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// read returns what a client would get, "" for content that is not there.
func read(t *testing.T, s *Store, namespace, name string, i item) string {
	t.Helper()
	open, absent := s.Blob, distribution.ErrBlobUnknown
	if isManifest(i.desc.MediaType) {
		open, absent = s.Manifest, distribution.ErrManifestUnknown
	}
	content, err := open(t.Context(), distribution.Repository{Namespace: namespace, Name: name}, i.desc.Digest)
	if errors.Is(err, absent) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	data, err := io.ReadAll(io.NewSectionReader(content, 0, content.Descriptor().Size))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// readable returns which of items a client can read, in order.
func readable(t *testing.T, s *Store, namespace, name string, items []item) []bool {
	t.Helper()
	var got []bool
	for _, i := range items {
		data := read(t, s, namespace, name, i)
		if data != "" && data != string(i.data) {
			t.Errorf("%s has other bytes", i.desc.Digest)
		}
		got = append(got, data != "")
	}
	return got
}

func all(n int, v bool) []bool {
	var s []bool
	for range n {
		s = append(s, v)
	}
	return s
}
