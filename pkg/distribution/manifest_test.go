// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPutManifest pushes one manifest after another, each to a repository that has none.
func TestPutManifest(t *testing.T) {
	t.Parallel()
	const oci = ocispec.MediaTypeImageManifest
	typed := `{"schemaVersion":2,"mediaType":"` + oci + `"}`
	docker := `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}`
	referring := `{"schemaVersion":2,"subject":{"mediaType":"m","digest":"` + manifestDigest.String() + `","size":1}}`
	by := func(reference string) string { return "/v2/ns/app/manifests/" + reference }
	ok := func(body string) reply { return stored("manifests", digest.FromString(body)) }
	sha512 := digest.SHA512.FromString(typed)
	many := strings.TrimSuffix(strings.Repeat("tag=v&", maxTagParameters+1), "&")
	tagged := func(dgst digest.Digest, tags string) reply {
		r := stored("manifests", dgst)
		r.Tags = tags
		return r
	}
	tests := []struct {
		name        string
		path        string // appTag when empty
		contentType string
		body        string
		chunked     bool
		want        reply
		tags        []string // what the repository has afterwards
	}{
		{name: "by tag", contentType: oci, body: typed, want: ok(typed), tags: []string{"v1"}},
		{name: "without a length", contentType: oci, body: typed, chunked: true, want: ok(typed), tags: []string{"v1"}},
		{name: "without mediaType", contentType: oci, body: manifestText, want: ok(manifestText), tags: []string{"v1"}},
		{name: "without Content-Type", body: typed, want: ok(typed), tags: []string{"v1"}},
		{name: "with parameters of Content-Type", contentType: oci + "; charset=utf-8", body: typed, want: ok(typed), tags: []string{"v1"}},
		{name: "docker's", contentType: "application/vnd.docker.distribution.manifest.v2+json", body: docker, want: ok(docker), tags: []string{"v1"}},
		{name: "an index", contentType: ocispec.MediaTypeImageIndex, body: `{"manifests":[]}`, want: ok(`{"manifests":[]}`), tags: []string{"v1"}},
		{name: "by digest", path: by(digest.FromString(typed).String()), contentType: oci, body: typed, want: ok(typed)},
		{name: "by sha512", path: by(sha512.String()), contentType: oci, body: typed, want: stored("manifests", sha512)},
		{name: "by tag, with a digest", path: appTag + "?digest=" + sha512.String(), contentType: oci, body: typed, want: stored("manifests", sha512), tags: []string{"v1"}},
		{name: "by digest, with tags", path: by(sha512.String()) + "?tag=a&tag=b", contentType: oci, body: typed, want: tagged(sha512, "a b"), tags: []string{"a", "b"}},
		{name: "by tag, with another one", path: appTag + "?tag=other", contentType: oci, body: typed, want: ok(typed), tags: []string{"v1"}},
		{name: "with a subject", contentType: oci, body: referring, tags: []string{"v1"}, want: func() reply {
			r := ok(referring)
			r.Subject = manifestDigest.String()
			return r
		}()},
		{name: "without a subject after all", contentType: oci, body: `{"subject":null}`, want: ok(`{"subject":null}`), tags: []string{"v1"}},
		{name: "the tag of the referrers' scheme", path: by("sha256-" + hex256), contentType: oci, body: typed, want: ok(typed), tags: []string{"sha256-" + hex256}},

		{name: "of another type than it says", contentType: ocispec.MediaTypeImageIndex, body: typed, want: refused(ErrManifestInvalid)},
		{name: "of a type that is not served", contentType: "application/json", body: manifestText, want: refused(ErrManifestInvalid)},
		{name: "of a type that is none", contentType: "a/b/c", body: typed, want: refused(ErrManifestInvalid)},
		{name: "of no type at all", body: manifestText, want: refused(ErrManifestInvalid)},
		{name: "of schema 1", contentType: "application/vnd.docker.distribution.manifest.v1+prettyjws", body: manifestText, want: refused(ErrManifestInvalid)},
		{name: "whose mediaType is no text", contentType: oci, body: `{"mediaType":{}}`, want: refused(ErrManifestInvalid)},
		{name: "not JSON", contentType: oci, body: "{", want: refused(ErrManifestInvalid)},
		{name: "nothing", contentType: oci, want: refused(ErrManifestInvalid)},
		{name: "more than JSON", contentType: oci, body: typed + "x", want: refused(ErrManifestInvalid)},
		{name: "a list", contentType: oci, body: "[]", want: refused(ErrManifestInvalid)},
		{name: "deep", contentType: oci, body: `{"annotations":` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_001), want: refused(ErrManifestInvalid)},
		{name: "deep lists", contentType: oci, body: strings.Repeat("[", 1<<20), want: refused(ErrManifestInvalid)},
		{name: "whose subject is malformed", contentType: oci, body: `{"subject":{"digest":"sha256:x"}}`, want: refused(ErrManifestInvalid)},
		{name: "whose subject is empty", contentType: oci, body: `{"subject":{}}`, want: refused(ErrManifestInvalid)},
		{name: "whose subject is of another algorithm", contentType: oci, body: `{"subject":{"digest":"sha384:` + hex512[:96] + `"}}`, want: refused(ErrManifestInvalid)},
		{name: "whose subject is a text", contentType: oci, body: `{"subject":"` + manifestDigest.String() + `"}`, want: refused(ErrManifestInvalid)},
		{name: "by another digest", path: by(manifestDigest.String()), contentType: oci, body: typed, want: refused(ErrDigestInvalid)},
		{name: "by tag, with another digest", path: appTag + "?digest=" + manifestDigest.String(), contentType: oci, body: typed, want: refused(ErrDigestInvalid)},
		{name: "by tag, with what is no digest", path: appTag + "?digest=x", contentType: oci, body: typed, want: refused(ErrDigestInvalid)},
		{name: "by a digest of another algorithm", path: by("sha384:" + hex512[:96]), contentType: oci, body: typed, want: refused(ErrDigestInvalid)},
		{name: "with too many tags", path: by(manifestDigest.String()) + "?" + many, contentType: oci, body: manifestText, want: refused(ErrManifestInvalid)},
		{name: "with a malformed tag", path: by(manifestDigest.String()) + "?tag=a&tag=../b", contentType: oci, body: manifestText, want: refused(ErrManifestInvalid)},
		{name: "with an empty tag", path: by(manifestDigest.String()) + "?tag=", contentType: oci, body: manifestText, want: refused(ErrManifestInvalid)},
		{name: "with a reserved tag", path: by(manifestDigest.String()) + "?tag=a&tag=anchor-b", contentType: oci, body: manifestText, want: refused(ErrReserved)},
		{name: "by a reserved tag", path: by("anchor-" + hex256), contentType: oci, body: typed, want: refused(ErrReserved)},
		{name: "by what is no tag", path: by(".v1"), contentType: oci, body: typed, want: refused(ErrManifestUnknown)},
		{name: "as large as may be", contentType: oci, body: padded(4 << 20), want: ok(padded(4 << 20)), tags: []string{"v1"}},
		{name: "a byte larger", contentType: oci, body: padded(4<<20 + 1), want: refused(ErrSizeInvalid)},
		{name: "a byte larger, without a length", contentType: oci, body: padded(4<<20 + 1), chunked: true, want: refused(ErrSizeInvalid)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, backend := pushServer(t, Options{})
			if tt.path == "" {
				tt.path = appTag
			}
			header := map[string]string{}
			if tt.contentType != "" {
				header["Content-Type"] = tt.contentType
			}
			run(t, server, []step{{method: http.MethodPut, path: tt.path, header: header, body: tt.body, chunked: tt.chunked, want: tt.want}})
			tags, err := backend.Tags(t.Context(), repoApp)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.tags, tags); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			if len(tt.tags) > 0 {
				want := reply{Status: 200, Digest: tt.want.Digest, Bytes: tt.body}
				run(t, server, []step{{method: http.MethodGet, path: "/v2/ns/app/manifests/" + tt.tags[0], want: want}})
			}
		})
	}
}

