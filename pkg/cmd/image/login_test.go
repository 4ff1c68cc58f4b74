// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// TestLogin holds what a login writes, where, and what it says of that.
func TestLogin(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("PATH", t.TempDir()) // neither docker nor podman is installed
	const host = "registry.example:5000"
	const present = `{"auths": {"quay.io": {"auth": "bWU6c2VjcmV0"}}, "credHelpers": {"gcr.io": "gcloud"}, "detachKeys": "ctrl-x"}`
	auth := base64.StdEncoding.EncodeToString([]byte(tokenUser + ":" + goodToken))
	tests := []struct {
		name        string
		args        []string
		environment map[string]string
		file        string // which is written, in the folder of the test
		linked      string // what file is a link to
		present     string // what is in it before
		readers     string // what is said of who reads it
		want        map[string]any
	}{
		{
			name: "docker's", environment: map[string]string{"DOCKER_CONFIG": "FOLDER/docker"}, file: "docker/config.json",
			readers: ", which docker, podman and others read",
			want:    map[string]any{"auths": map[string]any{host: map[string]any{"auth": auth}}},
		},
		{
			name: "podman's", args: []string{"--for=podman"}, environment: map[string]string{"XDG_RUNTIME_DIR": "FOLDER/run"}, file: "run/containers/auth.json",
			readers: ", which podman, buildah and skopeo read",
			want:    map[string]any{"auths": map[string]any{host: map[string]any{"auth": auth}}},
		},
		{
			name: "podman's, elsewhere", args: []string{"--for=podman"}, environment: map[string]string{"REGISTRY_AUTH_FILE": "FOLDER/it.json"}, file: "it.json",
			readers: ", which podman, buildah and skopeo read",
			want:    map[string]any{"auths": map[string]any{host: map[string]any{"auth": auth}}},
		},
		{
			name: "one that is named, with something in it", args: []string{"--authfile=FOLDER/it.json"}, file: "it.json", present: present,
			want: map[string]any{
				"auths":       map[string]any{host: map[string]any{"auth": auth}, "quay.io": map[string]any{"auth": "bWU6c2VjcmV0"}},
				"credHelpers": map[string]any{"gcr.io": "gcloud"}, "detachKeys": "ctrl-x",
			},
		},
		{
			name: "a helper, after a token", args: []string{"--authfile=FOLDER/it.json", "--credential-helper"}, file: "it.json",
			present: strings.Replace(present, `"auths": {`, `"auths": {"`+host+`": {"auth": "bWU6b2xk"}, `, 1),
			want: map[string]any{
				"auths":       map[string]any{"quay.io": map[string]any{"auth": "bWU6c2VjcmV0"}},
				"credHelpers": map[string]any{"gcr.io": "gcloud", host: "kubectl-image"}, "detachKeys": "ctrl-x",
			},
		},
		{
			name: "a token, after a helper", args: []string{"--authfile=FOLDER/it.json"}, file: "it.json",
			present: strings.Replace(present, `"credHelpers": {`, `"credHelpers": {"`+host+`": "kubectl-image", `, 1),
			want: map[string]any{
				"auths":       map[string]any{host: map[string]any{"auth": auth}, "quay.io": map[string]any{"auth": "bWU6c2VjcmV0"}},
				"credHelpers": map[string]any{"gcr.io": "gcloud"}, "detachKeys": "ctrl-x",
			},
		},
		{
			name: "a token, over a link", args: []string{"--authfile=FOLDER/link.json"}, file: "link.json", linked: "there/it.json", present: present,
			want: map[string]any{
				"auths":       map[string]any{host: map[string]any{"auth": auth}, "quay.io": map[string]any{"auth": "bWU6c2VjcmV0"}},
				"credHelpers": map[string]any{"gcr.io": "gcloud"}, "detachKeys": "ctrl-x",
			},
		},
		{
			name: "a token, over a link to nothing", args: []string{"--authfile=FOLDER/link.json"}, file: "link.json", linked: "there/it.json",
			want: map[string]any{"auths": map[string]any{host: map[string]any{"auth": auth}}},
		},
		{
			name: "a helper, over a link", args: []string{"--authfile=FOLDER/link.json", "--credential-helper"}, file: "link.json", linked: "there/it.json", present: "{}",
			want: map[string]any{"credHelpers": map[string]any{host: "kubectl-image"}},
		},
		{
			name: "a helper, over a link to nothing", args: []string{"--authfile=FOLDER/link.json", "--credential-helper"}, file: "link.json", linked: "there/it.json",
			want: map[string]any{"credHelpers": map[string]any{host: "kubectl-image"}},
		},
		{
			name: "a helper in an empty file", args: []string{"--authfile=FOLDER/it.json", "--credential-helper"}, file: "it.json", present: "\n",
			want: map[string]any{"credHelpers": map[string]any{host: "kubectl-image"}},
		},
		{
			name: "a helper where there are no others", args: []string{"--authfile=FOLDER/it.json", "--credential-helper"}, file: "it.json", present: `{"credHelpers": null}`,
			want: map[string]any{"credHelpers": map[string]any{host: "kubectl-image"}},
		},
		{
			name: "a helper in a new file", args: []string{"--authfile=FOLDER/new/it.json", "--credential-helper"}, file: "new/it.json",
			want: map[string]any{"credHelpers": map[string]any{host: "kubectl-image"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			folder := t.TempDir()
			named := strings.NewReplacer("FOLDER", folder)
			server := published(t, host, []byte("the authority\n"))
			server.environment = map[string]string{}
			for name, value := range tt.environment {
				server.environment[name] = named.Replace(value)
			}
			args := []string{"login"}
			for _, arg := range tt.args {
				args = append(args, named.Replace(arg))
			}
			file := filepath.Join(folder, tt.file)
			if tt.linked != "" {
				if err := os.Mkdir(filepath.Join(folder, filepath.Dir(tt.linked)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(tt.linked, file); err != nil {
					t.Fatal(err)
				}
			}
			if tt.present != "" {
				if err := os.WriteFile(file, []byte(tt.present), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, args...)
			if got.Code != 0 || !strings.HasPrefix(got.Stdout, "logged in to "+host) || !strings.Contains(got.Stdout, file+tt.readers+"\n") {
				t.Errorf("unexpected result: %+v", got)
			}
			if strings.Contains(got.Stdout+got.Stderr, goodToken) || strings.Contains(got.Stdout+got.Stderr, auth) {
				t.Error("the token is printed")
			}
			var content map[string]any
			if err := json.Unmarshal(read(t, file), &content); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, content); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.file, diff)
			}
			if target, err := os.Readlink(file); tt.linked != "" && target != tt.linked {
				t.Errorf("%v: a link to %q, want one to %q", err, target, tt.linked)
			}
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v: the file's mode is %s", err, info.Mode())
			}
			authority := filepath.Join(home, ".config/containers/certs.d", host, "ca.crt")
			if got := string(read(t, authority)); got != "the authority\n" {
				t.Errorf("%s has %q", authority, got)
			}
		})
	}
}

