// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"
)

func openDataDir(t *testing.T, path string) *DataDir {
	t.Helper()
	d, err := OpenDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestOpenDataDir(t *testing.T) {
	t.Parallel()
	mkdir := func(mode fs.FileMode, files map[string]string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, content := range files {
				if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		// want is a part of the error, empty for none.
		want string
	}{
		{name: "absent", prepare: func(*testing.T, string) {}},
		{name: "empty and private", prepare: mkdir(0o700, nil)},
		{name: "empty and open to others", prepare: mkdir(0o755, nil)},
		{name: "used before", prepare: mkdir(0o700, map[string]string{"version": "1\n"})},
		{name: "first start was cut short", prepare: mkdir(0o700, map[string]string{"lock": ""})},
		{name: "used before and open to others", prepare: mkdir(0o750, map[string]string{"version": "1\n"}), want: "chmod 700"},
		{name: "newer", prepare: mkdir(0o700, map[string]string{"version": "2\n"}), want: "upgrade tagger-apiserver"},
		{name: "version unknown", prepare: mkdir(0o700, map[string]string{"version": "0\n"}), want: "format 0 is unknown"},
		{name: "version unreadable", prepare: mkdir(0o700, map[string]string{"version": "one"}), want: "reading its version"},
		{name: "something else", prepare: mkdir(0o700, map[string]string{"notes.txt": "mine"}), want: "choose another one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "data")
			tt.prepare(t, path)
			d, err := OpenDataDir(path)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Fatalf("got %v, want one with %q and the path", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(fs.FileMode(0o700), info.Mode().Perm()); diff != "" {
				t.Errorf("mode (-want +got):\n%s", diff)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			openDataDir(t, path)
		})
	}
}

func TestDataDirInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	d := openDataDir(t, path)
	_, err := OpenDataDir(path)
	if want := fmt.Sprintf("in use by another tagger-apiserver (pid %d)", os.Getpid()); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want one with %q", err, want)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	openDataDir(t, path)
}

func TestToken(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// file is what lies there, nothing when empty.
		file string
		want string // any new token when empty
		err  bool
	}{
		{name: "new"},
		{name: "kept", file: "0123456789abcdef0123456789abcdef\n", want: "0123456789abcdef0123456789abcdef"},
		{name: "too short", file: "password\n", err: true},
		{name: "empty", file: "\n", err: true},
		{name: "two lines", file: "0123456789abcdef\n0123456789abcdef\n", err: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := openDataDir(t, filepath.Join(t.TempDir(), "data"))
			if tt.file != "" {
				if err := os.WriteFile(d.file(tokenFile), []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := d.Token()
			if (err != nil) != tt.err {
				t.Fatalf("got error %v, want one: %v", err, tt.err)
			}
			if tt.err {
				return
			}
			if tt.want == "" && len(got) != 2*tokenBytes || tt.want != "" && got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			again, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("second call (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	d := openDataDir(t, filepath.Join(t.TempDir(), "data"))
	authority, err := d.Authority(clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	// A looser file of an earlier start is replaced, not written into.
	if err := os.WriteFile(d.KubeconfigPath(), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteKubeconfig("https://127.0.0.1:8443", authority, token); err != nil {
		t.Fatal(err)
	}

	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: d.KubeconfigPath()}, nil)
	config, err := loader.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(d.CACertPath())
	if err != nil {
		t.Fatal(err)
	}
	type contents struct{ Host, Token, CA, Namespace string }
	want := contents{Host: "https://127.0.0.1:8443", Token: token, CA: string(ca), Namespace: "default"}
	got := contents{Host: config.Host, Token: config.BearerToken, CA: string(config.CAData), Namespace: namespace}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	modes := map[string]fs.FileMode{}
	entries, err := os.ReadDir(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		modes[entry.Name()] = info.Mode()
	}
	wantModes := map[string]fs.FileMode{
		"lock": 0o600, "version": 0o600, "ca.crt": 0o644, "ca-key.pem": 0o600, "token": 0o600, "kubeconfig": 0o600,
	}
	if diff := cmp.Diff(wantModes, modes); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
