// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package image

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRelease(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("releases are built on linux, with GNU tar")
	}
	require(t, "helm")
	const image = "registry.example.com:5000/team/tagger-apiserver:v9"
	host := "linux/" + runtime.GOARCH
	environment := []string{"IMAGE=" + image, "PLATFORMS=" + host, "PLUGIN_PLATFORMS=" + host}
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "deeper", "second")
	copyTree(t, first)
	copyTree(t, second)
	run(t, first, append(environment, "TZ=Asia/Kolkata"), "bash", "-c", "umask 077 && hack/build-release.sh")
	run(t, second, append(environment, "TZ=America/St_Johns"), "bash", "-c", "umask 000 && hack/build-release.sh")
	release := filepath.Join(first, "output", "release")
	files := sameFiles(t, release, filepath.Join(second, "output", "release"))

	var names []string
	for name := range files {
		names = append(names, strings.TrimPrefix(name, "/"))
	}
	slices.Sort(names)
	// In a name + is _ where no tag of an image may have it; the version of a chart is as it is.
	platform := "linux-" + runtime.GOARCH
	chart, manifests := "tagger-1.2.3+test.tgz", "tagger-manifests-v1.2.3_test.tar.gz"
	want := []string{
		"README.md", "SHA256SUMS", "kubectl-image-v1.2.3_test-" + platform + ".tar.gz", chart,
		"tagger-apiserver-v1.2.3_test-image.tar", "tagger-apiserver-v1.2.3_test-" + platform + ".tar.gz",
		"tagger-credential-provider-v1.2.3_test-" + platform + ".tar.gz", "tagger-docs-v1.2.3_test.tar.gz",
		manifests,
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}

	t.Run("checksums", func(t *testing.T) {
		checked := strings.Count(run(t, release, nil, "sha256sum", "--check", "--strict", "SHA256SUMS"), ": OK\n")
		if checked != len(want)-1 {
			t.Errorf("%d files are in order, want %d", checked, len(want)-1)
		}
	})
	t.Run("chart", func(t *testing.T) {
		shown := run(t, release, nil, "helm", "show", "chart", chart)
		rendered := run(t, release, nil, "helm", "template", "tagger", chart, "--namespace", "tagger")
		wantText(t, shown, "version: 1.2.3+test\n", "appVersion: v1.2.3+test\n")
		wantText(t, rendered, `image: "`+image+`"`)
	})
	t.Run("manifests", func(t *testing.T) {
		kubectl := os.Getenv("TAGGER_KUBECTL") //nolint:forbidigo // this is where the tests are told
		if kubectl == "" {
			t.Skip("no TAGGER_KUBECTL")
		}
		dir := t.TempDir()
		run(t, dir, nil, "tar", "--extract", "--gzip", "--file", filepath.Join(release, manifests))
		wantText(t, run(t, dir, nil, kubectl, "kustomize", "tagger-manifests"), "image: "+image+"\n")
		// As the README says it, to run an image that was pushed elsewhere.
		readme := files["/README.md"]
		_, overlay, _ := strings.Cut(readme, "```yaml\n")
		overlay, _, _ = strings.Cut(overlay, "```")
		mine := filepath.Join(dir, "mine")
		if err := errors.Join(os.Mkdir(mine, 0o755), os.WriteFile(filepath.Join(mine, "kustomization.yaml"), []byte(overlay), 0o600)); err != nil {
			t.Fatal(err)
		}
		wantText(t, run(t, dir, nil, kubectl, "kustomize", "mine"), "image: registry.example.com/tagger-apiserver:v1.2.3_test\n")
		if _, err := os.Stat(filepath.Join(dir, "tagger-manifests", "other-namespaces.yaml")); err != nil {
			t.Error(err)
		}
	})
	t.Run("binaries", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range want {
			if strings.HasSuffix(name, "_test-"+platform+".tar.gz") {
				run(t, dir, nil, "tar", "--extract", "--gzip", "--file", filepath.Join(release, name))
			}
		}
		wantText(t, run(t, dir, nil, "./tagger-apiserver", "--version"), "v1.2.3+test")
		wantText(t, run(t, dir, nil, "./kubectl-image", "--help"), "rollback")
		wantText(t, run(t, dir, nil, "./tagger-credential-provider", "--version"), "v1.2.3+test")
		for _, name := range []string{"credential-provider.yaml", "hosts.toml", "rbac.yaml"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("documents", func(t *testing.T) {
		dir := t.TempDir()
		run(t, dir, nil, "tar", "--extract", "--gzip", "--file", filepath.Join(release, "tagger-docs-v1.2.3_test.tar.gz"))
		for _, name := range []string{"README.md", "docs/install.md", "artifacts/chart/README.md"} {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			wantText(t, string(content), "From a release")
			if strings.Contains(strings.ToLower(string(content)), "nothing is published") {
				t.Errorf("%s says that nothing is published", name)
			}
		}
	})
	t.Run("README", func(t *testing.T) {
		readme := files["/README.md"]
		wantText(t, readme, "# Tagger v1.2.3+test\n", image, "sha256:")
		if left := regexp.MustCompile("@[A-Z]+@").FindString(readme); left != "" {
			t.Errorf("%s is left", left)
		}
		for _, name := range want {
			if name != "README.md" && !strings.Contains(readme, name) &&
				!strings.Contains(readme, regexp.MustCompile(`_test-\w+-\w+\.`).ReplaceAllLiteralString(name, "_test-OS-ARCHITECTURE.")) {
				t.Errorf("it does not name %s", name)
			}
		}
	})
	for _, refused := range []string{"registry.example.com:5000/tagger-apiserver", "registry.example.com/tagger-apiserver:v1@sha256:0"} {
		cmd := exec.CommandContext(t.Context(), "hack/build-release.sh")
		cmd.Dir, cmd.Env = first, append(cmd.Environ(), "IMAGE="+refused)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "must end with a tag") {
			t.Errorf("IMAGE=%s: %v: %s", refused, err, out)
		}
	}
}

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}