// TestLoginFails holds that what is not understood stays as it is.
func TestLoginFails(t *testing.T) {
	t.Parallel()
	const see = "See 'kubectl image login --help' for usage.\n"
	tests := []struct {
		name    string
		args    []string
		host    string
		present string
		want    string
	}{
		{name: "no such program", args: []string{"--for=rkt"}, host: "it", want: "error: --for must be \"docker\" or \"podman\", not \"rkt\"\n" + see},
		{name: "an argument", args: []string{"it"}, host: "it", want: "error: no arguments are expected, not [\"it\"]\n" + see},
		{
			name: "no address",
			want: "error: the cluster does not say where its registry port is\nIts administrator says so by --registry-external-host of tagger-apiserver.\n",
		},
		{
			name: "an address that is a path", host: "../../it",
			want: "error: the cluster says that its registry port is at \"../../it\", which is no HOST:PORT\n",
		},
		{name: "no JSON", args: []string{"--credential-helper"}, host: "it", present: "auths: {}", want: "error: writing FILE: this is no JSON; nothing was changed\n"},
		{
			name: "other helpers", args: []string{"--credential-helper"}, host: "it", present: `{"credHelpers": []}`,
			want: "error: writing FILE: its credHelpers are not as docker writes them; nothing was changed\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := published(t, tt.host, nil)
			file := written(t, "config.json", []byte(tt.present))
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, append([]string{"login", "--authfile=" + file}, tt.args...)...)
			got.Stderr = strings.ReplaceAll(got.Stderr, file, "FILE")
			if diff := cmp.Diff(result{Stderr: tt.want, Code: 1}, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			if content := string(read(t, file)); content != tt.present {
				t.Errorf("the file was changed to %q", content)
			}
		})
	}
}

