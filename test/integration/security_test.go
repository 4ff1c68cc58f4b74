// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/base64"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestDataDirIsPrivate looks at the modes of what the server wrote.
func TestDataDirIsPrivate(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)

	want := map[string]fs.FileMode{
		".": 0o700, "etcd": 0o700, "store": 0o700,
		"token": 0o600, "ca-key.pem": 0o600, "kubeconfig": 0o600,
	}
	got := map[string]fs.FileMode{}
	for name := range want {
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = info.Mode().Perm()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modes (-want +got):\n%s", diff)
	}
}

// TestAPIAccess asks for paths of the API with and without credentials.
func TestAPIAccess(t *testing.T) {
	t.Parallel()
	const images = "/apis/tagger.dev/v1beta1/namespaces/default/images"
	s, _ := shared(t)
	wrong := "Bearer " + strings.Repeat("0", len(s.token))
	tests := []struct {
		name, path, authorization string
		want                      int
	}{
		{"health to anybody", "/healthz", "", http.StatusOK},
		{"liveness to anybody", "/livez", "", http.StatusOK},
		{"readiness to anybody", "/readyz?verbose", "", http.StatusOK},
		{"one check to anybody", "/readyz/ping", "", http.StatusOK},
		{"metrics to nobody", "/metrics", "", http.StatusUnauthorized},
		{"objects to nobody", images, "", http.StatusUnauthorized},
		{"discovery to nobody", "/apis", "", http.StatusUnauthorized},
		{"schemas to nobody", "/openapi/v3", "", http.StatusUnauthorized},
		{"version to nobody", "/version", "", http.StatusUnauthorized},
		{"profiles to nobody", "/debug/pprof/", "", http.StatusUnauthorized},
		{"root to nobody", "/", "", http.StatusUnauthorized},
		{"a path outside by a health path", "/healthz/../metrics", "", http.StatusUnauthorized},
		{"objects by a wrong token", images, wrong, http.StatusUnauthorized},
		{"objects by a part of the token", images, "Bearer " + s.token[:len(s.token)-1], http.StatusUnauthorized},
		{"objects by Basic", images, basic(s.token), http.StatusUnauthorized},
		{"metrics by the token", "/metrics", "Bearer " + s.token, http.StatusOK},
		{"objects by the token", images, "Bearer " + s.token, http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := s.get(t.Context(), s.apiURL+tt.path, tt.authorization)
			if err != nil {
				t.Fatal(err)
			}
			if got.status != tt.want {
				t.Errorf("status %d, want %d: %s", got.status, tt.want, got.body)
			}
		})
	}
}

func basic(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+token))
}

// TestRegistryAccess asks the registry port for what is there and what is not. Whoever may not read learns nothing of it.
func TestRegistryAccess(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	image := newImage(t, ociTypes, "amd64")
	out.Push(t, "app", image)
	s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
	dgst := digestOf(t, image)
	layer := must(must(image.Layers())(t)[0].Digest())(t).String()

	here, elsewhere := "/v2/"+namespace+"/app", "/v2/"+newNamespace()+"/app"
	sibling, nobodys := "/v2/"+namespace+"/sibling", "/v2/"+newNamespace()+"/"+newNamespace()
	wrong := strings.Repeat("0", len(s.token))
	tests := []struct {
		name, authorization string
		paths               []string // all are answered alike
		want                int
	}{
		{"anonymous", "", []string{"/v2/", here + "/manifests/" + dgst, here + "/manifests/latest", here + "/blobs/" + layer,
			nobodys + "/manifests/" + dgst, nobodys + "/blobs/" + layer}, http.StatusUnauthorized},
		{"wrong password", basic(wrong), []string{"/v2/", here + "/manifests/" + dgst, nobodys + "/manifests/" + dgst}, http.StatusUnauthorized},
		{"wrong bearer", "Bearer " + wrong, []string{"/v2/", here + "/manifests/" + dgst, nobodys + "/manifests/" + dgst}, http.StatusUnauthorized},
		{"another scheme", "Negotiate " + s.token, []string{"/v2/", here + "/manifests/" + dgst}, http.StatusUnauthorized},
		{"manifest of another repository", basic(s.token), []string{elsewhere + "/manifests/" + dgst, sibling + "/manifests/" + dgst,
			nobodys + "/manifests/" + dgst}, http.StatusNotFound},
		{"tag of another repository", basic(s.token), []string{elsewhere + "/manifests/latest", sibling + "/manifests/latest",
			nobodys + "/manifests/latest"}, http.StatusNotFound},
		{"blob of another repository", basic(s.token), []string{elsewhere + "/blobs/" + layer, sibling + "/blobs/" + layer,
			nobodys + "/blobs/" + layer}, http.StatusNotFound},
		{"anchors are hidden", basic(s.token), []string{here + "/manifests/anchor-" + strings.TrimPrefix(dgst, "sha256:"),
			here + "/manifests/absent"}, http.StatusNotFound},
		{"password", basic(s.token), []string{here + "/manifests/" + dgst, here + "/manifests/latest"}, http.StatusOK},
		{"bearer", "Bearer " + s.token, []string{here + "/blobs/" + layer}, http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var first string
			for i, path := range tt.paths {
				got, err := s.get(t.Context(), "https://"+s.registry+path, tt.authorization)
				if err != nil {
					t.Fatal(err)
				}
				if got.status != tt.want {
					t.Errorf("%s: status %d, want %d: %.200q", path, got.status, tt.want, got.body)
				}
				if challenged := got.header.Get("WWW-Authenticate") != ""; challenged != (tt.want == http.StatusUnauthorized) {
					t.Errorf("%s: challenged: %t", path, challenged)
				}
				if i == 0 {
					first = got.body
				}
				if got.body != first {
					t.Errorf("%s is answered %.200q, and %s %.200q: they can be told apart", path, got.body, tt.paths[0], first)
				}
			}
		})
	}
}

