// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pusherAuthorizer lets the token "all" do everything, and "push" push to ns/app and pull from there, from ns/base
// and from other/base.
type pusherAuthorizer struct{}

func (pusherAuthorizer) Authorize(ctx context.Context, creds Credentials, repo Repository, action Action) (context.Context, error) {
	readable := repo == repoApp || repo.Name == "base"
	switch {
	case creds.Token == "all", creds.Token == "push" && (repo == repoApp && action == ActionPush || readable && action == ActionPull):
		return ctx, nil
	case creds.Token == "push":
		return nil, ErrDenied
	default:
		return nil, ErrUnauthenticated
	}
}

// step is a request and what it is to get. LOCATION in a path stands for the last answer's header of that name.
type step struct {
	method, path string
	token        string // "push" when empty
	header       map[string]string
	body         string
	chunked      bool // sent without its length
	want         reply
}

// reply is what a test looks at in a response.
type reply struct {
	Status                                                      int
	Code                                                        string // of the error
	Location, Range, Digest, Subject, Tags, Allow, Retry, Bytes string
}

func refused(e Error) reply { return reply{Status: answers[e].status, Code: answers[e].code} }

const (
	appBlobs   = "/v2/ns/app/blobs/"
	appUploads = "/v2/ns/app/blobs/uploads/"
	appTag     = "/v2/ns/app/manifests/v1"
)

func uploading(id, have string) reply {
	return reply{Status: http.StatusAccepted, Location: appUploads + id, Range: have}
}

func stored(kind string, dgst digest.Digest) reply {
	return reply{Status: http.StatusCreated, Location: "/v2/ns/app/" + kind + "/" + dgst.String(), Digest: dgst.String()}
}

var (
	baseRepo, foreignRepo, secretRepo = Repository{"ns", "base"}, Repository{"other", "base"}, Repository{"ns", "secret"}
	canonicalBlob                     = digest.FromString(blobText)
)

// pushServer serves a backend that has blobText in several repositories.
func pushServer(t *testing.T, options Options) (*httptest.Server, *pushable) {
	t.Helper()
	backend := newPushable()
	for _, repo := range []Repository{baseRepo, foreignRepo, secretRepo} {
		backend.put(repo, ocispec.Descriptor{Digest: canonicalBlob}, blobText)
	}
	return serve(t, backend, options), backend
}

// serve starts a server of HTTP/2 with TLS.
func serve(t *testing.T, backend Backend, options Options) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(New(backend, pusherAuthorizer{}, options))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// run sends the steps one after another.
func run(t *testing.T, server *httptest.Server, steps []step) {
	t.Helper()
	location := ""
	for i, s := range steps {
		path := strings.ReplaceAll(s.path, "LOCATION", location)
		var body io.Reader
		switch {
		case s.chunked:
			body = struct{ io.Reader }{strings.NewReader(s.body)} // its length is not to be seen
		case s.body != "":
			body = strings.NewReader(s.body)
		}
		request, err := http.NewRequestWithContext(t.Context(), s.method, server.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if s.token == "" {
			s.token = "push"
		}
		request.Header = bearer(s.token)
		for key, value := range s.header {
			request.Header.Set(key, value)
		}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatalf("step %d, %s %s: %v", i, s.method, path, err)
		}
		raw, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close() // read to its end
		header := response.Header
		got := reply{
			Status: response.StatusCode, Location: header.Get("Location"), Range: header.Get("Range"), Digest: header.Get("Docker-Content-Digest"),
			Subject: header.Get("OCI-Subject"), Tags: strings.Join(header.Values("OCI-Tag"), " "), Allow: header.Get("Allow"), Retry: header.Get("Retry-After"),
		}
		var document errorDocument
		switch {
		case response.StatusCode < 400:
			got.Bytes = string(raw)
		case json.Unmarshal(raw, &document) != nil || len(document.Errors) != 1:
			if s.method != http.MethodHead {
				t.Errorf("step %d, %s %s: %q is no error document", i, s.method, path, raw)
			}
		default:
			got.Code = document.Errors[0].Code
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Errorf("step %d, %s %s: %s (-want +got):\n%s", i, s.method, path, raw, diff)
		}
		location = header.Get("Location")
	}
}