// TestCredentialHelper speaks the protocol of docker-credential-helpers.
func TestCredentialHelper(t *testing.T) {
	t.Parallel()
	const host = "registry.example:5000"
	tests := []struct {
		name  string
		verb  string
		stdin string
		args  []string
		want  result
	}{
		{
			name: "a token", verb: "get", stdin: host + "\n",
			want: result{Stdout: `{"ServerURL":"registry.example:5000","Username":"kubectl-image","Secret":"short-lived-token"}` + "\n"},
		},
		{
			name: "as a URL", verb: "get", stdin: "https://" + host + "/",
			want: result{Stdout: `{"ServerURL":"https://registry.example:5000/","Username":"kubectl-image","Secret":"short-lived-token"}` + "\n"},
		},
		{
			name: "another host", verb: "get", stdin: "registry.example",
			want: result{Code: 1, Stdout: "credentials not found in native keychain\n",
				Stderr: "error: the cluster of the current context publishes \"registry.example:5000\", not \"registry.example\"\n"},
		},
		{name: "what there is", verb: "list", want: result{Stdout: "{}\n"}},
		{name: "logout", verb: "erase", stdin: host},
		{
			name: "login", verb: "store", stdin: `{"ServerURL": "it", "Username": "me", "Secret": "mine"}`,
			want: result{Code: 1, Stdout: "nothing is stored here: the kubeconfig says who you are; remove the host from credHelpers to log in otherwise\n",
				Stderr: "error: nothing is stored here: the kubeconfig says who you are; remove the host from credHelpers to log in otherwise\n"},
		},
		{
			name: "no such context", verb: "get", stdin: host, args: []string{"--context=other"},
			want: result{Code: 1, Stdout: "invalid configuration: context was not found for specified context: other\n", Stderr: "error: invalid configuration: context was not found for specified context: other\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := published(t, host, nil)
			server.stdin = tt.stdin
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, append(CredentialArgs([]string{tt.verb}), tt.args...)...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTokens holds that a token is asked for once, and again before it ends, whatever the clocks say.
func TestTokens(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{0, -2 * time.Hour, 2 * time.Hour} {
		clock, asked := testingclock.NewFakeClock(now), 0
		tokens := &tokens{clock: clock, ask: func(context.Context) (*v1beta1.RegistryToken, error) {
			asked++
			token := &v1beta1.RegistryToken{}
			token.CreationTimestamp = metav1.NewTime(clock.Now().Add(skew))
			token.Status.ExpirationTimestamp = metav1.NewTime(clock.Now().Add(skew + 10*time.Minute))
			return token, nil
		}}
		var got []int
		for range 4 {
			if _, err := tokens.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			got = append(got, asked)
			clock.Step(4 * time.Minute)
		}
		if diff := cmp.Diff([]int{1, 1, 1, 2}, got); diff != "" {
			t.Errorf("with clocks %s apart (-want +got):\n%s", skew, diff)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
