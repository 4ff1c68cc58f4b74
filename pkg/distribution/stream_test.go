// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// elsewhere has one blob that is no file, and notes what was opened of it.
type elsewhere struct {
	memory
	opened *[]string
	// fails has every reading fail after so many bytes, if it is not negative; broken the opening.
	fails  int64
	broken error
}

func (e elsewhere) Blob(context.Context, Repository, digest.Digest) (Content, error) {
	return &far{newText(strings.Repeat(blobText, 1000), ocispec.Descriptor{Digest: blobDigest}), e}, nil
}

type far struct {
	*text
	elsewhere
}

func (f *far) Open(offset, size int64) (io.ReadCloser, error) {
	*f.opened = append(*f.opened, fmt.Sprintf("%d+%d", offset, size))
	if f.broken != nil {
		return nil, f.broken
	}
	reader := io.Reader(io.NewSectionReader(f.text, offset, size))
	if f.fails >= 0 {
		reader = io.MultiReader(io.LimitReader(reader, f.fails), iotest.ErrReader(errors.New("secret")))
	}
	return io.NopCloser(reader), nil
}

// TestStream: content that lies elsewhere is asked for once, and for what is needed of it.
func TestStream(t *testing.T) {
	t.Parallel()
	all := strings.Repeat(blobText, 1000)
	for _, tt := range []struct {
		name, method string
		header       http.Header
		fails        int64
		broken       error
		want         int
		body         string // of the answer, or its beginning
		cut          bool
		opened       []string
	}{
		{name: "all", fails: -1, want: 200, body: all, opened: []string{"0+10000"}},
		{name: "HEAD", method: http.MethodHead, fails: -1, want: 200},
		{name: "a part", header: http.Header{"Range": {"bytes=3-4"}}, fails: -1, want: 206, body: "34", opened: []string{"3+2"}},
		{name: "the end", header: http.Header{"Range": {"bytes=-2"}}, fails: -1, want: 206, body: "89", opened: []string{"9998+2"}},
		{name: "several parts", header: http.Header{"Range": {"bytes=0-0,2-3"}}, fails: -1, want: 200, body: all, opened: []string{"0+10000"}},
		{name: "no such part", header: http.Header{"Range": {"bytes=10000-"}}, fails: -1, want: 416, body: "invalid range"},
		{name: "what is known", header: http.Header{"If-None-Match": {`"` + blobDigest.String() + `"`}}, fails: -1, want: 304},
		{name: "it is gone", fails: -1, broken: ErrBlobUnknown, want: 404, body: `{"errors":[{"code":"BLOB_UNKNOWN"`, opened: []string{"0+10000"}},
		{name: "it fails", fails: -1, broken: errors.New("secret"), want: 500, body: `{"errors":[{"code":"UNKNOWN"`, opened: []string{"0+10000"}},
		{name: "it fails at the first byte", fails: 0, want: 500, body: `{"errors":[{"code":"UNKNOWN"`, opened: []string{"0+10000"}},
		{name: "it fails in the middle", fails: 9000, want: 200, cut: true, opened: []string{"0+10000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var opened []string
			server := httptest.NewServer(New(elsewhere{opened: &opened, fails: tt.fails, broken: tt.broken}, tokenAuthorizer{}, Options{}))
			defer server.Close()
			req, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+"/v2/ns/app/blobs/"+blobDigest.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for key, values := range tt.header {
				req.Header[key] = values
			}
			req.Header.Set("Authorization", "Bearer all")
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.want || !strings.HasPrefix(string(body), tt.body) || (err != nil) != tt.cut || strings.Contains(string(body), "secret") {
				t.Errorf("got %d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
			if header := resp.Header.Get("Docker-Content-Digest"); (header == "") != (tt.want == 404 || tt.want == 500) {
				t.Errorf("Docker-Content-Digest: %q", header)
			}
			if diff := cmp.Diff(tt.opened, opened); diff != "" {
				t.Errorf("opened (-want +got):\n%s", diff)
			}
		})
	}
}
