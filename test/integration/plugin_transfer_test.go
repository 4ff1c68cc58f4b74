// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestPluginMovesImages pushes an image for two platforms with kubectl image, looks at the history, and pulls it back, by each way.
func TestPluginMovesImages(t *testing.T) {
	t.Parallel()
	for _, via := range []string{"registry", "apiserver"} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			require(t, "kubectl")
			require(t, "kubectl-image")
			s, namespace := shared(t)
			plugin := func(args ...string) string {
				return strings.TrimSpace(s.run(t, "kubectl", append([]string{"image", "-n", namespace}, args...)...))
			}
			dir, digest := ociLayout(t, "v1")
			want := s.mirrored(namespace, "app", digest)
			push := func() string {
				return plugin("push", "app", "--from", "oci:"+dir+":v1", "--via", via, "-o", "reference")
			}
			if diff := cmp.Diff(want, push()); diff != "" {
				t.Errorf("push (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, push()); diff != "" {
				t.Errorf("push again (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{want}, s.history(t, namespace, "app")); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			pulled := filepath.Join(t.TempDir(), "pulled")
			if diff := cmp.Diff(want, plugin("pull", "app", "--to", "oci:"+pulled, "--via", via, "-o", "reference")); diff != "" {
				t.Errorf("pull (-want +got):\n%s", diff)
			}
			path := must(layout.FromPath(pulled))(t)
			index := must(path.ImageIndex())(t)
			if err := validate.Index(index); err != nil {
				t.Error(err)
			}
			if got := must(index.IndexManifest())(t).Manifests[0].Digest.String(); got != digest {
				t.Errorf("pulled %s, want %s", got, digest)
			}
		})
	}
}

// TestPluginPullsWhatWasNotPushed holds what is said of an image that is not there.
func TestPluginPullsWhatWasNotPushed(t *testing.T) {
	t.Parallel()
	require(t, "kubectl")
	require(t, "kubectl-image")
	s, namespace := shared(t)
	r := s.try(t, "kubectl", "image", "-n", namespace, "pull", "app", "--to", "oci:"+filepath.Join(t.TempDir(), "pulled"))
	if want := "error: there is no " + namespace + "/app:latest, or you may not pull it: "; r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("exit code %d, stderr %q; want 1 and %q", r.code, r.stderr, want)
	}
}

// TestPluginPodman moves an image between podman's store and the cluster: its digest stays.
func TestPluginPodman(t *testing.T) {
	t.Parallel()
	require(t, "kubectl")
	require(t, "kubectl-image")
	require(t, "podman")
	s, namespace := shared(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "storage.conf")
	content := "[storage]\ndriver = \"vfs\"\ngraphroot = \"" + dir + "/store\"\nrunroot = \"" + dir + "/run\"\n"
	if err := os.WriteFile(conf, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(client string, args ...string) string {
		t.Helper()
		// As env, for podman that the plugin starts as well.
		return strings.TrimSpace(s.run(t, "env", append([]string{"CONTAINERS_STORAGE_CONF=" + conf, "TMPDIR=" + dir, client}, args...)...))
	}
	if r := s.try(t, "env", "CONTAINERS_STORAGE_CONF="+conf, "podman", "info"); r.code != 0 {
		t.Skipf("podman does not work here: %s", r.stderr)
	}
	archive := filepath.Join(dir, "image.tar")
	if err := tarball.WriteToFile(archive, must(name.NewTag("localhost/app:latest"))(t), newImage(t, ociTypes, "amd64")); err != nil {
		t.Fatal(err)
	}
	run("podman", "load", "--quiet", "--input", archive)
	image := run("podman", "image", "inspect", "--format", "{{.Id}}", "app")

	pushed := run("kubectl", "image", "-n", namespace, "push", "app", "--from=containers-storage:app", "-o", "reference")
	if again := run("kubectl", "image", "-n", namespace, "push", "app", "--from=containers-storage:app", "-o", "reference"); again != pushed {
		t.Errorf("pushed %s, and then %s", pushed, again)
	}
	if diff := cmp.Diff([]string{pushed}, s.history(t, namespace, "app")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	run("podman", "image", "rm", "--force", "app")
	run("kubectl", "image", "-n", namespace, "pull", "app", "--to=containers-storage:app", "--platform=linux/amd64")
	if again := run("podman", "image", "inspect", "--format", "{{.Id}}", "app"); again != image {
		t.Errorf("podman has the image %s, before it had %s", again, image)
	}
	if got, want := run("podman", "image", "inspect", "--format", "{{.Digest}}", "localhost/app:latest"), pushed[strings.Index(pushed, "@")+1:]; got != want {
		t.Errorf("podman has the digest %s, want %s", got, want)
	}
	// A list of podman's goes with all that it has.
	run("podman", "manifest", "create", "both")
	run("podman", "manifest", "add", "both", "containers-storage:localhost/app:latest")
	list := run("kubectl", "image", "-n", namespace, "push", "both", "--from=containers-storage:both", "-o", "yaml")
	if !strings.Contains(list, "mediaType: application/vnd.oci.image.index.v1+json") {
		t.Errorf("no list was pushed:\n%s", list)
	}
}

// TestPluginLogsOthersIn lets real clients in by a token, and by the plugin as their credential helper.
func TestPluginLogsOthersIn(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"token", "credential helper"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			require(t, "kubectl")
			require(t, "kubectl-image")
			require(t, "docker-credential-kubectl-image")
			s, namespace := shared(t)
			dir, digest := ociLayout(t, "v1")
			s.run(t, "kubectl", "image", "-n", namespace, "push", "app", "--from", "oci:"+dir)
			config := t.TempDir()
			login := []string{"image", "login", "--authfile", filepath.Join(config, "config.json")}
			if way != "token" {
				login = append(login, "--credential-helper")
			}
			out := s.run(t, "kubectl", login...)
			if !strings.HasPrefix(out, "logged in to "+s.registry) || strings.Contains(out, s.token) {
				t.Errorf("login says %q", out)
			}
			environment := []string{"DOCKER_CONFIG=" + config, "REGISTRY_AUTH_FILE=" + filepath.Join(config, "config.json"), "SSL_CERT_FILE=" + filepath.Join(s.dir, "ca.crt")}
			reference := s.registry + "/" + namespace + "/app:latest"
			for client, args := range map[string][]string{
				"crane":  {"digest", reference},
				"oras":   {"resolve", reference},
				"skopeo": {"inspect", "--format", "{{.Digest}}", "docker://" + reference},
			} {
				t.Run(client, func(t *testing.T) {
					require(t, client)
					got := s.run(t, "env", append(append(environment, client), args...)...)
					if strings.TrimSpace(got) != digest {
						t.Errorf("%s says %q, want %s", client, got, digest)
					}
				})
			}
		})
	}
}
