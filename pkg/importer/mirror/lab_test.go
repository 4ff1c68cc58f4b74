// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/keychain"
	"tagger.dev/tagger/test/lab"
)

// keeper stands before the registry of the lab, which has one heap of blobs for
// all repositories and mounts nothing: it knows which repository holds what, and
// mounts.
type keeper struct {
	t testing.TB
	// mountless: it mounts nothing; anywhere: it mounts what any repository holds,
	// wherever it is asked to take it from.
	mountless, anywhere bool

	mu   sync.Mutex
	held map[string]bool // repository@digest
	from []string        // what was mounted, FROM→TO
}

// keep lets a source be a mirror.
func keep(t testing.TB, s *lab.Source, change ...func(*keeper)) *keeper {
	k := &keeper{t: t, held: map[string]bool{}}
	for _, c := range change {
		c(k)
	}
	s.Misbehave(k.answer)
	return k
}

func (k *keeper) answer(w http.ResponseWriter, r *http.Request, registry http.Handler) {
	repository, object, isBlob := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
	mount, from := r.URL.Query().Get("mount"), r.URL.Query().Get("from")
	k.mu.Lock()
	holds, mountable := k.held[repository+"@"+object], k.held[from+"@"+mount] && !k.mountless
	for held := range k.held {
		mountable = mountable || k.anywhere && strings.HasSuffix(held, "@"+mount)
	}
	if mount != "" && mountable {
		k.held[repository+"@"+mount] = true
		k.from = append(k.from, from+"→"+repository)
	}
	k.mu.Unlock()
	switch {
	case mount != "" && from == "":
		k.t.Error("a blob was mounted from anywhere")
	case mount != "" && mountable:
		w.WriteHeader(http.StatusCreated)
		return
	case isBlob && (r.Method == http.MethodHead || r.Method == http.MethodGet) && !holds:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	status := &statusWriter{ResponseWriter: w}
	registry.ServeHTTP(status, r)
	if isBlob && r.Method == http.MethodPut && status.code == http.StatusCreated {
		k.mu.Lock()
		k.held[repository+"@"+r.URL.Query().Get("digest")] = true
		k.mu.Unlock()
	}
}

type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

// lose makes a repository forget a blob.
func (k *keeper) lose(repository string, d digest.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, repository+"@"+d.String())
}

// newRegistry returns a client of a mirror of the lab.
func newRegistry(t testing.TB, s *lab.Source, change ...func(*Config, *Options)) *Registry {
	t.Helper()
	config, options := Config{Name: "the Secret tagger/mirror-registry-config", Host: s.Host}, Options{RootCAs: lab.Roots(t)}
	for _, c := range change {
		c(&config, &options)
	}
	r, err := NewRegistry(config, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func repository(t testing.TB, r *Registry, name string) *Repository {
	t.Helper()
	namespace, image := path.Split(name)
	repo, _, err := r.Repository(strings.TrimSuffix(namespace, "/"), image)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func blob(content string) (ocispec.Descriptor, []byte) {
	return describe(ocispec.MediaTypeImageLayer, []byte(content)), []byte(content)
}

func describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// image makes a manifest over a config and layers, which are put on the shelf of a
// source, as it is itself under a tag where there is one.
func image(t testing.TB, s *lab.Source, repository, tag string, layers ...string) ocispec.Descriptor {
	t.Helper()
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","x":%q}`, layers)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = s.PutBlob(repository, ocispec.MediaTypeImageConfig, []byte(config), digest.SHA256)
	for _, layer := range layers {
		m.Layers = append(m.Layers, s.PutBlob(repository, ocispec.MediaTypeImageLayer, []byte(layer), digest.SHA256))
	}
	return s.PutManifest(t, repository, tag, m.MediaType, marshal(t, m), digest.SHA256)
}

func index(t testing.TB, s *lab.Source, repository, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return s.PutManifest(t, repository, tag, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	}), digest.SHA256)
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// copyTo mirrors a tag of a source, and returns its digest.
func copyTo(t testing.TB, s *lab.Source, reference string, dst importer.Destination) digest.Digest {
	t.Helper()
	ref, err := importer.ParseReference(s.Reference(reference))
	if err != nil {
		t.Fatal(err)
	}
	i := importer.New(importer.Options{AllowLoopback: true, RootCAs: lab.Roots(t)})
	src := importer.Source{Reference: ref, Scope: "ns", Keychain: keychain.None}
	res, err := i.Resolve(t.Context(), src, "")
	if err != nil {
		t.Fatal(err)
	}
	if complete, err := dst.Complete(t.Context(), res.Digest); err != nil || complete {
		t.Fatalf("complete before it was copied: %t, %v", complete, err)
	}
	if _, err := i.Mirror(t.Context(), src, res, dst, nil); err != nil {
		t.Fatal(err)
	}
	return res.Digest
}

func push(t testing.TB, r *Repository, content string) ocispec.Descriptor {
	t.Helper()
	d, raw := blob(content)
	if err := r.Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	return d
}

func pushManifest(t testing.TB, r *Repository, mediaType string, document any) ocispec.Descriptor {
	t.Helper()
	raw := marshal(t, document)
	d := describe(mediaType, raw)
	if err := r.Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	return d
}

func commit(t testing.TB, r *Repository, tag string, d digest.Digest) {
	t.Helper()
	if err := r.Commit(t.Context(), map[string]digest.Digest{tag: d}); err != nil {
		t.Fatal(err)
	}
}

// total counts requests.
func total(requests map[string]int) int {
	n := 0
	for _, count := range requests {
		n += count
	}
	return n
}

// wantFailure checks the kind of an error and that its text has some words and
// nothing secret.
func wantFailure(t testing.TB, err error, want importer.Kind, words ...string) {
	t.Helper()
	var typed *importer.Error
	if !errors.As(err, &typed) || typed.Kind != want {
		t.Errorf("got %v, want %s", err, want)
		return
	}
	text := typed.Error()
	if missing := slices.IndexFunc(words, func(word string) bool { return !strings.Contains(text, word) }); missing >= 0 {
		t.Errorf("%q does not say %q", text, words[missing])
	}
	if strings.Contains(text, "SECRET") {
		t.Errorf("%q tells a secret", text)
	}
}

// reading lets a function be a reader.
type reading func(p []byte) (int, error)

func (f reading) Read(p []byte) (int, error) { return f(p) }