// TestStartIsRefused starts servers that cannot run. They say why, and end.
func TestStartIsRefused(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	_, port, _ := net.SplitHostPort(taken.Addr().String())

	tests := []struct {
		name string
		// prepare returns the directory above the data directory, and flags.
		prepare func(t *testing.T) (dir string, flags []string)
		want    string // of the last line of the log, an expression
	}{
		{
			name:    "the API's port is taken",
			prepare: func(t *testing.T) (string, []string) { return t.TempDir(), []string{"--secure-port", port} },
			want:    `127\.0\.0\.1:` + port + ` is taken by another program: stop that, or choose another port with --secure-port`,
		},
		{
			name:    "the registry's port is taken",
			prepare: func(t *testing.T) (string, []string) { return t.TempDir(), []string{"--registry-port", port} },
			want:    `127\.0\.0\.1:` + port + ` is taken by another program: stop that, or choose another port with --registry-port`,
		},
		{
			name: "a pattern that is a repository",
			prepare: func(t *testing.T) (string, []string) {
				return t.TempDir(), []string{"--allowed-registries", "quay.io/company"}
			},
			want: `--allowed-registries: "quay.io/company" is not HOST or HOST:PORT, with \* for any part; leave scheme and repository out`,
		},
		{
			name:    "credentials that are not there",
			prepare: func(t *testing.T) (string, []string) { return t.TempDir(), []string{"--registry-auth-file", "/absent"} },
			want:    `--registry-auth-file: stat /absent: no such file or directory`,
		},
		{
			name: "a host that is a URL",
			prepare: func(t *testing.T) (string, []string) {
				return t.TempDir(), []string{"--registry-external-host", "http://x"}
			},
			want: `--registry-external-host "http://x": write HOST or HOST:PORT in lower case, without scheme or path; a host without a dot needs its port`,
		},
		{
			name:    "certificates that are not there",
			prepare: func(t *testing.T) (string, []string) { return t.TempDir(), []string{"--registry-certs-dir", "/absent"} },
			want:    `--registry-certs-dir: open /absent: no such file or directory`,
		},
		{
			name: "another server uses the data directory",
			prepare: func(t *testing.T) (string, []string) {
				dir := t.TempDir()
				start(t, dir)
				return dir, nil
			},
			want: `data directory \S+: it is in use by another tagger-apiserver \(pid [0-9]+\)`,
		},
		{
			name: "a newer version wrote the data directory",
			prepare: func(t *testing.T) (string, []string) {
				dir := t.TempDir()
				s := start(t, dir)
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(s.dir, "version"), []byte("999\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return dir, nil
			},
			want: `data directory \S+: it was written by a newer version of tagger-apiserver \(format 999, this one knows [0-9]+\): upgrade tagger-apiserver`,
		},
		{
			name: "others can enter the data directory",
			prepare: func(t *testing.T) (string, []string) {
				dir := t.TempDir()
				s := start(t, dir)
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(s.dir, 0o755); err != nil {
					t.Fatal(err)
				}
				return dir, nil
			},
			want: `data directory \S+: it holds keys and can be entered by other users \(mode 0755\): run chmod 700 \S+`,
		},
		{
			name: "the directory holds something else",
			prepare: func(t *testing.T) (string, []string) {
				dir := t.TempDir()
				if err := os.MkdirAll(filepath.Join(dir, "data", "photos"), 0o700); err != nil {
					t.Fatal(err)
				}
				return dir, nil
			},
			want: `data directory \S+: it is neither empty nor a data directory of tagger-apiserver: choose another one`,
		},
		{
			name:    "a flag of no sense",
			prepare: func(t *testing.T) (string, []string) { return t.TempDir(), []string{"--concurrent-imports", "0"} },
			want:    `--concurrent-imports 0: must be at least 1`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, flags := tt.prepare(t)
			s, err := spawn(dir, flags...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.kill() })
			select {
			case <-s.exited:
			case <-time.NewTimer(patience).C:
				t.Fatalf("the server runs; its log:\n%s", s.log)
			}
			if s.err == nil {
				t.Error("the exit code is 0")
			}
			lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
			if last := lines[len(lines)-1]; !regexp.MustCompile(tt.want).MatchString(last) {
				t.Errorf("the last line is %q, want it like %q", last, tt.want)
			}
			if len(lines) > 1 {
				t.Errorf("more is logged than why it failed:\n%s", s.log)
			}
		})
	}
}

// TestTokenIsNotLogged makes a server say all that it can say.
func TestTokenIsNotLogged(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--v=10")
	namespace := newNamespace()
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	imp := s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
	s.pull(t, imp.Status.HashReference.ImageReference)
	for _, url := range []string{s.apiURL + "/metrics", "https://" + s.registry + "/v2/"} {
		for _, authorization := range []string{"Bearer " + s.token, basic(s.token)} {
			if _, err := s.get(t.Context(), url, authorization); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{
		"token": s.token, "encoded token": strings.TrimPrefix(basic(s.token), "Basic "), "key": strings.Split(string(key), "\n")[1],
	} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log has the %s", name)
		}
	}
}
