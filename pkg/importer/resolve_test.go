// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	at := time.Date(2022, 2, 6, 19, 6, 24, 0, time.UTC)
	registry := newRegistry()
	amd64 := newImage(t, "amd64", blob("a", 100), blob("a", 100), blob("b", 50))
	arm64 := newImage(t, "arm64", blob("c", 10))
	index, indexRaw := newIndex(t, amd64.manifest, arm64.manifest)
	put(t, registry, "app", "image", amd64.manifest.MediaType, amd64.raw, amd64.blobs...)
	put(t, registry, "app", arm64.manifest.Digest.String(), arm64.manifest.MediaType, arm64.raw, arm64.blobs...)
	put(t, registry, "app", "index", index.MediaType, indexRaw)

	wantImage := Resolved{
		Digest: amd64.manifest.Digest, MediaType: amd64.manifest.MediaType, At: at,
		Manifest: amd64.raw, Size: int64(len(amd64.blobs[0])) + 150,
	}
	wantIndex := Resolved{
		Digest: index.Digest, MediaType: index.MediaType, At: at,
		Manifest: indexRaw, Platforms: []string{"linux/amd64", "linux/arm64"},
	}
	tests := []struct {
		name, object string
		known        digest.Digest
		want         Resolved
		requests     []string
	}{
		{
			name: "image, nothing known", object: ":image",
			want: wantImage, requests: []string{"GET /v2/app/manifests/image"},
		},
		{
			name: "index, nothing known", object: ":index",
			want: wantIndex, requests: []string{"GET /v2/app/manifests/index"},
		},
		{
			name: "unchanged", object: ":index", known: index.Digest,
			want:     Resolved{Digest: index.Digest, MediaType: index.MediaType, At: at, Unchanged: true},
			requests: []string{"HEAD /v2/app/manifests/index"},
		},
		{
			name: "moved, fetched by the digest that HEAD named", object: ":index", known: amd64.manifest.Digest, want: wantIndex,
			requests: []string{"HEAD /v2/app/manifests/index", "GET /v2/app/manifests/" + index.Digest.String()},
		},
		{
			name: "by digest", object: "@" + amd64.manifest.Digest.String(),
			want: wantImage, requests: []string{"GET /v2/app/manifests/" + amd64.manifest.Digest.String()},
		},
		{
			name: "the digest counts, not the tag", object: ":index@" + amd64.manifest.Digest.String(), known: index.Digest, want: wantImage,
			requests: []string{"HEAD /v2/app/manifests/" + amd64.manifest.Digest.String(), "GET /v2/app/manifests/" + amd64.manifest.Digest.String()},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, registry)
			i := newImporter(t, func(o *Options) { o.Clock = clocktesting.NewFakePassiveClock(at) })
			got, err := i.Resolve(t.Context(), source(up.reference(t, "app"+tt.object)), tt.known)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.requests, up.requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// TestResolveWithoutUsefulHead: what HEAD does not say is asked by GET and
// hashed.
func TestResolveWithoutUsefulHead(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	tests := []struct {
		name      string
		head      func(http.ResponseWriter)
		known     digest.Digest
		unchanged bool
	}{
		{name: "no digest", head: func(w http.ResponseWriter) {}, known: digest.Digest(sha256Zeros)},
		{name: "no digest, unchanged", head: func(w http.ResponseWriter) {}, known: img.manifest.Digest, unchanged: true},
		{name: "garbage", head: func(w http.ResponseWriter) { w.Header().Set("Docker-Content-Digest", "latest") }, known: digest.Digest(sha256Zeros)},
		{name: "not allowed", head: func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) }, known: digest.Digest(sha256Zeros)},
		{name: "not implemented", head: func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotImplemented) }, known: digest.Digest(sha256Zeros)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", img.manifest.MediaType)
				if r.Method == http.MethodHead {
					tt.head(w)
					return
				}
				w.Write(img.raw)
			}))
			got, err := newImporter(t).Resolve(t.Context(), source(up.reference(t, "app:v1")), tt.known)
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest != img.manifest.Digest || got.Unchanged != tt.unchanged || (got.Manifest == nil) != tt.unchanged {
				t.Errorf("got %+v", got)
			}
			want := []string{"HEAD /v2/app/manifests/v1", "GET /v2/app/manifests/v1"}
			if diff := cmp.Diff(want, up.requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// TestResolveTime: a tag that only GET could resolve was resolved then.
func TestResolveTime(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clock.SetTime(clock.Now().Add(time.Minute))
		w.Header().Set("Content-Type", img.manifest.MediaType)
		if r.URL.Path == "/v2/named/manifests/v1" {
			w.Header().Set("Docker-Content-Digest", img.manifest.Digest.String())
		}
		w.Write(img.raw)
	}))
	i := newImporter(t, func(o *Options) { o.Clock = clock })
	for _, tt := range []struct {
		name, repository string
		want             time.Duration // since the call
	}{
		{name: "HEAD named the digest", repository: "named", want: 0},
		{name: "GET did", repository: "unnamed", want: time.Minute},
	} {
		start := clock.Now()
		got, err := i.Resolve(t.Context(), source(up.reference(t, tt.repository+":v1")), digest.Digest(sha256Zeros))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got.At.Sub(start)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestResolveHostile has an answer for every reason, and holds that none of the
// host's own words come through.
func TestResolveHostile(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	fixed := time.Date(2022, 2, 6, 19, 0, 0, 0, time.UTC)
	answer := func(code int, header, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if key, value, ok := strings.Cut(header, ": "); ok {
				w.Header().Set(key, value)
			}
			w.WriteHeader(code)
			w.Write([]byte(body))
		}
	}
	manifest := func(contentType, body string) http.HandlerFunc {
		return answer(http.StatusOK, "Content-Type: "+contentType, body)
	}
	tests := []struct {
		name       string
		answer     http.HandlerFunc
		object     string
		want       Kind
		text       string
		retryAfter time.Duration
	}{
		{name: "404", answer: answer(404, "", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"SECRET"}]}`), want: NotFound, text: "(404 MANIFEST_UNKNOWN)"},
		{name: "404 with a code of its own", answer: answer(404, "", `{"errors":[{"code":"SECRET"}]}`), want: NotFound, text: "(404)"},
		{name: "410", answer: answer(410, "", ""), want: NotFound},
		{name: "401", answer: answer(401, "", "SECRET"), want: Unauthorized, text: "(401)"},
		{name: "401 that wants Basic", answer: answer(401, "WWW-Authenticate: Basic realm=x", "SECRET"), want: Unauthorized, text: "credentials"},
		{name: "401 with a scheme that is not known", answer: answer(401, "WWW-Authenticate: SECRET", ""), want: Unauthorized},
		{name: "401 with a realm in plain HTTP", answer: answer(401, `WWW-Authenticate: Bearer realm="http://SECRET/"`, ""), want: Unauthorized, text: "cannot be completed"},
		{name: "403", answer: answer(403, "", `{"errors":[{"code":"DENIED"}]}`), want: Unauthorized, text: "(403 DENIED)"},
		{name: "429", answer: answer(429, "", "SECRET"), want: RateLimited, text: "(429)"},
		{name: "429 with seconds", answer: answer(429, "Retry-After: 120", ""), want: RateLimited, retryAfter: 2 * time.Minute},
		{name: "429 with a date", answer: answer(429, "Retry-After: Sun, 06 Feb 2022 19:05:00 GMT", ""), want: RateLimited, retryAfter: 5 * time.Minute},
		{name: "429 for ever", answer: answer(429, "Retry-After: 9999999999999999", ""), want: RateLimited, retryAfter: time.Hour},
		{name: "429 in the past", answer: answer(429, "Retry-After: -5", ""), want: RateLimited},
		{name: "500", answer: answer(500, "", "SECRET"), want: Unavailable, text: "answered 500"},
		{name: "503", answer: answer(503, "Retry-After: 7", ""), want: Unavailable, retryAfter: 7 * time.Second},
		{name: "204", answer: answer(204, "", ""), want: Unavailable},
		{name: "302 to nowhere", answer: answer(302, "", ""), want: Unavailable},
		{name: "redirect loop", answer: answer(302, "Location: /v2/app/manifests/v1", ""), want: Unavailable, text: "more than 10"},
		{name: "redirect to plain HTTP", answer: answer(302, "Location: http://127.0.0.1:1/SECRET", ""), want: TLS, text: "insecure: true"},
		{name: "redirect to link-local", answer: answer(302, "Location: https://169.254.169.254/SECRET", ""), want: Blocked, text: "link-local"},
		{name: "redirect to what is no host", answer: answer(302, "Location: https://\xffSECRET/", ""), want: Unavailable, text: "cannot be one"},
		{name: "token service at what is no host", answer: answer(401, "WWW-Authenticate: Bearer realm=\"https://SECRET\u2028/\"", ""), want: Unavailable, text: "cannot be one"},
		{name: "token service at link-local", answer: answer(401, `WWW-Authenticate: Bearer realm="https://169.254.169.254/SECRET"`, ""), want: Blocked, text: "link-local"},
		{name: "wrong digest in header", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", sha256Zeros)
			manifest(img.manifest.MediaType, string(img.raw))(w, r)
		}, want: DigestMismatch},
		{name: "wrong content by digest", object: "@" + sha256Zeros, answer: manifest(img.manifest.MediaType, string(img.raw)), want: DigestMismatch},
		{name: "wrong content by sha512", object: "@" + sha512Zeros, answer: manifest(img.manifest.MediaType, string(img.raw)), want: DigestMismatch},
		{name: "HTML", answer: manifest("text/html", "<h1>SECRET"), want: UnsupportedManifest, text: "web page"},
		{name: "schema 1", answer: manifest(dockerSchema1Signed, "{}"), want: UnsupportedManifest, text: "schema 1"},
		{name: "too large", answer: manifest(img.manifest.MediaType, strings.Repeat(" ", 4<<20+1)), want: UnsupportedManifest, text: "larger"},
		{name: "too large, without a length", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", img.manifest.MediaType)
			for range 5 {
				w.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
		}, want: UnsupportedManifest, text: "larger"},
		{name: "index and image", answer: manifest(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"layers":[],"manifests":[]}`), want: UnsupportedManifest, text: "at once"},
		{name: "trickles", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", img.manifest.MediaType)
			for r.Context().Err() == nil {
				w.Write([]byte(" "))
				w.(http.Flusher).Flush()
				<-time.After(time.Millisecond)
			}
		}, want: Timeout, text: "sent a document for longer"},
		{name: "cut short", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			manifest(img.manifest.MediaType, string(img.raw[:10]))(w, r)
		}, want: Unavailable, text: "closed the connection"},
		{name: "connection closed", answer: func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, want: Unavailable, text: "closed the connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, tt.answer)
			i := newImporter(t, func(o *Options) {
				o.Clock = clocktesting.NewFakePassiveClock(fixed)
				if tt.want == Timeout {
					o.DocumentTimeout = 2 * time.Second
				}
			})
			ref := up.reference(t, "app"+tt.object)
			if tt.object == "" {
				ref = up.reference(t, "app:v1")
			}
			_, err := i.Resolve(t.Context(), source(ref), "")
			wantFailure(t, err, ref, tt.want, tt.text)
			if diff := cmp.Diff(tt.retryAfter, err.(*Error).RetryAfter); diff != "" { //nolint:errorlint // wantFailure has checked it
				t.Errorf("RetryAfter (-want +got):\n%s", diff)
			}
		})
	}
}

