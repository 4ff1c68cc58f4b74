// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package image tests what `make image` and `make release` make: that it is made alike everywhere, what is in it, and that the
// programs of others read and push it. It builds from copies of the tree, and needs of the Makefile only that the clients are in
// PATH.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	version  = "v1.2.3+test" // of the tag, as a tag of git and, with _ for +, of the image
	sbomType = "application/vnd.cyclonedx+json"
)

// committed is when the commit was made that the images are built from.
var committed = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// copyTree makes a repository with one commit: the files of this tree as they are now. The same files make the same commit.
func copyTree(t *testing.T, dir string) {
	t.Helper()
	root := strings.TrimSpace(run(t, "", nil, "git", "rev-parse", "--show-toplevel"))
	files := run(t, root, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for file := range strings.SplitSeq(files, "\x00") {
		source := filepath.Join(root, file)
		info, err := os.Lstat(source)
		if file == "" || errors.Is(err, fs.ErrNotExist) { // it was deleted since the last commit
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, file)
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, content, info.Mode().Perm()),
		); err != nil {
			t.Fatal(err)
		}
	}
	date := committed.Format(time.RFC3339)
	environment := []string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t",
	}
	for _, args := range [][]string{
		{"init", "--quiet"}, {"add", "--all"}, {"commit", "--quiet", "--message", "All"}, {"tag", version},
	} {
		run(t, dir, environment, "git", args...)
	}
}

// run runs a program that must succeed and returns what it printed.
func run(t *testing.T, dir string, environment []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), environment...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, stdout, stderr.String())
	}
	return string(stdout)
}

// require skips the test where a client is not installed, or fails it where TAGGER_REQUIRE_CLIENTS is set.
func require(t *testing.T, client string) {
	t.Helper()
	if _, err := exec.LookPath(client); err == nil {
		return
	}
	if os.Getenv("TAGGER_REQUIRE_CLIENTS") != "" { //nolint:forbidigo // this is where the tests are told
		t.Fatalf("%q is not installed, and TAGGER_REQUIRE_CLIENTS is set", client)
	}
	t.Skipf("%q is not installed", client)
}

// must ends the test on an error.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// readFiles returns the content of all files below a directory, by their path.
func readFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// sameFiles is readFiles of what was built twice, alike.
func sameFiles(t *testing.T, first, second string) map[string]string {
	t.Helper()
	a, b := readFiles(t, first), readFiles(t, second)
	for path := range a {
		if a[path] != b[path] {
			t.Errorf("%s: the builds differ", path)
		}
	}
	if len(a) != len(b) {
		t.Errorf("the builds have %d and %d files", len(a), len(b))
	}
	return a
}

