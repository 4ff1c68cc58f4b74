// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzParseRequest holds that whatever passes follows the grammar, that it and its path say the same, and that its
// action is that of its method.
func FuzzParseRequest(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2/ns/app/manifests/latest", "/v2/ns/app/blobs/sha256:" + hex256, "/v2/ns/app/manifests/sha512:" + hex512,
		"/v2/ns/a%2Fb/manifests/x", "/v2/../x/blobs/y", "//v2/", "/v2/ns/app/blobs/sha256%3A" + hex256, "/v2/ns/app/manifests/%",
		"/v2/ns/app/blobs/uploads/", "/v2/ns/app/blobs/uploads", "/v2/ns/app/blobs/uploads/Ab_9-", "/v2/ns/app/tags/list", "/v2/ns/app/referrers/sha256:" + hex256,
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodPost} {
			f.Add(method, path)
		}
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		req, err := parseRequest(method, path)
		if err != nil {
			if asError(err) == ErrInternal {
				t.Errorf("%s %q: an error that is no Error: %v", method, path, err)
			}
			return
		}
		canonical := req.path()
		for _, segment := range strings.Split(strings.TrimPrefix(canonical, pathPrefix), "/") {
			if segment == "." || segment == ".." || segment == "" && req.kind != kindPing && req.kind != kindUploads {
				t.Errorf("%q: segment %q came through", path, segment)
			}
		}
		if escaped := (&url.URL{Path: canonical}).EscapedPath(); escaped != canonical {
			t.Errorf("%q: %q needs escaping", path, canonical)
		}
		again, err := parseRequest(method, canonical)
		if err != nil {
			t.Fatalf("%q: its canonical path %q: %v", path, canonical, err)
		}
		if diff := cmp.Diff(req, again, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("%q and %q (-first +second):\n%s", path, canonical, diff)
		}
		reads := method == http.MethodGet || method == http.MethodHead
		if req.method != method || reads != (req.action == ActionPull) && req.kind != kindUpload || req.action == ActionDelete && method != http.MethodDelete {
			t.Errorf("%s %q is to %s", method, path, req.action)
		}
		if (req.repo.Validate() != nil) != (req.kind == kindPing) {
			t.Errorf("%q: the repository %q came through", path, req.repo)
		}
	})
}

// FuzzUploadID: what an upload may be called is what may stand in a path as it is.
func FuzzUploadID(f *testing.F) {
	for _, id := range []string{"Ab_9-", "..", "a/b", "a%2fb", "", "\x00", strings.Repeat("a", maxUploadID+1)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		req, err := parseRequest(http.MethodPatch, appUploads+url.PathEscape(id))
		switch {
		case err != nil && id != "" && !errors.Is(err, ErrUploadUnknown):
			t.Errorf("%q: %v", id, err)
		case err == nil && (req.upload != id || url.PathEscape(id) != id || strings.Trim(id, ".") == "" || len(id) > maxUploadID):
			t.Errorf("%q came through as %q", id, req.upload)
		}
	})
}

// FuzzChunkRange: what passes says where a chunk begins and ends, and nothing else does.
func FuzzChunkRange(f *testing.F) {
	for _, value := range []string{"0-3", "bytes 0-3/10", "bytes 0-3/*", "3-0", "-3", "0-", "0-9223372036854775808", "+1-2", "0x1-2", " 0-3", "bytes bytes 0-1"} {
		f.Add(value, int64(4), int64(0))
	}
	h := New(newPushable(), pusherAuthorizer{}, Options{MaxBlobBytes: 1 << 40}).(*handler)
	f.Fuzz(func(t *testing.T, value string, length, size int64) {
		first, last, err := parseChunkRange(value)
		if err != nil {
			if !errors.Is(err, ErrUploadInvalid) {
				t.Errorf("%q: %v", value, err)
			}
			return
		}
		if again := fmt.Sprintf("%d-%d", first, last); first < 0 || last < first || !strings.Contains(strings.ReplaceAll(value, "0", ""), strings.ReplaceAll(again, "0", "")) {
			t.Errorf("%q is %d to %d", value, first, last)
		}
		r := httptest.NewRequest(http.MethodPatch, appUploads+"x", nil)
		r.Header["Content-Range"], r.ContentLength = []string{value}, length
		if size < 0 {
			return
		}
		if got, err := h.checkChunk(r, size); err == nil && (first != size || got != last-first+1 || length >= 0 && length != got || got > 1<<40-size) {
			t.Errorf("%q of %d bytes continues %d", value, length, size)
		}
	})
}

// FuzzDigest: what passes is of the two algorithms, in their only spelling.
func FuzzDigest(f *testing.F) {
	for _, value := range []string{"sha256:" + hex256, "sha512:" + hex512, "sha384:" + hex512[:96], "sha256:../..", "sha256:" + strings.ToUpper(hex256), "SHA256:" + hex256, "sha256+b64:x", ":"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		dgst, err := parseDigest(value)
		if err != nil {
			if !errors.Is(err, ErrDigestInvalid) {
				t.Errorf("%q: %v", value, err)
			}
			return
		}
		algorithm, encoded, _ := strings.Cut(value, ":")
		want := map[string]int{"sha256": 64, "sha512": 128}[algorithm]
		if dgst.String() != value || len(encoded) != want || strings.Trim(encoded, "0123456789abcdef") != "" {
			t.Errorf("%q came through as %q", value, dgst)
		}
	})
}