// TestUploads goes through the ways in which a blob may come.
func TestUploads(t *testing.T) {
	t.Parallel()
	begin := step{method: http.MethodPost, path: appUploads, want: uploading("u1-sha256", "0-0")}
	read := step{method: http.MethodGet, path: appBlobs + canonicalBlob.String(), want: reply{Status: 200, Digest: canonicalBlob.String(), Bytes: blobText}}
	put := func(dgst digest.Digest, body string, want reply) step {
		return step{method: http.MethodPut, path: "LOCATION?digest=" + dgst.String(), body: body, want: want}
	}
	patch := func(body, contentRange string, want reply) step {
		s := step{method: http.MethodPatch, path: "LOCATION", body: body, want: want}
		if contentRange != "" {
			s.header = map[string]string{"Content-Range": contentRange}
		}
		return s
	}
	post := func(query string, want reply) step {
		return step{method: http.MethodPost, path: appUploads + "?" + query, want: want}
	}
	at := func(e Error, have string) reply {
		r := refused(e)
		r.Location, r.Range = appUploads+"u1-sha256", have
		return r
	}
	state := func(have string) step {
		return step{method: http.MethodGet, path: "LOCATION", want: reply{Status: http.StatusNoContent, Location: appUploads + "u1-sha256", Range: have}}
	}
	streamed := func(body, contentRange string, want reply) step {
		s := patch(body, contentRange, want)
		s.chunked = true
		return s
	}
	goesOn := func(have string) step {
		s := state(have)
		s.path = appUploads + "u1-sha256"
		return s
	}
	gone := step{method: http.MethodGet, path: appUploads + "u1-sha256", want: refused(ErrUploadUnknown)}
	done := stored("blobs", canonicalBlob)
	tests := []struct {
		name  string
		steps []step
	}{
		{name: "POST and PUT", steps: []step{begin, put(canonicalBlob, blobText, done), read, gone}},
		{name: "POST without the last slash", steps: []step{{method: http.MethodPost, path: strings.TrimSuffix(appUploads, "/"), want: begin.want}}},
		{name: "one POST", steps: []step{{method: http.MethodPost, path: appUploads + "?digest=" + canonicalBlob.String(), body: blobText, want: done}, read, gone}},
		{name: "one POST of unknown length", steps: []step{
			{method: http.MethodPost, path: appUploads + "?digest=" + canonicalBlob.String(), body: blobText, chunked: true, want: done}, read,
		}},
		{name: "one POST of another digest", steps: []step{
			{method: http.MethodPost, path: appUploads + "?digest=" + canonicalBlob.String(), body: "x", want: refused(ErrDigestInvalid)}, gone,
		}},
		{name: "streamed", steps: []step{
			begin, {method: http.MethodPatch, path: "LOCATION", body: blobText, chunked: true, want: uploading("u1-sha256", "0-9")}, put(canonicalBlob, "", done), read,
		}},
		{name: "chunks", steps: []step{
			begin, patch("0123", "0-3", uploading("u1-sha256", "0-3")), state("0-3"),
			patch("4567", "4-7", uploading("u1-sha256", "0-7")), put(canonicalBlob, "89", done), read, gone,
		}},
		{name: "a chunk too early, then the right one", steps: []step{
			begin, patch("4567", "4-7", at(ErrRangeInvalid, "0-0")), state("0-0"), patch("0123", "0-3", uploading("u1-sha256", "0-3")),
		}},
		{name: "a chunk twice", steps: []step{begin, patch("0123", "0-3", uploading("u1-sha256", "0-3")), patch("0123", "0-3", at(ErrRangeInvalid, "0-3")), state("0-3")}},
		{name: "a last chunk out of order", steps: []step{
			begin, {method: http.MethodPut, path: "LOCATION?digest=" + canonicalBlob.String(), header: map[string]string{"Content-Range": "5-9"}, body: "56789", want: at(ErrRangeInvalid, "0-0")},
			state("0-0"),
		}},
		{name: "a chunk with the unit and the total", steps: []step{begin, patch("0123", "bytes 0-3/10", uploading("u1-sha256", "0-3"))}},
		{name: "a chunk longer than its range", steps: []step{begin, patch("0123", "0-2", at(ErrUploadInvalid, "0-0"))}},
		{name: "a chunk shorter than its range", steps: []step{begin, patch("0123", "0-4", at(ErrUploadInvalid, "0-0"))}},
		{name: "a chunk of unknown length", steps: []step{begin, streamed("0123", "0-3", uploading("u1-sha256", "0-3")), put(canonicalBlob, "456789", done)}},
		{name: "one that is longer than its range", steps: []step{
			begin, streamed("01234", "0-2", refused(ErrUploadInvalid)), goesOn("0-2"), patch("3456", "3-6", uploading("u1-sha256", "0-6")),
		}},
		{name: "one that is shorter than its range", steps: []step{
			begin, streamed("012", "0-9", refused(ErrUploadInvalid)), goesOn("0-2"), patch("3456", "3-6", uploading("u1-sha256", "0-6")),
		}},
		{name: "one that is shorter than the largest range", steps: []step{
			begin, streamed("012", "0-4611686018427387903", refused(ErrUploadInvalid)), goesOn("0-2"),
		}},
		{name: "a last one that is shorter than its range", steps: []step{
			begin, {
				method: http.MethodPut, path: "LOCATION?digest=" + canonicalBlob.String(), header: map[string]string{"Content-Range": "0-10"}, body: blobText,
				chunked: true, want: refused(ErrUploadInvalid),
			}, goesOn("0-9"),
		}},
		{name: "a range that is none", steps: []step{begin, patch("0123", "from the start", at(ErrUploadInvalid, "0-0"))}},
		{name: "a range that ends before it begins", steps: []step{begin, patch("0123", "3-0", at(ErrUploadInvalid, "0-0"))}},
		{name: "a range beyond all numbers", steps: []step{begin, patch("0123", "0-9223372036854775808", at(ErrUploadInvalid, "0-0"))}},
		{name: "HEAD of an upload", steps: []step{begin, {method: http.MethodHead, path: "LOCATION", want: state("0-0").want}}},
		{name: "given up", steps: []step{begin, {method: http.MethodDelete, path: "LOCATION", want: reply{Status: http.StatusNoContent}}, gone}},
		{name: "an upload of another repository", steps: []step{begin, {
			method: http.MethodPatch, path: "/v2/ns/other/blobs/uploads/u1-sha256", token: "all", body: "x", want: refused(ErrUploadUnknown),
		}}},
		{name: "PUT without a digest", steps: []step{begin, {method: http.MethodPut, path: "LOCATION", body: blobText, want: refused(ErrDigestInvalid)}}},
		{name: "PUT with another digest", steps: []step{begin, put(manifestDigest, blobText, refused(ErrDigestInvalid)), gone}},
		{name: "PUT with an algorithm that is not served", steps: []step{begin, put(digest.Digest("sha384:"+hex512[:96]), blobText, refused(ErrDigestInvalid))}},
		{name: "PUT with a digest of another algorithm than was begun with", steps: []step{
			begin, put(blobDigest, blobText, stored("blobs", blobDigest)),
		}},
		{name: "sha512", steps: []step{
			post("digest-algorithm=sha512", uploading("u1-sha512", "0-0")), put(blobDigest, blobText, stored("blobs", blobDigest)),
			{method: http.MethodGet, path: appBlobs + blobDigest.String(), want: reply{Status: 200, Digest: blobDigest.String(), Bytes: blobText}},
		}},
		{name: "one POST, sha512", steps: []step{{method: http.MethodPost, path: appUploads + "?digest=" + blobDigest.String(), body: blobText, want: stored("blobs", blobDigest)}}},
		{name: "an algorithm that is not served", steps: []step{post("digest-algorithm=sha384", refused(ErrDigestInvalid)), gone}},
		{name: "one POST of a malformed digest", steps: []step{post("digest=sha256:x", refused(ErrDigestInvalid)), gone}},

		{name: "mount", steps: []step{post("mount="+canonicalBlob.String()+"&from=ns/base", done), read, gone}},
		{name: "mount from another namespace, which may be read", steps: []step{post("mount="+canonicalBlob.String()+"&from=other/base", done), read}},
		{name: "mount of what may not be read", steps: []step{post("mount="+canonicalBlob.String()+"&from=ns/secret", begin.want), {
			method: http.MethodHead, path: appBlobs + canonicalBlob.String(), want: reply{Status: 404},
		}, {method: http.MethodGet, path: appUploads + "u1-sha256", want: state("0-0").want}}},
		{name: "mount of what is not there", steps: []step{post("mount="+manifestDigest.String()+"&from=ns/base", begin.want)}},
		{name: "mount from nowhere", steps: []step{post("mount="+canonicalBlob.String(), begin.want)}},
		{name: "mount from what is no name", steps: []step{post("mount="+canonicalBlob.String()+"&from=../secret", begin.want)}},
		{name: "mount of what is no digest", steps: []step{post("mount=latest&from=ns/base", refused(ErrDigestInvalid)), gone}},
		{name: "mount with a digest, which is there", steps: []step{post("mount="+canonicalBlob.String()+"&from=ns/base&digest="+canonicalBlob.String(), done)}},
		{name: "mount with a digest, which is not there", steps: []step{
			post("mount="+canonicalBlob.String()+"&from=ns/secret&digest="+canonicalBlob.String(), begin.want), put(canonicalBlob, blobText, done),
		}},

		{name: "who may not push", steps: []step{
			{method: http.MethodPost, path: "/v2/ns/base/blobs/uploads/", want: refused(ErrForbidden)},
			{method: http.MethodPost, path: "/v2/ns/secret/blobs/uploads/", want: refused(ErrNameUnknown)},
			{method: http.MethodPost, path: "/v2/ns/nothing/blobs/uploads/", want: refused(ErrNameUnknown)},
			{method: http.MethodPost, path: appUploads, token: "wrong", want: refused(ErrUnauthenticated)},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, _ := pushServer(t, Options{})
			run(t, server, tt.steps)
		})
	}
}