// padded is a manifest of that many bytes.
func padded(size int) string {
	frame := `{"schemaVersion":2,"annotations":{"a":""}}`
	return strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1)
}

// TestDelete removes what is there, and what is not.
func TestDelete(t *testing.T) {
	t.Parallel()
	const blobPath, manifestPath = appBlobs, "/v2/ns/app/manifests/"
	gone := reply{Status: http.StatusAccepted}
	tests := []struct {
		name  string
		path  string
		token string
		fails error
		want  reply
	}{
		{name: "tag", path: appTag, want: gone},
		{name: "manifest", path: manifestPath + manifestDigest.String(), want: gone},
		{name: "blob", path: blobPath + canonicalBlob.String(), want: gone},
		{name: "tag that is not there", path: manifestPath + "v2", want: refused(ErrManifestUnknown)},
		{name: "manifest that is not there", path: manifestPath + digest.FromString("x").String(), want: refused(ErrManifestUnknown)},
		{name: "manifest that is a blob", path: manifestPath + canonicalBlob.String(), want: refused(ErrManifestUnknown)},
		{name: "blob that is not there", path: blobPath + digest.FromString("x").String(), want: refused(ErrBlobUnknown)},
		{name: "reserved tag", path: manifestPath + "anchor-1", want: refused(ErrManifestUnknown)},
		{name: "in use", path: blobPath + canonicalBlob.String(), fails: fmt.Errorf("secret: %w", ErrInUse), want: refused(ErrInUse)},
		{name: "who may only push", path: appTag, token: "push", want: refused(ErrForbidden)},
		{name: "who may do nothing there", path: "/v2/ns/secret/manifests/v1", token: "push", want: refused(ErrNameUnknown)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, backend := pushServer(t, Options{})
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: manifestDigest}
			if err := backend.PutManifest(t.Context(), repoApp, desc, []byte(manifestText), []string{"v1", "anchor-1"}); err != nil {
				t.Fatal(err)
			}
			backend.put(repoApp, ocispec.Descriptor{Digest: canonicalBlob}, blobText)
			backend.fails = tt.fails
			if tt.token == "" {
				tt.token = "all"
			}
			run(t, server, []step{{method: http.MethodDelete, path: tt.path, token: tt.token, want: tt.want}})
			again := reply{Status: http.StatusNotFound}
			if tt.want.Status == http.StatusAccepted {
				run(t, server, []step{{method: http.MethodHead, path: tt.path, token: "all", want: again}})
			}
			if _, err := backend.Resolve(t.Context(), repoApp, "anchor-1"); err != nil {
				t.Errorf("the reserved tag is gone: %v", err)
			}
		})
	}
}

