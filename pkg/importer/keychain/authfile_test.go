// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tagger.dev/tagger/pkg/importer"
)

func TestAuthFile(t *testing.T) {
	t.Parallel()
	// "auth" is base64 of user:password.
	const file = `{"auths":{
		"https://index.docker.io/v1/": {"auth": "aHViOnAx"},
		"quay.io":                     {"auth": "aG9zdDpwMg=="},
		"quay.io/company":             {"auth": "cGF0aDpwMw=="},
		"quay.io/company/app":         {"auth": "cmVwbzpwNA=="},
		"quay.io/comp":                {"auth": "bm86cDU="},
		"token.example":               {"auth": "PHRva2VuPjo=", "identitytoken": "t0k3n"},
		"[::1]:5000":                  {"auth": "c2l4OnA2"},
		"plain.example":               {"username": "plain", "password": "p7"}
	}}`
	tests := []struct {
		name, ref string
		want      []importer.Credential
	}{
		{name: "docker.io by its old key", ref: "nginx", want: []importer.Credential{{Username: "hub", Password: "p1"}}},
		{name: "most specific first", ref: "quay.io/company/app", want: []importer.Credential{
			{Username: "repo", Password: "p4"}, {Username: "path", Password: "p3"}, {Username: "host", Password: "p2"},
		}},
		{name: "whole segments", ref: "quay.io/company2/app", want: []importer.Credential{{Username: "host", Password: "p2"}}},
		{name: "identity token", ref: "token.example/a", want: []importer.Credential{{Username: "<token>", RefreshToken: "t0k3n"}}},
		{name: "IPv6", ref: "[::1]:5000/a", want: []importer.Credential{{Username: "six", Password: "p6"}}},
		{name: "user name and password without auth", ref: "plain.example/a", want: []importer.Credential{{Username: "plain", Password: "p7"}}},
		{name: "none", ref: "ghcr.io/a/b"},
		{name: "other port", ref: "quay.io:8443/a/b"},
	}
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, file)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := AuthFile(path).Credentials(t.Context(), parse(t, tt.ref))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAuthFileChanges: the file is read at every use.
func TestAuthFileChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.json")
	k := AuthFile(path)
	for _, tt := range []struct {
		name, file string
		want       []importer.Credential
	}{
		{name: "first", file: `{"auths":{"quay.io":{"auth":"YTox"}}}`, want: []importer.Credential{{Username: "a", Password: "1"}}},
		{name: "rotated", file: `{"auths":{"quay.io":{"auth":"YToy"}}}`, want: []importer.Credential{{Username: "a", Password: "2"}}},
		{name: "emptied", file: `{}`},
	} {
		write(t, path, tt.file)
		got, err := k.Credentials(t.Context(), parse(t, "quay.io/a"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestAuthFileBroken(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file, want string
	}{
		{name: "missing", want: "does not exist"},
		{name: "empty", file: " ", want: "not valid JSON"},
		{name: "not JSON", file: "SECRET", want: "not valid JSON"},
		{name: "other JSON", file: `{"auths":"SECRET"}`, want: "not of the format"},
		{name: "bad auth", file: `{"auths":{"quay.io":{"auth":"SECRET?"}}}`, want: "the entry for quay.io has an \"auth\" that is not base64"},
		{name: "not user:password", file: `{"auths":{"quay.io":{"auth":"U0VDUkVU"}}}`, want: "not base64 of user:password"},
		{name: "a helper that is not there", file: `{"credHelpers":{"quay.io":"absent"}}`, want: "docker-credential-absent, which is not in the PATH of the server"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "config.json")
			if tt.file != "" {
				write(t, path, tt.file)
			}
			_, err := AuthFile(path).Credentials(t.Context(), parse(t, "quay.io/a"))
			if importer.KindOf(err) != importer.Unauthorized {
				t.Fatalf("got %v, want Unauthorized", err)
			}
			if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, tt.want) || strings.Contains(text, "SECRET") {
				t.Errorf("got %q, want %q, the path, and nothing of the file", text, tt.want)
			}
		})
	}
}

// TestAuthFileHelperFails: t.Setenv allows no parallel tests.
func TestAuthFileHelperFails(t *testing.T) {
	dir := t.TempDir()
	helper := filepath.Join(dir, "docker-credential-failing")
	write(t, helper, "#!/bin/sh\necho SECRET\nexit 1\n")
	if err := os.Chmod(helper, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	path := filepath.Join(dir, "config.json")
	write(t, path, `{"credsStore":"failing"}`)
	_, err := AuthFile(path).Credentials(t.Context(), parse(t, "quay.io/a"))
	const want = "docker-credential-failing, which failed for quay.io; run it"
	if importer.KindOf(err) != importer.Unauthorized || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("got %v, want Unauthorized, %q, and nothing of what the helper says", err, want)
	}
}

func TestNone(t *testing.T) {
	t.Parallel()
	got, err := None.Credentials(t.Context(), parse(t, "nginx"))
	if got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, s string) importer.Reference {
	t.Helper()
	r, err := importer.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