// TestLargeBlobs: what is too large is refused, by its length or while it comes.
func TestLargeBlobs(t *testing.T) {
	t.Parallel()
	server, backend := pushServer(t, Options{MaxBlobBytes: 9})
	whole := appUploads + "?digest=" + canonicalBlob.String()
	run(t, server, []step{
		{method: http.MethodPost, path: whole, body: blobText, want: refused(ErrSizeInvalid)},
		{method: http.MethodPost, path: whole, body: blobText, chunked: true, want: refused(ErrSizeInvalid)},
	})
	patch := func(e Error) reply {
		r := refused(e)
		r.Location, r.Range = fmt.Sprintf("%su%d-sha256", appUploads, backend.started+1), "0-0"
		return r
	}
	refusal := patch(ErrSizeInvalid)
	run(t, server, []step{
		{method: http.MethodPost, path: appUploads, want: reply{Status: http.StatusAccepted, Location: refusal.Location, Range: "0-0"}},
		{method: http.MethodPatch, path: "LOCATION", body: blobText, want: refusal},
		{method: http.MethodPatch, path: "LOCATION", body: blobText[:9], want: reply{Status: http.StatusAccepted, Location: refusal.Location, Range: "0-8"}},
		{method: http.MethodPut, path: "LOCATION?digest=" + canonicalBlob.String(), body: blobText[9:], chunked: true, want: refused(ErrSizeInvalid)},
	})
}