// TestErrors: each failure of a backend has its status, code and headers, and never its own text.
func TestErrors(t *testing.T) {
	t.Parallel()
	codes := []string{
		"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID",
		"MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
		"UNKNOWN", "PAGINATION_NUMBER_INVALID", // not of the specification
	}
	statuses := map[Error]int{
		ErrInternal: 500, ErrUnauthenticated: 401, ErrInsufficientScope: 401, ErrTokenTooLarge: 403, ErrDenied: 404, ErrForbidden: 403, ErrReserved: 403, ErrFull: 403, ErrNameUnknown: 404, ErrManifestUnknown: 404,
		ErrBlobUnknown: 404, ErrUploadUnknown: 404, ErrEndpointUnknown: 404, ErrUnsupported: 405, ErrInUse: 409, ErrConflict: 409,
		ErrSizeInvalid: 413, ErrRangeInvalid: 416, ErrTooMany: 429, ErrUnavailable: 503, ErrNoSpace: 507,
	}
	for e := ErrInternal; e <= ErrEndpointUnknown; e++ {
		t.Run(e.Error(), func(t *testing.T) {
			t.Parallel()
			want, ok := statuses[e]
			if !ok {
				want = http.StatusBadRequest
			}
			for _, err := range []error{e, fmt.Errorf("secret: %w", e), Explain(e, "do %s", "that"), errors.Join(Explain(e, "do that"), errors.New("secret"))} {
				w := httptest.NewRecorder()
				writeError(w, err)
				body := w.Body.String()
				if w.Code != want || !slices.Contains(codes, answers[e].code) || !strings.Contains(body, answers[e].code) {
					t.Errorf("%v: %d %s, want %d and a code of the specification", err, w.Code, body, want)
				}
				if strings.Contains(body, "secret") {
					t.Errorf("%v: %s", err, body)
				}
				if (w.Header().Get("Retry-After") != "") != (e == ErrTooMany || e == ErrUnavailable) {
					t.Errorf("%v: Retry-After is %q", err, w.Header().Get("Retry-After"))
				}
			}
		})
	}
}