// wantFailure holds what is true of every error of this package.
func wantFailure(t *testing.T, err error, ref Reference, kind Kind, text string) {
	t.Helper()
	e, ok := err.(*Error) //nolint:errorlint // the outermost error has to be typed
	if !ok {
		t.Fatalf("got %T %v, want *Error", err, err)
	}
	if e.Kind != kind || e.Reference != ref.String() {
		t.Errorf("got %s of %s: %v, want %s of %s", e.Kind, e.Reference, e, kind, ref)
	}
	if !strings.Contains(e.Error(), text) || strings.Contains(e.Error(), "SECRET") || strings.Contains(e.Error(), "\n") {
		t.Errorf("got %q, want one line with %q and nothing of the host", e, text)
	}
}

func TestResolveOwnHost(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, own, from string
	}{
		{name: "port", own: "127.0.0.1:5000", from: "127.0.0.1:5000/ns/app"},
		{name: "default port", own: "registry.example", from: "registry.example:443/ns/app"},
		{name: "IPv6", own: "[::1]:443", from: "[::1]/ns/app"},
		{name: "IPv4 within IPv6", own: "127.0.0.1:5000", from: "[::ffff:127.0.0.1]:5000/ns/app"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref := parse(t, tt.from)
			_, err := New(Options{OwnHosts: []string{tt.own}}).Resolve(t.Context(), source(ref), "")
			wantFailure(t, err, ref, Blocked, "own registry")
		})
	}
}