func TestImage(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	pushed := must(name.NewTag(strings.TrimPrefix(server.URL, "http://") + "/tagger/server:v1"))(t)

	// The same commit twice, in different places, and all else that a build must not depend on.
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "deeper", "second")
	copyTree(t, first)
	copyTree(t, second)
	printed := run(t, first, []string{"TZ=Asia/Kolkata", "GOAMD64=v3"}, "bash", "-c", "umask 077 && hack/build-image.sh")
	again := run(t, second, []string{"TZ=America/St_Johns", "GOFLAGS=-tags=other"}, "bash", "-c", "umask 000 && hack/build-image.sh")

	output := filepath.Join(first, "output", "image")
	tree := filepath.Join(output, "oci")
	archive := filepath.Join(output, "tagger-apiserver.tar")
	top := must(must(layout.ImageIndexFromPath(tree))(t).IndexManifest())(t)
	if len(top.Manifests) != 1 {
		t.Fatalf("the layout has %d entries, want the one that crane and skopeo take", len(top.Manifests))
	}
	digest := top.Manifests[0].Digest
	tag := strings.ReplaceAll(version, "+", "_")

	t.Run("reproducible", func(t *testing.T) {
		if want := "tagger.dev/tagger-apiserver:" + tag + "@" + digest.String() + "\n"; printed != want || again != want {
			t.Errorf("printed %q and %q, want %q", printed, again, want)
		}
		sameFiles(t, output, filepath.Join(second, "output", "image"))
		date := run(t, first, []string{"SOURCE_DATE_EPOCH=1000000000"}, "hack/version.sh", "date")
		if want := "2001-09-09T01:46:40Z\n"; date != want {
			t.Errorf("SOURCE_DATE_EPOCH gives the date %q, want %q", date, want)
		}
	})

	index := must(must(layout.ImageIndexFromPath(tree))(t).ImageIndex(digest))(t)
	manifests := must(index.IndexManifest())(t).Manifests
	var platforms []string
	for _, d := range manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"}, platforms); diff != "" {
		t.Fatalf("platforms (-want +got):\n%s", diff)
	}
	revision := strings.TrimSpace(run(t, first, nil, "git", "rev-parse", "HEAD"))
	for i, d := range manifests[:2] {
		t.Run(d.Platform.String(), func(t *testing.T) {
			image := must(index.Image(d.Digest))(t)
			checkConfig(t, image, d.Platform, revision)
			binary := checkFiles(t, image)
			if d.Platform.OS == runtime.GOOS && d.Platform.Architecture == runtime.GOARCH {
				if printed := run(t, "", nil, binary, "--version"); !strings.Contains(printed, version) {
					t.Errorf("the binary prints the version %q, want %s", printed, version)
				}
			}
			checkSBOM(t, must(index.Image(manifests[2+i].Digest))(t), d, binary)
		})
	}

	for name, source := range map[string]string{
		"layout": "oci:" + tree, "tag in layout": "oci:" + tree + ":" + tag, "archive": "oci-archive:" + archive,
	} {
		t.Run("skopeo/"+name, func(t *testing.T) {
			require(t, "skopeo")
			target := t.TempDir()
			run(t, "", nil, "skopeo", "copy", "--all", "--preserve-digests", source, "dir:"+target)
			if diff := cmp.Diff(must(index.RawManifest())(t), must(os.ReadFile(filepath.Join(target, "manifest.json")))(t)); diff != "" {
				t.Errorf("what skopeo copied (-want +got):\n%s", diff)
			}
		})
	}

	t.Run("push", func(t *testing.T) {
		require(t, "crane")
		run(t, first, []string{"IMAGE=" + pushed.Name(), "PUSH=1", "DOCKER_CONFIG=" + t.TempDir()}, "hack/build-image.sh")
		descriptor := must(remote.Get(pushed))(t)
		if descriptor.Digest != digest {
			t.Errorf("the registry has %s, want %s, under whatever name", descriptor.Digest, digest)
		}
		for i, d := range manifests[:2] {
			listed := must(must(remote.Referrers(pushed.Digest(d.Digest.String())))(t).IndexManifest())(t).Manifests
			if len(listed) != 1 || listed[0].Digest != manifests[2+i].Digest {
				t.Errorf("the registry lists as referrers of %s: %+v, want its SBOM", d.Platform, listed)
			}
		}
	})
}

func checkConfig(t *testing.T, image v1.Image, platform *v1.Platform, revision string) {
	t.Helper()
	got := must(image.ConfigFile())(t)
	annotations := must(image.Manifest())(t).Annotations
	want := &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Created: v1.Time{Time: committed}, RootFS: got.RootFS,
		Config: v1.Config{User: "65532:65532", Entrypoint: []string{"/tagger-apiserver"}, Labels: annotations},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{
		ocispec.AnnotationTitle: "tagger-apiserver", ocispec.AnnotationLicenses: "Apache-2.0",
		ocispec.AnnotationVersion: version, ocispec.AnnotationRevision: revision,
		ocispec.AnnotationCreated: committed.Format(time.RFC3339),
	} {
		if annotations[key] != want {
			t.Errorf("annotation %s is %q, want %q", key, annotations[key], want)
		}
	}
}

