// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/test/lab"
)

// by lets a fault answer the requests of a method, and the registry all others.
func by(method string, f lab.Fault) lab.Fault {
	return lab.When(func(r *http.Request) bool { return r.Method == method }, f)
}

// locating begins uploads that go on somewhere.
func locating(location func(r *http.Request) string) lab.Fault {
	return by(http.MethodPost, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Location", location(r))
		w.WriteHeader(http.StatusAccepted)
	})
}

func saying(code string) string {
	return `{"errors":[{"code":"` + code + `","message":"SECRET"}]}`
}

// TestManifestsThatTakeTime: a mirror that takes its time with manifests has a few of them in memory at once, and other mirrors theirs.
func TestManifestsThatTakeTime(t *testing.T) {
	t.Parallel()
	slow, quick := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	e := serve(t, Config{Mirrors: mirrors{"slow": registryAt(t, slow), "quick": registryAt(t, quick)}})
	config := e.put(t, "slow/app", "{}")
	m := e.putManifest(t, "slow/app", "v1", ocispec.Manifest{Config: config})
	e.put(t, "quick/app", "{}")
	e.putManifest(t, "quick/app", "v1", ocispec.Manifest{Config: config})
	var mu sync.Mutex
	under, most := 0, 0
	full, open := make(chan struct{}), make(chan struct{})
	slow.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		mu.Lock()
		under++
		if most = max(most, under); under == maxDocumentsOfNamespace {
			close(full)
		}
		mu.Unlock()
		<-open
		registry.ServeHTTP(w, r)
		mu.Lock()
		defer mu.Unlock()
		under--
	})
	var group sync.WaitGroup
	for range 3 * maxDocumentsOfNamespace {
		group.Go(func() {
			want(t, "a slow one", e.do(t, http.MethodGet, "/v2/slow/app/manifests/"+m.Digest.String(), ""), "200")
		})
	}
	<-full
	want(t, "one of another mirror", e.do(t, http.MethodGet, "/v2/quick/app/manifests/"+m.Digest.String(), ""), "200")
	slow.Misbehave(nil)
	close(open)
	group.Wait()
	if most > maxDocumentsOfNamespace {
		t.Errorf("%d manifests were read at once, want at most %d", most, maxDocumentsOfNamespace)
	}
}

