// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

const (
	manifestText = `{"schemaVersion":2}`
	blobText     = "0123456789"
)

var (
	manifestDigest = digest.FromString(manifestText)
	blobDigest     = digest.SHA512.FromString(blobText)
	// brokenDigest is of content whose file cannot be read to its end.
	brokenDigest = digest.FromString("broken")
)

// memory is a backend with one repository, ns/app, that nobody writes to. The tag "fails" is the
// server's fault, "panics" a bug.
type memory struct{ readOnly }

func (memory) Resolve(_ context.Context, repo Repository, tag string) (ocispec.Descriptor, error) {
	switch {
	case tag == "fails":
		return ocispec.Descriptor{}, errors.New("secret path /var/lib")
	case tag == "panics":
		panic("secret state")
	case repo != repoApp:
		return ocispec.Descriptor{}, fmt.Errorf("secret: %w", ErrNameUnknown)
	case tag == "latest", strings.HasPrefix(tag, "anchor-"):
		return ocispec.Descriptor{Digest: manifestDigest}, nil
	default:
		return ocispec.Descriptor{}, fmt.Errorf("secret: %w", ErrManifestUnknown)
	}
}

func (memory) Manifest(_ context.Context, repo Repository, dgst digest.Digest) (Content, error) {
	if repo != repoApp || dgst != manifestDigest {
		return nil, ErrManifestUnknown
	}
	return newText(manifestText, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgst}), nil
}

func (memory) Tags(_ context.Context, repo Repository) ([]string, error) {
	if repo != repoApp {
		return nil, ErrNameUnknown
	}
	return []string{"a", "anchor-" + hex256, "b", "c&d", "latest"}, nil
}

func (memory) Referrers(_ context.Context, repo Repository, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if repo != repoApp || subject != manifestDigest {
		return nil, nil
	}
	return []ocispec.Descriptor{
		{MediaType: "m", Digest: blobDigest, Size: 1, ArtifactType: "a/sbom"}, {MediaType: "m", Digest: brokenDigest, Size: 2, ArtifactType: "a/sig"},
	}, nil
}

func (memory) Blob(_ context.Context, repo Repository, dgst digest.Digest) (Content, error) {
	switch {
	case repo == repoApp && dgst == blobDigest:
		return newText(blobText, ocispec.Descriptor{Digest: dgst}), nil
	case repo == repoApp && dgst == brokenDigest:
		content := newText(strings.Repeat("x", 1<<20), ocispec.Descriptor{Digest: dgst})
		content.desc.Size *= 2
		return content, nil
	default:
		return nil, ErrBlobUnknown
	}
}

type text struct {
	*strings.Reader
	desc ocispec.Descriptor
}

func newText(s string, desc ocispec.Descriptor) *text {
	desc.Size = int64(len(s))
	return &text{strings.NewReader(s), desc}
}

func (*text) Close() error                     { return nil }
func (t *text) Descriptor() ocispec.Descriptor { return t.desc }

// tokenAuthorizer knows three tokens: "all" may do everything, "none" nothing, and
// "pull" pulls from ns/app.
type tokenAuthorizer struct{}

func (tokenAuthorizer) Authorize(ctx context.Context, creds Credentials, repo Repository, action Action) (context.Context, error) {
	switch {
	case creds.Token == "all", creds.Token == "none" && repo == Repository{}, creds.Token == "pull" && repo == repoApp && action == ActionPull:
		return ctx, nil
	case creds.Token == "none", creds.Token == "pull":
		return nil, fmt.Errorf("secret: %w", ErrDenied)
	case creds.Token == "down":
		return nil, errors.New("secret: the authority does not answer")
	default:
		return nil, fmt.Errorf("secret: %w", ErrUnauthenticated)
	}
}

// answer is what a test looks at in a response.
type answer struct {
	Status      int
	Body        string
	ContentType string
	Digest      string
	Range       string
	Challenge   string
	Allow       string
	Filters     string
	Link        string
}