// checkFiles returns the path to a copy of the binary.
func checkFiles(t *testing.T, image v1.Image) string {
	t.Helper()
	layers := must(image.Layers())(t)
	if len(layers) != 1 {
		t.Fatalf("%d layers, want 1", len(layers))
	}
	reader := tar.NewReader(must(layers[0].Uncompressed())(t))
	binary := filepath.Join(t.TempDir(), "binary")
	got, want := map[string]int64{}, map[string]int64{
		"etc/": 0o755, "etc/ssl/": 0o755, "etc/ssl/certs/": 0o755, "etc/ssl/certs/ca-certificates.crt": 0o644,
		"tagger-apiserver": 0o755, "tmp/": 0o1777,
	}
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = header.Mode
		if !header.ModTime.Equal(committed) || header.Uid != 0 || header.Gid != 0 || header.Uname != "" {
			t.Errorf("%s: it has a time or an owner of its own: %+v", header.Name, header)
		}
		content := must(io.ReadAll(reader))(t)
		switch header.Name {
		case "tagger-apiserver":
			if err := os.WriteFile(binary, content, 0o700); err != nil {
				t.Fatal(err)
			}
		case "etc/ssl/certs/ca-certificates.crt":
			checkRoots(t, content)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files and modes (-want +got):\n%s", diff)
	}
	return binary
}

func checkRoots(t *testing.T, certificates []byte) {
	t.Helper()
	n := 0
	for block, rest := pem.Decode(certificates); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			t.Error(err)
		}
		n++
	}
	if n < 100 {
		t.Errorf("%d root certificates, Mozilla has more than 100", n)
	}
}

// checkSBOM checks that the SBOM is about the image, and names each module of its binary.
func checkSBOM(t *testing.T, sbom v1.Image, image v1.Descriptor, binary string) {
	t.Helper()
	var manifest ocispec.Manifest
	if err := json.Unmarshal(must(sbom.RawManifest())(t), &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest.ArtifactType != sbomType || manifest.Subject == nil || manifest.Subject.Digest.String() != image.Digest.String() {
		t.Errorf("the SBOM is a %s of %+v, want a %s of %s", manifest.ArtifactType, manifest.Subject, sbomType, image.Digest)
	}
	content := must(must(sbom.Layers())(t)[0].Compressed())(t)
	defer content.Close()
	type component struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	var document struct {
		BOMFormat string `json:"bomFormat"`
		Metadata  struct {
			Timestamp time.Time `json:"timestamp"`
			Component component `json:"component"`
		} `json:"metadata"`
		Components []component `json:"components"`
	}
	if err := json.NewDecoder(content).Decode(&document); err != nil {
		t.Fatal(err)
	}
	subject := component{Name: "tagger-apiserver", Version: image.Digest.String()}
	if document.BOMFormat != "CycloneDX" || document.Metadata.Component != subject || !document.Metadata.Timestamp.Equal(committed) {
		t.Errorf("the SBOM begins with %+v, want CycloneDX about %v", document.Metadata, subject)
	}
	listed := map[string]string{}
	for _, c := range document.Components {
		listed[c.Name] = c.Version
	}
	info := must(buildinfo.ReadFile(binary))(t)
	for _, module := range info.Deps {
		if listed[module.Path] != module.Version {
			t.Errorf("the SBOM has %s %q, the binary %s", module.Path, listed[module.Path], module.Version)
		}
	}
	if extra := len(listed) - len(info.Deps); extra != 3 || listed["tagger.dev/tagger"] != version ||
		listed["stdlib"] != strings.TrimPrefix(info.GoVersion, "go") || listed["golang.org/x/crypto/x509roots/fallback"] == "" {
		t.Errorf("the SBOM has %d components beside modules, want Tagger, Go and the root certificates", extra)
	}
}
