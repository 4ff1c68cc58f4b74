// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMatching(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		keys []string
		ref  string
		want []string
	}{
		{name: "host", keys: []string{"quay.io", "ghcr.io"}, ref: "quay.io/a/b", want: []string{"quay.io"}},
		{name: "scheme and the path of old", keys: []string{"https://quay.io/v1/", "http://quay.io/v2/"}, ref: "quay.io/a",
			want: []string{"http://quay.io/v2/", "https://quay.io/v1/"}},
		{name: "all names of docker.io", keys: []string{"https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "index.docker.io"},
			ref: "nginx", want: []string{"docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"}},
		{name: "a path below docker.io", keys: []string{"docker.io/library", "docker.io/lib"}, ref: "nginx", want: []string{"docker.io/library"}},
		{name: "the longest path first", keys: []string{"quay.io", "quay.io/a", "quay.io/a/b", "quay.io/a/b/c"}, ref: "quay.io/a/b",
			want: []string{"quay.io/a/b", "quay.io/a", "quay.io"}},
		{name: "whole segments", keys: []string{"quay.io/comp", "quay.io/company/"}, ref: "quay.io/company/app", want: []string{"quay.io/company/"}},
		{name: "upper case and trailing dot", keys: []string{"Quay.IO."}, ref: "quay.io/a", want: []string{"Quay.IO."}},
		{name: "port", keys: []string{"quay.io", "quay.io:8443", "quay.io:443"}, ref: "quay.io:8443/a", want: []string{"quay.io:8443"}},
		{name: "IPv6", keys: []string{"[::1]:5000", "[0:0:0:0:0:0:0:1]:5000", "[::1]"}, ref: "[::1]:5000/a",
			want: []string{"[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"}},
		{name: "glob of a label", keys: []string{"*.azurecr.io", "*.io", "*"}, ref: "team.azurecr.io/a", want: []string{"*.azurecr.io"}},
		{name: "a glob is less specific than a name", keys: []string{"*.azurecr.io", "team.azurecr.io"}, ref: "team.azurecr.io/a",
			want: []string{"team.azurecr.io", "*.azurecr.io"}},
		{name: "a longer path goes before that", keys: []string{"*.azurecr.io/a", "team.azurecr.io"}, ref: "team.azurecr.io/a",
			want: []string{"*.azurecr.io/a", "team.azurecr.io"}},
		{name: "glob in a path, with a port", keys: []string{"r.io:5000/team-?/*", "r.io:5000/team-??/*"}, ref: "r.io:5000/team-a/app",
			want: []string{"r.io:5000/team-?/*"}},
		{name: "a glob spans no segments", keys: []string{"quay.io/*/app"}, ref: "quay.io/a/b/app"},
		{name: "broken glob", keys: []string{"[.io", "quay.io/[", "", "https://"}, ref: "quay.io/a"},
		{name: "subdomains are other hosts", keys: []string{"quay.io", "*.quay.io.evil.example"}, ref: "quay.io.evil.example/a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			entries := map[string]bool{}
			for _, key := range tt.keys {
				entries[key] = true
			}
			ref := parse(t, tt.ref)
			got := matching(entries, ref.Host(), ref.Repository())
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