func TestMisbehavingMirror(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("x", 1<<20)
	blob := digest.FromString(content).String()
	manifest := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`
	read, begin := "GET /v2/ns/app/blobs/"+blob, "POST /v2/ns/app/blobs/uploads/"
	readManifest := "GET /v2/ns/app/manifests/" + digest.FromString(manifest).String()
	putManifest := "PUT /v2/ns/app/manifests/v1"
	tags, referrers := "GET /v2/ns/app/tags/list", "GET /v2/ns/app/referrers/"+blob
	for _, tt := range []struct {
		name    string
		fault   lab.Fault
		request string
		body    string
		want    string
		words   []string
		cut     bool
	}{
		{name: "an upload goes on at another host", request: begin, want: "503 UNKNOWN", words: []string{"at another host"}, fault: locating(func(*http.Request) string { return "https://169.254.169.254/latest" })},
		{name: "at another port", request: begin, want: "503 UNKNOWN", words: []string{"at another host"}, fault: locating(func(r *http.Request) string { return "https://127.0.0.1:1/v2/x" })},
		{name: "as another user", request: begin, want: "503 UNKNOWN", fault: locating(func(r *http.Request) string { return "https://a:b@" + r.Host + "/v2/x" })},
		{name: "at the same host", request: begin, want: "202", fault: locating(func(r *http.Request) string { return "https://" + r.Host + "/v2/x?y=z" })},
		{name: "at the same host, said to be plain HTTP by a proxy", request: begin, want: "202", fault: locating(func(r *http.Request) string { return "http://" + r.Host + "/v2/x" })},
		{name: "at a path", request: begin, want: "202", fault: locating(func(r *http.Request) string { return "/v2/x" })},
		{name: "at a path that never ends", request: begin, want: "503 UNKNOWN", words: []string{"4096 bytes"}, fault: locating(func(r *http.Request) string { return "/" + strings.Repeat("x", 5000) })},
		{name: "nowhere", request: begin, want: "503 UNKNOWN", fault: lab.Answering(http.StatusAccepted, "", "")},
		{name: "no uploads", request: begin, want: "503 UNKNOWN", words: []string{"403 DENIED", "credentials"}, fault: lab.Answering(http.StatusForbidden, "application/json", saying("DENIED"))},
		{name: "too many uploads", request: begin, want: "429 TOOMANYREQUESTS", fault: lab.Answering(http.StatusTooManyRequests, "application/json", saying("TOOMANYREQUESTS"))},
		{name: "no space", request: begin, want: "507 UNKNOWN", fault: lab.Answering(http.StatusInsufficientStorage, "", "SECRET")},
		{name: "another blob", request: read, want: "200", cut: true, fault: lab.Only(lab.Blobs, lab.Altering(lab.Flip))},
		{name: "half of a blob", request: read, want: "200", cut: true, fault: lab.Only(lab.Blobs, lab.Altering(lab.Half))},
		{name: "more than a blob", request: read, want: "200", cut: true, fault: lab.Only(lab.Blobs, lab.Altering(lab.Longer))},
		{name: "a blob that stops in the middle", request: read, want: "200", cut: true, fault: lab.Only(lab.Blobs, lab.HangingAfter(1<<19))},
		{name: "a blob that is gone meanwhile", request: read, want: "404 BLOB_UNKNOWN", fault: lab.Only(lab.Blobs, lab.Answering(http.StatusNotFound, "", "SECRET"))},
		{name: "another part of a blob", request: read + " 5-9", want: "503 UNKNOWN", words: []string{"another part"}, fault: lab.Only(lab.Blobs, func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
			r.Header.Set("Range", "bytes=6-10")
			registry.ServeHTTP(w, r)
		})},
		{name: "no parts of a blob", request: read + " 5-9", want: "206", fault: lab.Only(lab.Blobs, func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
			r.Header.Del("Range")
			registry.ServeHTTP(w, r)
		})},
		{name: "a blob of no size", request: read, want: "503 UNKNOWN", words: []string{"how large"}, fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Transfer-Encoding", "chunked")
		}},
		{name: "a token that expires", request: read, want: "200", fault: lab.Tokens(1)},
		{name: "no access any more", request: read, want: "503 UNKNOWN", words: []string{"the Secret tagger/mirror-registry-config"}, fault: lab.Basic("u", "p")},
		{name: "another manifest", request: readManifest, want: "503 UNKNOWN", words: []string{"another manifest"}, fault: lab.Only(lab.Manifests, lab.Altering(lab.Flip))},
		{name: "a manifest that never ends", request: readManifest, want: "503 UNKNOWN", words: []string{"4194304 bytes"}, fault: lab.Only(lab.Manifests, lab.Endless(ocispec.MediaTypeImageManifest, 1<<30, false))},
		{name: "a page of a manifest's type", request: readManifest, want: "200", fault: lab.Only(lab.Manifests, typed("text/html"))},
		{name: "an error", request: readManifest, want: "503 UNKNOWN", words: []string{"answered 500"}, fault: lab.Answering(http.StatusInternalServerError, "application/json", saying("SECRET"))},
		{name: "a redirect without end", request: readManifest, want: "503 UNKNOWN", fault: lab.Looping},
		{name: "a manifest that it does not like", request: putManifest, body: manifest, want: "400 MANIFEST_INVALID", words: []string{"the mirror does not accept it"}, fault: by(http.MethodPut, lab.Answering(http.StatusBadRequest, "application/json", saying("SECRET")))},
		{name: "a manifest of which it lacks something", request: putManifest, body: manifest, want: "400 MANIFEST_BLOB_UNKNOWN", fault: by(http.MethodPut, lab.Answering(http.StatusNotFound, "application/json", saying("MANIFEST_BLOB_UNKNOWN")))},
		{name: "a manifest that is too large", request: putManifest, body: manifest, want: "413 SIZE_INVALID", fault: by(http.MethodPut, lab.Answering(http.StatusRequestEntityTooLarge, "", ""))},
		{name: "a manifest that it changes", request: putManifest, body: manifest, want: "503 UNKNOWN", words: []string{"another manifest"}, fault: by(http.MethodPut, lab.WithHeader("Docker-Content-Digest", blob, lab.Answering(http.StatusCreated, "", "")))},
		{name: "no list of tags", request: tags, want: "503 UNKNOWN", words: []string{"no list of tags"}, fault: lab.Answering(http.StatusOK, "application/json", "SECRET")},
		{name: "tags that are none", request: tags, want: "200", fault: lab.Answering(http.StatusOK, "application/json", `{"tags":["-SECRET","<SECRET>","v1"]}`)},
		{name: "tags without end", request: tags, want: "503 UNKNOWN", words: []string{"go on for more than"}, fault: lab.WithHeader("Link", `<https://192.0.2.1/?last=a>; rel="next"`, lab.Answering(http.StatusOK, "", `{"tags":["a"]}`))},
		{name: "too many tags", request: tags, want: "503 UNKNOWN", words: []string{"more than 100000 tags"}, fault: lab.Answering(http.StatusOK, "", `{"tags":["a"`+strings.Repeat(`,"b"`, 100_000)+`]}`)},
		{name: "referrers that are none", request: referrers, want: "200", fault: lab.Answering(http.StatusOK, "", `{"manifests":[{"mediaType":"SECRET","digest":"SECRET","size":-1}]}`)},
		{name: "no list of referrers", request: referrers, want: "503 UNKNOWN", fault: lab.Answering(http.StatusOK, "", `SECRET`)},
		{name: "tags cannot be deleted", request: "DELETE /v2/ns/app/manifests/v1", want: "405 UNSUPPORTED", words: []string{"does not let the tag v1 be deleted"}, fault: by(http.MethodDelete, lab.Answering(http.StatusMethodNotAllowed, "", ""))},
		{name: "manifests cannot be deleted", request: "DELETE" + readManifest[3:], want: "405 UNSUPPORTED", words: []string{"which stays"}, fault: by(http.MethodDelete, lab.Answering(http.StatusMethodNotAllowed, "", ""))},
		{name: "blobs cannot be deleted", request: "DELETE" + read[3:], want: "405 UNSUPPORTED", fault: by(http.MethodDelete, lab.Answering(http.StatusMethodNotAllowed, "", ""))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			source := lab.New(t, lab.TrustedTLS)
			e := serve(t, Config{Mirrors: mirrors{"ns": registryAt(t, source, func(_ *mirror.Config, o *mirror.Options) { o.StallTimeout = 2 * time.Second })}})
			e.put(t, "ns/app", content)
			want(t, "a manifest", e.do(t, http.MethodPut, "/v2/ns/app/manifests/v1", manifest), "201")
			source.Misbehave(tt.fault)
			method, path, _ := strings.Cut(tt.request, " ")
			path, part, _ := strings.Cut(path, " ")
			headers := []string{}
			if part != "" {
				headers = append(headers, "Range: bytes="+part)
			}
			got := e.do(t, method, path, tt.body, headers...)
			want(t, tt.name, got, tt.want, tt.words...)
			if got.cut != tt.cut || got.cut && len(got.body) >= len(content) {
				t.Errorf("cut: %t, after %d bytes", got.cut, len(got.body))
			}
		})
	}
}

