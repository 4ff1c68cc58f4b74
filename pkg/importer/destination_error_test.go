// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMirrorAnswer: what a mirror answers becomes the Kinds of a mirror, and
// nothing that it wrote gets into their texts.
func TestMirrorAnswer(t *testing.T) {
	t.Parallel()
	const configured = "; it is configured in the Secret ns/s"
	tests := []struct {
		name   string
		status int
		header http.Header
		body   string
		want   Error
		text   string
	}{
		{name: "unauthorized", status: 401, body: `{"errors":[{"code":"UNAUTHORIZED","message":"SECRET"}]}`, want: Error{Kind: MirrorUnauthorized},
			text: "the mirror failed: blob x: mirror.example refused access (401 UNAUTHORIZED); its credentials are missing, wrong, or do not allow that" + configured},
		{name: "denied", status: 403, body: "SECRET", want: Error{Kind: MirrorUnauthorized}},
		{name: "not found", status: 404, want: Error{Kind: MirrorUnavailable},
			text: "the mirror failed: blob x: not found at mirror.example (404); the mirror lost it, makes no repository when something is pushed there, or is no registry" + configured},
		{name: "busy", status: 429, header: http.Header{"Retry-After": {"7"}}, want: Error{Kind: MirrorUnavailable, RetryAfter: 7 * time.Second}},
		{name: "failing", status: 503, header: http.Header{"Retry-After": {"9"}}, body: "SECRET", want: Error{Kind: MirrorUnavailable, RetryAfter: 9 * time.Second}},
		{name: "full", status: 507, want: Error{Kind: MirrorUnavailable}, text: "the mirror has no space left; have the administrator add some"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			resp := &http.Response{
				StatusCode: tt.status, Header: tt.header, Body: io.NopCloser(strings.NewReader(tt.body)),
				Request: httptest.NewRequest(http.MethodGet, "https://mirror.example/SECRET", nil),
			}
			got := MirrorAnswer(resp, "blob x", "the Secret ns/s", time.Now())
			if diff := cmp.Diff(tt.want, Error{Kind: got.Kind, RetryAfter: got.RetryAfter, credentials: got.credentials}, cmp.AllowUnexported(Error{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.text != "" && got.Error() != tt.text || strings.Contains(got.Error(), "SECRET") {
				t.Errorf("got %q, want %q", got, tt.text)
			}
		})
	}
}

func TestMirrorFailure(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want Kind
		text string
	}{
		{err: &url.Error{URL: "https://mirror.example/SECRET", Err: io.EOF}, want: MirrorUnavailable,
			text: "the mirror failed: mirror.example closed the connection; it is configured in the Secret ns/s"},
		{err: &url.Error{URL: "https://mirror.example", Err: Guard{}.Control(t.Context(), "", "127.0.0.1:1", nil)}, want: Blocked,
			text: "the mirror failed: the registry is at a loopback address, which is refused here; ask the administrator or use another registry; it is configured in the Secret ns/s"},
		{err: &url.Error{URL: "https://mirror.example", Err: http.ErrSchemeMismatch}, want: MirrorUnavailable,
			text: `the mirror failed: mirror.example does not speak TLS; if plain HTTP is meant, set the key insecure to "true"; it is configured in the Secret ns/s`},
		{err: &url.Error{URL: "https://mirror.example", Err: x509.UnknownAuthorityError{}}, want: MirrorUnavailable,
			text: "the mirror failed: the certificate of mirror.example is signed by an unknown authority; " +
				`put its CA into the key ca, or set the key insecure to "true"; it is configured in the Secret ns/s`},
		{err: errors.New("SECRET"), want: MirrorUnauthorized},
		{err: &Error{Kind: MirrorUnauthorized, Err: errors.New("as it is")}, want: MirrorUnauthorized, text: "as it is"},
	} {
		got := MirrorFailure(tt.err, "mirror.example", "the Secret ns/s")
		if got.Kind != tt.want || tt.text != "" && got.Error() != tt.text || strings.Contains(got.Error(), "SECRET") {
			t.Errorf("%v: got %s: %v, want %s: %s", tt.err, got.Kind, got, tt.want, tt.text)
		}
	}
}
