// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

var (
	sha256Zeros = "sha256:" + strings.Repeat("0", 64)
	sha512Zeros = "sha512:" + strings.Repeat("0", 128)
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 250)
	tests := []struct {
		name, in string
		want     string // canonical, or a part of the error
		fails    bool
	}{
		{name: "docker short", in: "nginx", want: "docker.io/library/nginx:latest"},
		{name: "docker tag", in: "nginx:1.27", want: "docker.io/library/nginx:1.27"},
		{name: "docker namespace", in: "company/app", want: "docker.io/company/app:latest"},
		{name: "docker host", in: "docker.io/nginx", want: "docker.io/library/nginx:latest"},
		{name: "legacy docker host", in: "index.docker.io/library/nginx", want: "docker.io/library/nginx:latest"},
		{name: "endpoint of docker.io", in: "registry-1.docker.io/library/nginx", want: "docker.io/library/nginx:latest"},
		{name: "other host", in: "quay.io/company/app:v1", want: "quay.io/company/app:v1"},
		{name: "host in upper case", in: "Quay.IO/company/app", want: "quay.io/company/app:latest"},
		{name: "trailing dot", in: "quay.io./company/app", want: "quay.io/company/app:latest"},
		{name: "trailing dot and port", in: "quay.io.:443/app", want: "quay.io:443/app:latest"},
		{name: "port", in: "registry:5000/app:v1", want: "registry:5000/app:v1"},
		{name: "port with zeros", in: "registry:05000/app", want: "registry:5000/app:latest"},
		{name: "localhost", in: "localhost/app", want: "localhost/app:latest"},
		{name: "looks like a port but is a tag", in: "localhost:5000", want: "docker.io/library/localhost:5000"},
		{name: "IPv4", in: "10.0.0.1:5000/app", want: "10.0.0.1:5000/app:latest"},
		{name: "IPv6", in: "[::1]:5000/app:v1", want: "[::1]:5000/app:v1"},
		{name: "IPv6 long form", in: "[2001:DB8:0:0::1]/app", want: "[2001:db8::1]/app:latest"},
		{name: "digest", in: "nginx@" + sha256Zeros, want: "docker.io/library/nginx@" + sha256Zeros},
		{name: "sha512", in: "quay.io/a/b@" + sha512Zeros, want: "quay.io/a/b@" + sha512Zeros},
		{name: "tag and digest", in: "quay.io/a/b:v1@" + sha256Zeros, want: "quay.io/a/b:v1@" + sha256Zeros},
		{name: "separators", in: "quay.io/a__b/c-d.e--f", want: "quay.io/a__b/c-d.e--f:latest"},

		{name: "empty", in: "", want: "empty", fails: true},
		{name: "white space", in: "nginx latest", want: "white space", fails: true},
		{name: "newline", in: "nginx\n", want: "white space", fails: true},
		{name: "scheme", in: "https://quay.io/a/b", want: "without it", fails: true},
		{name: "docker scheme", in: "docker://quay.io/a/b", want: "without it", fails: true},
		{name: "userinfo", in: "me:secret@quay.io/a/b", want: "keep credentials out", fails: true},
		{name: "userinfo with slash", in: "me:sec/ret@quay.io/a/b", want: "keep credentials out", fails: true},
		{name: "upper case repository", in: "quay.io/Company/App", want: `write "company/app"`, fails: true},
		{name: "upper case host without dot", in: "Registry/app", want: "upper-case", fails: true},
		{name: "image ID", in: strings.Repeat("0", 64), want: "image ID", fails: true},
		{name: "no repository", in: "quay.io/", want: "no repository", fails: true},
		{name: "no repository but tag", in: "quay.io/:v1", want: "no repository", fails: true},
		{name: "empty tag", in: "nginx:", want: "not a tag", fails: true},
		{name: "bad tag", in: "nginx:.v1", want: "not a tag", fails: true},
		{name: "long tag", in: "nginx:" + strings.Repeat("a", 129), want: "not a tag", fails: true},
		{name: "empty digest", in: "nginx@", want: "not a digest", fails: true},
		{name: "short digest", in: "nginx@sha256:00", want: "not a digest", fails: true},
		{name: "unknown algorithm", in: "nginx@md5:d41d8cd98f00b204e9800998ecf8427e", want: "not a digest", fails: true},
		{name: "upper case digest", in: "nginx@sha256:" + strings.Repeat("A", 64), want: "not a digest", fails: true},
		{name: "bad repository", in: "quay.io/a//b", want: "not a repository", fails: true},
		{name: "parent", in: "quay.io/../b", want: "not a repository", fails: true},
		{name: "query", in: "quay.io/a?b", want: "not a repository", fails: true},
		{name: "long name", in: "quay.io/" + long, want: "at most 255", fails: true},
		{name: "long everything", in: strings.Repeat("a/", 1000), want: "bytes long", fails: true},
		{name: "port zero", in: "quay.io:0/a", want: "1 to 65535", fails: true},
		{name: "large port", in: "quay.io:65536/a", want: "1 to 65535", fails: true},
		{name: "word as port", in: "quay.io:http/a", want: "1 to 65535", fails: true},
		{name: "empty label", in: "quay..io/a", want: "not a DNS name", fails: true},
		{name: "single label with a dot", in: "registry./a", want: "registry:443", fails: true},
		{name: "percent", in: "quay%2eio.com/a", want: "not a DNS name", fails: true},
		{name: "IPv6 without brackets", in: "::1/a", want: "brackets", fails: true},
		{name: "IPv6 zone", in: "[fe80::1%25eth0]/a", want: "IPv6", fails: true},
		{name: "IPv6 unclosed", in: "[::1/a", want: "IPv6", fails: true},
		{name: "IPv4 in brackets", in: "[127.0.0.1]/a", want: "IPv6", fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref, err := ParseReference(tt.in)
			if tt.fails {
				if KindOf(err) != Invalid || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, %v, want Invalid with %q", ref, err, tt.want)
				}
				if err != nil && strings.Contains(err.Error(), "me:") {
					t.Errorf("the error quotes a password: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, ref.String()); diff != "" {
				t.Errorf("String() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReferenceParts(t *testing.T) {
	t.Parallel()
	type parts struct{ Host, Repository, Tag, Digest, Endpoint, Object, WithDigest string }
	tests := []struct {
		name, in string
		want     parts
	}{
		{
			name: "tag", in: "nginx:1",
			want: parts{"docker.io", "library/nginx", "1", "", "registry-1.docker.io", "1", "docker.io/library/nginx@" + sha512Zeros},
		},
		{
			name: "tag and digest", in: "[::1]:5000/a:v1@" + sha256Zeros,
			want: parts{"[::1]:5000", "a", "v1", sha256Zeros, "[::1]:5000", sha256Zeros, "[::1]:5000/a@" + sha512Zeros},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := parse(t, tt.in)
			got := parts{r.Host(), r.Repository(), r.Tag(), r.Digest().String(), r.Endpoint(), r.object(), r.WithDigest(digest.Digest(sha512Zeros))}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestReferenceRegistry(t *testing.T) {
	t.Parallel()
	for want, references := range map[string][]string{
		"docker.io:443":  {"app", "docker.io/app", "docker.io:443/app", "index.docker.io:443/app", "registry-1.docker.io:443/app"},
		"quay.io:443":    {"quay.io/app", "quay.io:443/app", "QUAY.io.:0443/app"},
		"quay.io:5000":   {"quay.io:5000/app"},
		"192.0.2.1:5000": {"192.0.2.1:5000/app", "[::ffff:192.0.2.1]:5000/app"},
		"[::1]:443":      {"[::1]/app", "[0:0::1]:443/app"},
	} {
		for _, s := range references {
			if got := parse(t, s).Registry(); got != want {
				t.Errorf("%s: got %s, want %s", s, got, want)
			}
		}
	}
}
