// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shelf answers with what was put on it, unchecked, and lets a registry answer everything else.
type shelf struct {
	registry http.Handler

	mu    sync.Mutex
	items map[string]item // by path
	// referrers are the manifests on the shelf that name a subject, by the path that lists them.
	referrers map[string][]ocispec.Descriptor
}

// item is a document or a blob.
type item struct {
	descriptor ocispec.Descriptor
	content    io.ReaderAt
}

func newShelf(registry http.Handler) *shelf {
	return &shelf{registry: registry, items: map[string]item{}, referrers: map[string][]ocispec.Descriptor{}}
}

func (s *shelf) put(path string, i item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items[path] = i
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.registry.ServeHTTP(w, r)
		return
	}
	s.mu.Lock()
	found, ok := s.items[r.URL.Path]
	referrers := s.referrers[r.URL.Path]
	s.mu.Unlock()
	switch {
	case ok:
		w.Header().Set("Content-Type", found.descriptor.MediaType)
		w.Header().Set("Docker-Content-Digest", found.descriptor.Digest.String())
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(found.content, 0, found.descriptor.Size))
	case referrers != nil:
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: referrers}
		index.SchemaVersion = 2
		body, err := json.Marshal(index)
		if err != nil {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", index.MediaType)
		_, _ = w.Write(body) // a client that left is not told
	default:
		s.registry.ServeHTTP(w, r)
	}
}

// PutBlob puts a blob on the shelf, under its digest by any algorithm.
func (s *Source) PutBlob(repository, mediaType string, content []byte, algorithm digest.Algorithm) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: algorithm.FromBytes(content), Size: int64(len(content))}
	s.PutAs(repository, Blobs, d.Digest.String(), d, content)
	return d
}

// PutManifest puts a document on the shelf, under its digest and, where that is not empty, a tag. It is listed among the
// referrers of its subject, if it has one.
func (s *Source) PutManifest(t testing.TB, repository, tag, mediaType string, content []byte, algorithm digest.Algorithm) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: algorithm.FromBytes(content), Size: int64(len(content))}
	s.PutAs(repository, Manifests, d.Digest.String(), d, content)
	if tag != "" {
		s.PutAs(repository, Manifests, tag, d, content)
	}
	var document struct {
		ArtifactType string              `json:"artifactType"`
		Subject      *ocispec.Descriptor `json:"subject"`
	}
	if json.Unmarshal(content, &document) == nil && document.Subject != nil { // what is no JSON is put on shelves too
		path := s.path(repository, Referrers, document.Subject.Digest.String())
		listed := d
		listed.ArtifactType = document.ArtifactType
		s.shelf.mu.Lock()
		defer s.shelf.mu.Unlock()
		s.shelf.referrers[path] = append(s.shelf.referrers[path], listed)
	}
	return d
}

// PutAs puts content on the shelf as what a descriptor says, true or not, under a name among the Manifests or the Blobs.
func (s *Source) PutAs(repository, among, object string, d ocispec.Descriptor, content []byte) {
	d.Size = int64(len(content))
	s.shelf.put(s.path(repository, among, object), item{d, bytes.NewReader(content)})
}

// PutZeros puts a blob of so many zero bytes on the shelf without holding them.
func (s *Source) PutZeros(t testing.TB, repository, mediaType string, size int64) ocispec.Descriptor {
	t.Helper()
	hashed, err := digest.FromReader(io.NewSectionReader(zeros{}, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: hashed, Size: size}
	s.shelf.put(s.path(repository, Blobs, d.Digest.String()), item{d, zeros{}})
	return d
}

// path is where a repository of this source has an object; a tag or a digest of repository is left out.
func (s *Source) path(repository, among, object string) string {
	repository, _, _ = strings.Cut(repository, ":")
	return "/v2/" + s.prefix + "/" + repository + "/" + among + "/" + object
}

// zeros is an endless file of zero bytes.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