func errorAnswer(status int, code, message string) answer {
	body := fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
	return answer{Status: status, Body: body, ContentType: "application/json"}
}

func of(e Error) answer {
	a := errorAnswer(answers[e].status, answers[e].code, answers[e].message)
	if e == ErrUnauthenticated {
		a.Challenge = `Basic realm="Tagger"`
	}
	return a
}

func TestHandler(t *testing.T) {
	t.Parallel()
	manifest := answer{Status: 200, Body: manifestText, ContentType: ocispec.MediaTypeImageManifest, Digest: manifestDigest.String()}
	blob := answer{Status: 200, Body: blobText, ContentType: "application/octet-stream", Digest: blobDigest.String()}
	part := func(status int, body, contentRange string) answer {
		a := blob
		a.Status, a.Body, a.Range = status, body, contentRange
		return a
	}
	referrers := func(descriptors string) answer {
		return answer{Status: 200, ContentType: ocispec.MediaTypeImageIndex,
			Body: `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[` + descriptors + "]}\n"}
	}
	sbom := `{"mediaType":"m","digest":"` + blobDigest.String() + `","size":1,"artifactType":"a/sbom"}`
	sig := `{"mediaType":"m","digest":"` + brokenDigest.String() + `","size":2,"artifactType":"a/sig"}`
	filtered := func(a answer) answer {
		a.Filters = "artifactType"
		return a
	}
	const tagsPath = "/v2/ns/app/tags/list"
	tags := func(next string, tags ...string) answer {
		list, err := json.Marshal(append([]string{}, tags...))
		if err != nil {
			t.Fatal(err)
		}
		a := answer{Status: 200, ContentType: "application/json", Body: `{"name":"ns/app","tags":` + string(list) + "}\n"}
		if next != "" {
			a.Link = "<" + tagsPath + "?" + next + `>; rel="next"`
		}
		return a
	}
	referrersPath := "/v2/ns/app/referrers/" + manifestDigest.String()
	blobPath := "/v2/ns/app/blobs/" + blobDigest.String()
	tests := []struct {
		name   string
		method string // GET when empty
		path   string
		header http.Header // of token "all" when nil
		want   answer
	}{
		{name: "ping", path: "/v2/", want: answer{Status: 200, Body: "{}", ContentType: "application/json"}},
		{name: "manifest by tag", path: "/v2/ns/app/manifests/latest", want: manifest},
		{name: "manifest by digest", path: "/v2/ns/app/manifests/" + manifestDigest.String(), want: manifest},
		{name: "blob", path: blobPath, want: blob},
		{name: "blob with an escaped colon", path: strings.ReplaceAll(blobPath, ":", "%3a"), want: blob},
		{name: "head of a manifest", method: http.MethodHead, path: "/v2/ns/app/manifests/latest", want: func() answer {
			a := manifest
			a.Body = ""
			return a
		}()},
		{name: "range", path: blobPath, header: bearer("all", "Range", "bytes=2-4"), want: part(206, "234", "bytes 2-4/10")},
		{name: "rest", path: blobPath, header: bearer("all", "Range", "bytes=7-"), want: part(206, "789", "bytes 7-9/10")},
		{name: "suffix", path: blobPath, header: bearer("all", "Range", "bytes=-1"), want: part(206, "9", "bytes 9-9/10")},
		{name: "range beyond the end", path: blobPath, header: bearer("all", "Range", "bytes=10-"), want: func() answer {
			a := part(416, "invalid range: failed to overlap\n", "bytes */10")
			a.ContentType = "text/plain; charset=utf-8"
			return a
		}()},
		{name: "unchanged", path: blobPath, header: bearer("all", "If-None-Match", `"`+blobDigest.String()+`"`), want: answer{
			Status: 304, Digest: blobDigest.String(),
		}},
		{name: "range of changed content", path: blobPath, header: bearer("all", "Range", "bytes=2-4", "If-Range", `"other"`), want: blob},

		{name: "unknown tag", path: "/v2/ns/app/manifests/other", want: of(ErrManifestUnknown)},
		{name: "unknown repository", path: "/v2/ns/other/manifests/latest", want: of(ErrNameUnknown)},
		{name: "unknown manifest", path: "/v2/ns/app/manifests/" + blobDigest.String(), want: of(ErrManifestUnknown)},
		{name: "unknown blob", path: "/v2/ns/app/blobs/" + manifestDigest.String(), want: of(ErrBlobUnknown)},
		{name: "anchor", path: "/v2/ns/app/manifests/anchor-" + hex256, want: of(ErrManifestUnknown)},
		{name: "invalid name", path: "/v2/NS/app/manifests/latest", want: of(ErrNameInvalid)},
		{name: "dots", path: "/v2/ns/../app/manifests/latest", want: of(ErrNameInvalid)},
		{name: "escaped slash", path: "/v2/ns%2fapp/x/manifests/latest", want: of(ErrNameInvalid)},
		{name: "invalid digest", path: "/v2/ns/app/blobs/sha256:x", want: of(ErrDigestInvalid)},
		{name: "referrers", path: referrersPath, want: referrers(sbom + "," + sig)},
		{name: "referrers of one type", path: referrersPath + "?artifactType=a/sig", want: filtered(referrers(sig))},
		{name: "referrers of no type", path: referrersPath + "?artifactType=b", want: filtered(referrers(""))},
		{name: "referrers of nothing", path: "/v2/ns/other/referrers/" + manifestDigest.String(), want: referrers("")},
		{name: "referrers, denied", path: referrersPath, header: bearer("none"), want: of(ErrNameUnknown)},
		{name: "referrers of no digest", path: "/v2/ns/app/referrers/latest", want: of(ErrDigestInvalid)},
		{name: "tags", path: tagsPath, want: tags("", "a", "b", "c&d", "latest")},
		{name: "first tags", path: tagsPath + "?n=2", want: tags("last=b&n=2", "a", "b")},
		{name: "next tags", path: tagsPath + "?n=1&last=b", want: tags("last=c%26d&n=1", "c&d")},
		{name: "last tags", path: tagsPath + "?n=5&last=c%26d", want: tags("", "latest")},
		{name: "no tags", path: tagsPath + "?n=0", want: tags("")},
		{name: "tags after a tag that is not there", path: tagsPath + "?last=bb", want: tags("", "c&d", "latest")},
		{name: "not so many", path: tagsPath + "?n=-1", want: of(ErrPaginationInvalid)},
		{name: "tags of nothing", path: "/v2/ns/other/tags/list", want: of(ErrNameUnknown)},
		{name: "tags, denied", path: tagsPath, header: bearer("none"), want: of(ErrNameUnknown)},
		{name: "a method that is not served", method: http.MethodPatch, path: "/v2/ns/app/manifests/latest", want: func() answer {
			a := of(ErrUnsupported)
			a.Allow = "DELETE, GET, HEAD, PUT"
			return a
		}()},
		{name: "push by who may pull", method: http.MethodPost, path: "/v2/ns/app/blobs/uploads/", header: bearer("pull"), want: of(ErrForbidden)},
		{name: "push by who may pull elsewhere", method: http.MethodPost, path: "/v2/ns/other/blobs/uploads/", header: bearer("pull"), want: of(ErrNameUnknown)},
		{name: "deletion by who may pull", method: http.MethodDelete, path: "/v2/ns/app/manifests/latest", header: bearer("pull"), want: of(ErrForbidden)},
		{name: "failure", path: "/v2/ns/app/manifests/fails", want: of(ErrInternal)},
		{name: "panic", path: "/v2/ns/app/manifests/panics", want: of(ErrInternal)},

		{name: "anonymous", path: blobPath, header: http.Header{}, want: of(ErrUnauthenticated)},
		{name: "anonymous ping", path: "/v2/", header: http.Header{}, want: of(ErrUnauthenticated)},
		{name: "wrong token", path: blobPath, header: bearer("wrong"), want: of(ErrUnauthenticated)},
		{name: "unknown scheme", path: blobPath, header: http.Header{"Authorization": {"Digest all"}}, want: of(ErrUnauthenticated)},
		{name: "malformed Basic", path: blobPath, header: http.Header{"Authorization": {"Basic all"}}, want: of(ErrUnauthenticated)},
		{name: "Basic", path: blobPath, header: http.Header{"Authorization": {"Basic YW55Ym9keTphbGw="}}, want: blob},
		{name: "authority down", path: blobPath, header: bearer("down"), want: of(ErrInternal)},
		{name: "ping of somebody who may do nothing", path: "/v2/", header: bearer("none"), want: answer{Status: 200, Body: "{}", ContentType: "application/json"}},
		{name: "denied", path: blobPath, header: bearer("none"), want: of(ErrNameUnknown)},
		{name: "denied, tag", path: "/v2/ns/app/manifests/latest", header: bearer("none"), want: of(ErrNameUnknown)},
		{name: "denied, nothing there", path: "/v2/ns/other/manifests/latest", header: bearer("none"), want: of(ErrNameUnknown)},
	}
	server := httptest.NewServer(New(memory{}, tokenAuthorizer{}, Options{}))
	t.Cleanup(server.Close)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			method := tt.method
			if method == "" {
				method = http.MethodGet
			}
			request, err := http.NewRequestWithContext(t.Context(), method, server.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if request.Header = tt.header; request.Header == nil {
				request.Header = bearer("all")
			}
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			header := response.Header
			got := answer{
				Status:      response.StatusCode,
				Body:        string(body),
				ContentType: header.Get("Content-Type"),
				Digest:      header.Get("Docker-Content-Digest"),
				Range:       header.Get("Content-Range"),
				Challenge:   header.Get("WWW-Authenticate"),
				Allow:       header.Get("Allow"),
				Filters:     header.Get("OCI-Filters-Applied"),
				Link:        header.Get("Link"),
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for key, want := range map[string]string{
				"Docker-Distribution-Api-Version": "registry/2.0",
				"X-Content-Type-Options":          "nosniff",
			} {
				if diff := cmp.Diff(want, header.Get(key)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", key, diff)
				}
			}
			if bytes.Contains(body, []byte("secret")) {
				t.Errorf("the body says what only the log may: %s", body)
			}
			if got.ContentType == "application/json" && !json.Valid(body) {
				t.Errorf("the body is not JSON: %s", body)
			}
		})
	}
}

func bearer(token string, more ...string) http.Header {
	header := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(more); i += 2 {
		header.Set(more[i], more[i+1])
	}
	return header
}

// TestHandlerCutsBrokenContent holds that a client can never take the beginning
// of a content for all of it.
func TestHandlerCutsBrokenContent(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(New(memory{}, tokenAuthorizer{}, Options{}))
			server.EnableHTTP2 = http2
			server.StartTLS()
			t.Cleanup(server.Close)
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/ns/app/blobs/"+brokenDigest.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = bearer("all")
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			_, err = io.Copy(io.Discard, response.Body)
			if err == nil {
				t.Error("reading the body: got nil, want an error")
			}
			if http2 && errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("reading the body: got %v, want an error of the stream", err)
			}
		})
	}
}

func TestCredentialsHideToken(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		creds Credentials
		want  string
	}{
		{name: "anonymous", want: "anonymous anonymous anonymous"},
		{name: "token", creds: Credentials{Username: "user", Token: "s3cret"}, want: "[redacted] [redacted] [redacted]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, fmt.Sprintf("%v %+v %#v", tt.creds, tt.creds, tt.creds)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
