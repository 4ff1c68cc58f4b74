// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

const (
	hex256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	hex512 = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce" +
		"47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

var repoApp = Repository{Namespace: "ns", Name: "app"}

// TestRequests holds what parseRequest and path do, each the other's inverse.
func TestRequests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		methods []string // GET and HEAD when nil
		path    string
		want    request
	}{
		{name: "ping", path: "/v2/", want: request{kind: kindPing}},
		{name: "tag", path: "/v2/ns/app/manifests/latest", want: request{kind: kindManifest, repo: repoApp, tag: "latest"}},
		{name: "tag of all characters", path: "/v2/ns/app/manifests/_A.b-9", want: request{kind: kindManifest, repo: repoApp, tag: "_A.b-9"}},
		{
			name: "longest tag", path: "/v2/ns/app/manifests/" + strings.Repeat("t", 128),
			want: request{kind: kindManifest, repo: repoApp, tag: strings.Repeat("t", 128)},
		},
		{
			name: "manifest by sha256", path: "/v2/ns/app/manifests/sha256:" + hex256,
			want: request{kind: kindManifest, repo: repoApp, digest: digest.Digest("sha256:" + hex256)},
		},
		{
			name: "manifest by sha512", path: "/v2/ns/app/manifests/sha512:" + hex512,
			want: request{kind: kindManifest, repo: repoApp, digest: digest.Digest("sha512:" + hex512)},
		},
		{
			name: "blob", path: "/v2/ns/app/blobs/sha256:" + hex256,
			want: request{kind: kindBlob, repo: repoApp, digest: digest.Digest("sha256:" + hex256)},
		},
		{
			name: "referrers", path: "/v2/ns/app/referrers/sha256:" + hex256,
			want: request{kind: kindReferrers, repo: repoApp, digest: digest.Digest("sha256:" + hex256)},
		},
		{name: "tags", path: "/v2/ns/app/tags/list", want: request{kind: kindTags, repo: repoApp}},
		{
			name: "repeated separators", path: "/v2/a--b/c__d.e/manifests/v1",
			want: request{kind: kindManifest, repo: Repository{Namespace: "a--b", Name: "c__d.e"}, tag: "v1"},
		},
		{
			name: "push of a manifest", methods: []string{http.MethodPut}, path: "/v2/ns/app/manifests/v1",
			want: request{kind: kindManifest, action: ActionPush, repo: repoApp, tag: "v1"},
		},
		{
			name: "deletion of a tag", methods: []string{http.MethodDelete}, path: "/v2/ns/app/manifests/v1",
			want: request{kind: kindManifest, action: ActionDelete, repo: repoApp, tag: "v1"},
		},
		{
			name: "deletion of a blob", methods: []string{http.MethodDelete}, path: "/v2/ns/app/blobs/sha256:" + hex256,
			want: request{kind: kindBlob, action: ActionDelete, repo: repoApp, digest: digest.Digest("sha256:" + hex256)},
		},
		{
			name: "beginning of an upload", methods: []string{http.MethodPost}, path: "/v2/ns/app/blobs/uploads/",
			want: request{kind: kindUploads, action: ActionPush, repo: repoApp},
		},
		{
			name: "upload", methods: []string{http.MethodGet, http.MethodPatch, http.MethodPut, http.MethodDelete}, path: "/v2/ns/app/blobs/uploads/Ab_9-",
			want: request{kind: kindUpload, action: ActionPush, repo: repoApp, upload: "Ab_9-"},
		},
		{
			name: "upload in a repository that is called so", methods: []string{http.MethodPatch}, path: "/v2/blobs/uploads/blobs/uploads/x",
			want: request{kind: kindUpload, action: ActionPush, repo: Repository{Namespace: "blobs", Name: "uploads"}, upload: "x"},
		},
		{
			name: "names that are words of the grammar", path: "/v2/manifests/blobs/manifests/manifests",
			want: request{kind: kindManifest, repo: Repository{Namespace: "manifests", Name: "blobs"}, tag: "manifests"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.methods == nil {
				tt.methods, tt.want.action = []string{http.MethodGet, http.MethodHead}, ActionPull
			}
			for _, method := range tt.methods {
				got, err := parseRequest(method, tt.path)
				if err != nil {
					t.Fatal(err)
				}
				tt.want.method = method
				if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(request{})); diff != "" {
					t.Errorf("parsed %s (-want +got):\n%s", method, diff)
				}
			}
			if diff := cmp.Diff(tt.path, tt.want.path()); diff != "" {
				t.Errorf("path (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestEscapedColon(t *testing.T) {
	t.Parallel()
	want := request{kind: kindBlob, method: http.MethodGet, action: ActionPull, repo: repoApp, digest: digest.Digest("sha256:" + hex256)}
	got, err := parseRequest(http.MethodGet, "/v2/ns/app/blobs/sha256%3A"+hex256)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRequestsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		method string // GET when empty
		path   string
		want   Error
	}{
		{name: "root", path: "/", want: ErrEndpointUnknown},
		{name: "no path", path: "", want: ErrEndpointUnknown},
		{name: "other version", path: "/v1/", want: ErrEndpointUnknown},
		{name: "without the slash", path: "/v2", want: ErrEndpointUnknown},
		{name: "double slash in front", path: "//v2/", want: ErrEndpointUnknown},
		{name: "double slash behind", path: "/v2//", want: ErrEndpointUnknown},
		{name: "catalog", path: "/v2/_catalog", want: ErrEndpointUnknown},
		{name: "other of tags", path: "/v2/ns/app/tags/all", want: ErrEndpointUnknown},
		{name: "reading uploads", path: "/v2/ns/app/blobs/uploads/", want: ErrUnsupported},
		{name: "upload of nothing", path: "/v2/ns/app/uploads/x", want: ErrEndpointUnknown},
		{name: "upload without a name", path: "/v2/blobs/uploads/x", want: ErrNameInvalid},
		{name: "upload with a path", path: "/v2/ns/app/blobs/uploads/a%2fb", want: ErrUploadUnknown},
		{name: "upload that leads up", path: "/v2/ns/app/blobs/uploads/..", want: ErrUploadUnknown},
		{name: "upload that is too long", path: "/v2/ns/app/blobs/uploads/" + strings.Repeat("a", maxUploadID+1), want: ErrUploadUnknown},
		{name: "trailing slash", path: "/v2/ns/app/manifests/latest/", want: ErrEndpointUnknown},
		{name: "double slash before the tag", path: "/v2/ns/app/manifests//latest", want: ErrEndpointUnknown},
		{name: "malformed escape", path: "/v2/ns/app/manifests/%zz", want: ErrEndpointUnknown},
		{name: "verb in upper case", path: "/v2/ns/app/Manifests/latest", want: ErrEndpointUnknown},

		{name: "manifest by POST", method: http.MethodPost, path: "/v2/ns/app/manifests/latest", want: ErrUnsupported},
		{name: "blob by PUT", method: http.MethodPut, path: "/v2/ns/app/blobs/sha256:" + hex256, want: ErrUnsupported},
		{name: "upload by POST", method: http.MethodPost, path: "/v2/ns/app/blobs/uploads/x", want: ErrUnsupported},
		{name: "deletion of tags", method: http.MethodDelete, path: "/v2/ns/app/tags/list", want: ErrUnsupported},
		{name: "options", method: http.MethodOptions, path: "/v2/", want: ErrUnsupported},

		{name: "no name", path: "/v2/manifests/latest", want: ErrNameInvalid},
		{name: "one segment", path: "/v2/app/manifests/latest", want: ErrNameInvalid},
		{name: "three segments", path: "/v2/a/b/c/manifests/latest", want: ErrNameInvalid},
		{name: "empty namespace", path: "/v2//app/manifests/latest", want: ErrNameInvalid},
		{name: "empty name", path: "/v2/ns//manifests/latest", want: ErrNameInvalid},
		{name: "double slash in the name", path: "/v2/ns//app/manifests/latest", want: ErrNameInvalid},
		{name: "upper case", path: "/v2/Ns/app/manifests/latest", want: ErrNameInvalid},
		{name: "dot", path: "/v2/./app/manifests/latest", want: ErrNameInvalid},
		{name: "dot dot", path: "/v2/../app/manifests/latest", want: ErrNameInvalid},
		{name: "escaped dot dot", path: "/v2/%2e%2e/app/manifests/latest", want: ErrNameInvalid},
		{name: "escaped slash in a name", path: "/v2/ns/a%2Fb/manifests/latest", want: ErrNameInvalid},
		{name: "escaped slash for a separator", path: "/v2/ns%2Fapp/manifests/latest", want: ErrNameInvalid},
		{name: "escaped slash with an empty segment", path: "/v2/ns%2Fapp//manifests/latest", want: ErrNameInvalid},
		{name: "backslash", path: `/v2/ns/a\b/manifests/latest`, want: ErrNameInvalid},
		{name: "zero byte", path: "/v2/ns/app%00/manifests/latest", want: ErrNameInvalid},
		{name: "newline", path: "/v2/ns/app%0a/manifests/latest", want: ErrNameInvalid},
		{name: "name that begins with a separator", path: "/v2/ns/-app/manifests/latest", want: ErrNameInvalid},
		{name: "name too long", path: "/v2/ns/" + strings.Repeat("a", 253) + "/manifests/latest", want: ErrNameInvalid},

		{name: "empty reference", path: "/v2/ns/app/manifests/", want: ErrManifestUnknown},
		{name: "tag that begins with a dot", path: "/v2/ns/app/manifests/.INVALID", want: ErrManifestUnknown},
		{name: "tag too long", path: "/v2/ns/app/manifests/" + strings.Repeat("t", 129), want: ErrManifestUnknown},
		{name: "tag with an escaped slash", path: "/v2/ns/app/manifests/a%2fb", want: ErrManifestUnknown},
		{name: "tag with a newline", path: "/v2/ns/app/manifests/a%0a", want: ErrManifestUnknown},

		{name: "empty digest", path: "/v2/ns/app/blobs/", want: ErrDigestInvalid},
		{name: "tag for a blob", path: "/v2/ns/app/blobs/latest", want: ErrDigestInvalid},
		{name: "digest too short", path: "/v2/ns/app/blobs/sha256:abc", want: ErrDigestInvalid},
		{name: "digest in upper case", path: "/v2/ns/app/blobs/sha256:" + strings.ToUpper(hex256), want: ErrDigestInvalid},
		{name: "unknown algorithm", path: "/v2/ns/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", want: ErrDigestInvalid},
		{name: "known algorithm that is not registered", path: "/v2/ns/app/manifests/sha384:" + hex512[:96], want: ErrDigestInvalid},
		{name: "digest with a path", path: "/v2/ns/app/manifests/sha256:..%2f..%2f", want: ErrDigestInvalid},
		{name: "tag and digest", path: "/v2/ns/app/manifests/latest@sha256:" + hex256, want: ErrDigestInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			method := tt.method
			if method == "" {
				method = http.MethodGet
			}
			if _, err := parseRequest(method, tt.path); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestParseRepository(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		in   string
		want Repository
		err  error
	}{
		{name: "two segments", in: "ns/app", want: repoApp},
		{name: "one segment", in: "app", err: ErrNameInvalid},
		{name: "three segments", in: "ns/app/x", err: ErrNameInvalid},
		{name: "empty", in: "", err: ErrNameInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseRepository(tt.in)
			if !errors.Is(err, tt.err) {
				t.Errorf("got error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