// FuzzAuthorization: a header that is there is either credentials or refused, and they are not printed.
func FuzzAuthorization(f *testing.F) {
	for _, value := range []string{"Bearer token", "bearer  token ", "Bearer", "Basic YW55Ym9keTphbGw=", "Basic Og==", "Basic eDo=", "basic x", "Digest all", " ", "Bearer a b"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.Header["Authorization"] = []string{value}
		creds, err := credentialsOf(r)
		switch {
		case err != nil && (!errors.Is(err, ErrUnauthenticated) || creds != Credentials{}):
			t.Errorf("%q: %v, %#v", value, err, creds)
		case err == nil && (value == "") != (creds == Credentials{}), err == nil && value != "" && creds.Token == "":
			t.Errorf("%q is taken for somebody without a token", value)
		}
		if printed := fmt.Sprintf("%v %+v %#v %s", creds, creds, creds, creds); len(creds.Token) > len("[redacted] anonymous") && strings.Contains(printed, creds.Token) {
			t.Errorf("%q is printed: %s", value, printed)
		}
	})
}

// FuzzPutManifest: whatever is pushed is refused as the client's fault, or is there as it was sent.
func FuzzPutManifest(f *testing.F) {
	const oci = ocispec.MediaTypeImageManifest
	for _, body := range []string{
		manifestText, `{"mediaType":"` + oci + `"}`, `{"subject":{"digest":"` + manifestDigest.String() + `"}}`, `{"subject":null}`, `{"subject":[]}`,
		`{"mediaType":1}`, "{", "[]", "null", `"x"`, "", `{"mediaType":"a","mediaType":"` + oci + `"}`, `{"MEDIATYPE":"` + ocispec.MediaTypeImageIndex + `"}`,
	} {
		f.Add(oci, "", []byte(body))
		f.Add("", "tag=a&tag=b", []byte(body))
	}
	f.Add("a/b; c=\"", "digest="+manifestDigest.String(), []byte(manifestText))
	f.Fuzz(func(t *testing.T, contentType, query string, body []byte) {
		handler := New(newPushable(), pusherAuthorizer{}, Options{})
		r := httptest.NewRequest(http.MethodPut, appTag, bytes.NewReader(body))
		r.URL.RawQuery = query
		r.Header = bearer("push")
		r.Header["Content-Type"] = []string{contentType}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			if !slices.Contains([]int{http.StatusBadRequest, http.StatusRequestEntityTooLarge}, w.Code) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			return
		}
		subject, err := Subject(body)
		if err != nil || w.Header().Get("OCI-Subject") != subject.String() {
			t.Errorf("subject %q, %v, and OCI-Subject %q", subject, err, w.Header().Get("OCI-Subject"))
		}
		r = httptest.NewRequest(http.MethodGet, w.Header().Get("Location"), nil)
		r.Header = bearer("push")
		w = httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if got, err := io.ReadAll(w.Body); err != nil || w.Code != http.StatusOK || !bytes.Equal(got, body) {
			t.Errorf("read back: %d, %q, %v", w.Code, got, err)
		}
	})
}

// FuzzRange: whatever range and preconditions are asked for, what is sent is a
// part of the content, and the one that the header says.
func FuzzRange(f *testing.F) {
	for _, value := range []string{"bytes=0-3", "bytes=-1", "bytes=9-", "bytes=0-0,5-6", "bytes=10-", "bytes=5-1", "bytes=99999999999999999999-", "lines=1", ""} {
		f.Add(value, "")
	}
	f.Add("bytes=1-2", `"`+blobDigest.String()+`"`)
	f.Add("bytes=1-2", `"other"`)
	handler := New(memory{}, tokenAuthorizer{}, Options{})
	f.Fuzz(func(t *testing.T, byteRange, condition string) {
		r := httptest.NewRequest(http.MethodGet, "/v2/ns/app/blobs/"+blobDigest.String(), nil)
		r.SetBasicAuth("x", "all")
		r.Header["Range"], r.Header["If-Range"] = []string{byteRange}, []string{condition}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		body := w.Body.String()
		switch w.Code {
		case http.StatusOK:
			if body != blobText {
				t.Errorf("200 with %q", body)
			}
		case http.StatusPartialContent:
			single := strings.HasPrefix(w.Header().Get("Content-Type"), "application/")
			if single && !strings.Contains(blobText, body) {
				t.Errorf("206 with %q", body)
			}
		case http.StatusRequestedRangeNotSatisfiable:
		default:
			t.Errorf("%d for the range %q", w.Code, byteRange)
		}
	})
}
