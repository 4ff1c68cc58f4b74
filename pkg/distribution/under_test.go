// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUnder serves the endpoint below a prefix, and follows a link that it answers.
func TestUnder(t *testing.T) {
	t.Parallel()
	const prefix = "/some/where"
	server := httptest.NewServer(Under(prefix, New(memory{}, tokenAuthorizer{}, Options{})))
	t.Cleanup(server.Close)
	tests := []struct {
		name, path string
		status     int
		body, link string
	}{
		{name: "ping", path: prefix + "/v2/", status: http.StatusOK, body: "{}"},
		{name: "blob", path: prefix + "/v2/ns/app/blobs/" + blobDigest.String(), status: http.StatusOK, body: blobText},
		{name: "escaped", path: prefix + "/v2/ns%2Fapp/manifests/latest", status: http.StatusOK, body: manifestText},
		{name: "a page", path: prefix + "/v2/ns/app/tags/list?n=3", status: http.StatusOK, body: `{"name":"ns/app","tags":["a","b","c\u0026d"]}` + "\n",
			link: `<./list?last=c%26d&n=3>; rel="next"`},
		{name: "the page after that", path: prefix + "/v2/ns/app/tags/list?last=c%26d&n=3", status: http.StatusOK, body: `{"name":"ns/app","tags":["latest"]}` + "\n"},
		{name: "without the prefix", path: "/v2/", status: http.StatusNotFound, body: of(ErrEndpointUnknown).Body},
		{name: "the prefix alone", path: prefix, status: http.StatusNotFound, body: of(ErrEndpointUnknown).Body},
		{name: "another slash", path: prefix + "//v2/", status: http.StatusNotFound, body: of(ErrEndpointUnknown).Body},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = bearer("all")
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			want := []any{tt.status, tt.body, tt.link}
			if diff := cmp.Diff(want, []any{response.StatusCode, string(body), response.Header.Get("Link")}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRelative resolves references as clients do.
func TestRelative(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, from, to, want string }{
		{name: "an upload", from: "/v2/ns/app/blobs/uploads/", to: "/v2/ns/app/blobs/uploads/1", want: "./1"},
		{name: "its next chunk", from: "/v2/ns/app/blobs/uploads/1", to: "/v2/ns/app/blobs/uploads/2?state=a/b", want: "./2?state=a/b"},
		{name: "its blob", from: "/v2/ns/app/blobs/uploads/1", to: "/v2/ns/app/blobs/sha256:0", want: "../sha256:0"},
		{name: "a manifest", from: "/v2/ns/app/manifests/latest", to: "/v2/ns/app/manifests/sha256:0", want: "./sha256:0"},
		{name: "another repository", from: "/v2/ns/app/tags/list", to: "/v2/ns/base/tags/list", want: "../../base/tags/list"},
		{name: "a directory", from: "/v2/ns/app", to: "/v2/ns/", want: "./"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := relative(tt.from, tt.to)
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			base, err := url.Parse("https://host/some/where" + tt.from)
			if err != nil {
				t.Fatal(err)
			}
			resolved, err := base.Parse(got)
			if err != nil {
				t.Fatal(err)
			}
			if want := "https://host/some/where" + tt.to; resolved.String() != want {
				t.Errorf("leads to %s, want %s", resolved, want)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		err        error
		want       answer
		retryAfter string
	}{
		{name: "too many", err: fmt.Errorf("secret: %w", ErrTooMany), want: of(ErrTooMany), retryAfter: "5"},
		{name: "stopping", err: ErrUnavailable, want: of(ErrUnavailable), retryAfter: "5"},
		{name: "another image", err: ErrNameUnknown, want: of(ErrNameUnknown)},
		{name: "no kind", err: errors.New("secret"), want: of(ErrInternal)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			Refuse(w, tt.err)
			got := answer{Status: w.Code, Body: w.Body.String(), ContentType: w.Header().Get("Content-Type")}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := w.Header().Get("Retry-After"); got != tt.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, tt.retryAfter)
			}
		})
	}
}