// TestFailuresOfPushes: what the backend fails with while something is written is what the client is told.
func TestFailuresOfPushes(t *testing.T) {
	t.Parallel()
	retry := refused(ErrTooMany)
	retry.Retry = "5"
	for _, tt := range []struct {
		fails error
		want  reply
	}{
		{fails: ErrNoSpace, want: refused(ErrNoSpace)},
		{fails: Explain(ErrTooMany, "too much"), want: retry},
		{fails: Explain(ErrFull, "the namespace is full"), want: refused(ErrFull)},
		{fails: ErrManifestBlobUnknown, want: refused(ErrManifestBlobUnknown)},
		{fails: errors.New("secret path"), want: refused(ErrInternal)},
	} {
		server, backend := pushServer(t, Options{})
		backend.fails = tt.fails
		run(t, server, []step{
			{method: http.MethodPost, path: appUploads, want: tt.want},
			{method: http.MethodPost, path: appUploads + "?digest=" + canonicalBlob.String(), body: blobText, want: tt.want},
			{method: http.MethodPost, path: appUploads + "?mount=" + canonicalBlob.String() + "&from=ns/base", want: tt.want},
			{method: http.MethodPut, path: appTag, header: map[string]string{"Content-Type": ocispec.MediaTypeImageManifest}, body: manifestText, want: tt.want},
		})
	}
}

// TestManifestsWait: no more manifests are read at once than have room in memory, and none for long.
func TestManifestsWait(t *testing.T) {
	t.Parallel()
	server, _ := pushServer(t, Options{StallTimeout: 2 * time.Second})
	client := server.Client()
	type outcome struct {
		status int
		err    error
	}
	done := make(chan outcome)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	const attackers = 2 * maxManifestsOfNamespace
	for range attackers {
		body := &dripping{ctx: ctx, every: 20 * time.Millisecond}
		go func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodPut, server.URL+appTag, body)
			if err != nil {
				done <- outcome{err: err}
				return
			}
			request.Header = bearer("push", "Content-Type", ocispec.MediaTypeImageManifest)
			response, err := client.Do(request)
			if err != nil {
				done <- outcome{err: err}
				return
			}
			done <- outcome{status: response.StatusCode, err: response.Body.Close()}
		}()
	}
	for range attackers {
		// A body that goes on for ever is cut off, one that found no place is not read at all.
		if got := <-done; got.err == nil && got.status != http.StatusBadRequest && got.status != http.StatusTooManyRequests {
			t.Errorf("%+v", got)
		}
	}
	run(t, server, []step{{
		method: http.MethodPut, path: appTag, header: map[string]string{"Content-Type": ocispec.MediaTypeImageManifest}, body: manifestText,
		want: stored("manifests", manifestDigest),
	}})
}

// TestQueryThatIsNone: a query that cannot be read is as one that is not there, and no failure of the server.
func TestQueryThatIsNone(t *testing.T) {
	t.Parallel()
	server, _ := pushServer(t, Options{})
	run(t, server, []step{
		{method: http.MethodPost, path: appUploads + "?digest=%zz;mount", want: uploading("u1-sha256", "0-0")},
		{method: http.MethodPost, path: appUploads + "?" + url.Values{"digest": {"sha256:" + hex256 + "\r\nX: y"}}.Encode(), want: refused(ErrDigestInvalid)},
	})
}
