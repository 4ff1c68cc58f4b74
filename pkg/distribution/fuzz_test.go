// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

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
