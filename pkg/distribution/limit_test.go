// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestRequestsAreBounded: one namespace has so many requests at once, and leaves others room; none keeps its place.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	h := New(memory{}, tokenAuthorizer{}, Options{}).(*handler)
	get := func(path string, want int) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header = bearer("all")
		w := httptest.NewRecorder()
		defer func() { _ = recover() }() // of content that breaks off
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	here, elsewhere := "/v2/ns/app/blobs/"+blobDigest.String(), "/v2/other/app/blobs/"+blobDigest.String()
	for _, path := range []string{here, "/v2/ns/app/manifests/latest", "/v2/ns/app/tags/list"} {
		get(path, http.StatusOK)
	}
	get("/v2/ns/app/manifests/other", http.StatusNotFound)
	get("/v2/ns/app/manifests/panics", http.StatusInternalServerError)
	get("/v2/ns/app/blobs/"+brokenDigest.String(), http.StatusOK)
	if !h.requests.Idle() || !h.namespaceRequests.Idle() {
		t.Fatal("a place was kept")
	}
	for range maxRequestsOfNamespace {
		if _, ok := h.namespaceRequests.TryAcquire("ns"); !ok {
			t.Fatal("no place")
		}
	}
	get(here, http.StatusTooManyRequests)
	get(elsewhere, http.StatusNotFound)
	for range maxRequests {
		if _, ok := h.requests.TryAcquire(""); !ok {
			t.Fatal("no place")
		}
	}
	get(elsewhere, http.StatusTooManyRequests)
}

// TestDeletionsWait: what a backend reads for a deletion has its place.
func TestDeletionsWait(t *testing.T) {
	t.Parallel()
	backend := newPushable()
	backend.put(repoApp, ocispec.Descriptor{Digest: blobDigest}, blobText)
	h := New(backend, pusherAuthorizer{}, Options{StallTimeout: 50 * time.Millisecond}).(*handler)
	remove := func(path string, want int) {
		t.Helper()
		r := httptest.NewRequest(http.MethodDelete, "/v2/ns/app/"+path, nil)
		r.Header = bearer("all")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
	var releases []func()
	for range maxManifestsOfNamespace {
		release, ok := h.namespaceManifests.TryAcquire("ns")
		if !ok {
			t.Fatal("no place")
		}
		releases = append(releases, release)
	}
	remove("blobs/"+blobDigest.String(), http.StatusTooManyRequests)
	remove("manifests/"+blobDigest.String(), http.StatusTooManyRequests)
	remove("manifests/latest", http.StatusNotFound)
	for _, release := range releases {
		release()
	}
	remove("blobs/"+blobDigest.String(), http.StatusAccepted)
	if !h.manifests.Idle() || !h.namespaceManifests.Idle() {
		t.Error("a place was kept")
	}
}

// TestManifestPlaces: the larger manifests may be, the fewer lie in memory.
func TestManifestPlaces(t *testing.T) {
	t.Parallel()
	for size, want := range map[int64]int{1: 32, 4 << 20: 32, 8 << 20: 16, 32 << 20: 4, 1 << 40: 4} {
		if got := manifestPlaces(size); got != want {
			t.Errorf("%d manifests of %d bytes, want %d", got, size, want)
		}
	}
}