func typed(mediaType string) lab.Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		registry.ServeHTTP(&typing{w, mediaType}, r)
	}
}

// typing says of what is sent that it is of some type.
type typing struct {
	http.ResponseWriter
	mediaType string
}

func (t *typing) WriteHeader(code int) {
	t.Header().Set("Content-Type", t.mediaType)
	t.ResponseWriter.WriteHeader(code)
}

// TestMisbehavingUpload: what an upload is answered that was begun well.
func TestMisbehavingUpload(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method string
		fault        lab.Fault
		want         string
		words        []string
	}{
		{name: "it goes on at another host", method: http.MethodPatch, want: "503 UNKNOWN", words: []string{"another host"}, fault: lab.WithHeader("Location", "https://192.0.2.1/x", lab.Answering(http.StatusAccepted, "", ""))},
		{name: "it is gone", method: http.MethodPatch, want: "404 BLOB_UPLOAD_UNKNOWN", fault: lab.Answering(http.StatusNotFound, "application/json", saying("BLOB_UPLOAD_UNKNOWN"))},
		{name: "it is elsewhere", method: http.MethodPatch, want: "416 BLOB_UPLOAD_INVALID", fault: lab.Answering(http.StatusRequestedRangeNotSatisfiable, "", "")},
		{name: "another digest", method: http.MethodPut, want: "400 DIGEST_INVALID", words: []string{"another digest"}, fault: lab.Answering(http.StatusBadRequest, "application/json", saying("DIGEST_INVALID"))},
		{name: "another digest, in other words", method: http.MethodPut, want: "400 DIGEST_INVALID", words: []string{"another digest"}, fault: lab.Answering(http.StatusBadRequest, "application/json", saying("BLOB_UPLOAD_INVALID"))},
		{name: "too large", method: http.MethodPut, want: "413 SIZE_INVALID", fault: lab.Answering(http.StatusRequestEntityTooLarge, "", "SECRET")},
		{name: "no space", method: http.MethodPut, want: "507 UNKNOWN", fault: lab.Answering(http.StatusInsufficientStorage, "", "SECRET")},
		{name: "access is refused in the middle", method: http.MethodPatch, want: "503 UNKNOWN", fault: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.ReadFull(r.Body, make([]byte, 1))
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}},
		{name: "it is stored before it was sent", method: http.MethodPut, want: "503 UNKNOWN", fault: lab.Answering(http.StatusCreated, "", "")},
		{name: "it is sent elsewhere", method: http.MethodPatch, want: "503 UNKNOWN", fault: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, "/v2/ns/other/x", http.StatusSeeOther)
		}},
		{name: "how far it is", method: http.MethodGet, want: "204", fault: by(http.MethodGet, lab.WithHeader("Range", "0-41", lab.Answering(http.StatusNoContent, "", "")))},
		{name: "how far it is, which it does not say", method: http.MethodGet, want: "204", fault: by(http.MethodGet, lab.Answering(http.StatusMethodNotAllowed, "", ""))},
		{name: "giving it up", method: http.MethodDelete, want: "204", fault: lab.Answering(http.StatusMethodNotAllowed, "", "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			source := lab.New(t, lab.TrustedTLS)
			e := serve(t, Config{Mirrors: mirrors{"ns": registryAt(t, source, func(c *mirror.Config, _ *mirror.Options) { c.Username, c.Password = "u", "p" })}})
			begun := e.do(t, http.MethodPost, "/v2/ns/app/blobs/uploads/", "")
			want(t, "beginning", begun, "202")
			source.Misbehave(tt.fault)
			path, body := begun.header.Get("Location"), ""
			switch tt.method {
			case http.MethodPut:
				path += "?digest=" + digest.FromString("x").String()
				body = strings.Repeat("x", 1<<20)
			case http.MethodPatch:
				body = strings.Repeat("x", 1<<20)
			}
			got := e.do(t, tt.method, path, body)
			want(t, tt.name, got, tt.want, tt.words...)
			if tt.name == "how far it is" && got.header.Get("Range") != "0-41" {
				t.Errorf("Range: %s", got.header.Get("Range"))
			}
		})
	}
}
