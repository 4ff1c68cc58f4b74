// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/cmd/image/local"
)

// stocked is a registry port behind which there is an image for two platforms, ns/myapp:latest.
func stocked(t *testing.T) (*port, v1.ImageIndex, string) {
	t.Helper()
	port, index := newPort(t, true), newIndex(t)
	if err := remote.WriteIndex(port.reference(t, "ns/myapp:latest"), index, port.options()...); err != nil {
		t.Fatal(err)
	}
	hash, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return port, index, hash.String()
}

// TestPullToLayout pulls all of an image by each way, and again, which fetches nothing that is there.
func TestPullToLayout(t *testing.T) {
	t.Parallel()
	for _, via := range []string{viaRegistry, viaAPIServer} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			port, _, digest := stocked(t)
			server := published(t, port.host(), port.authority())
			server.proxy = port.handler
			folder := filepath.Join(t.TempDir(), "layout")
			pull := func(name, to string) result {
				return server.run(t.Context(), testingclock.NewFakeClock(now), nil, "pull", name, "--to=oci:"+to, "--via="+via)
			}
			way := map[string]string{viaRegistry: port.host(), viaAPIServer: "kube-apiserver"}[via]
			want := result{
				Stdout: "image.tagger.dev/myapp pulled to oci:" + folder + "\n  " + port.host() + "/ns/myapp@" + digest + "\n",
				Stderr: "pulling ns/myapp:latest to oci:" + folder + " by way of " + way + "\n",
			}
			if diff := cmp.Diff(want, pull("myapp", folder)); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			fetched := port.count("GET", "/blobs/")
			if got := pull("myapp@"+digest, folder+":again"); got.Code != 0 {
				t.Errorf("unexpected result: %+v", got)
			}
			if again := port.count("GET", "/blobs/"); again != fetched {
				t.Errorf("pulling again fetched %d blobs", again-fetched)
			}
			list, err := validLayout(t, folder).IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, image := range list.Manifests {
				got[image.Annotations["org.opencontainers.image.ref.name"]] = image.Digest.String()
			}
			if diff := cmp.Diff(map[string]string{"latest": digest, "again": digest}, got); diff != "" {
				t.Errorf("images in the layout (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPullToArchive holds that archives are read by others, and by ourselves.
func TestPullToArchive(t *testing.T) {
	t.Parallel()
	port, index, digest := stocked(t)
	server := published(t, port.host(), port.authority())
	folder := t.TempDir()
	pull := func(args ...string) {
		if got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, append([]string{"pull"}, args...)...); got.Code != 0 {
			t.Fatalf("unexpected result: %+v", got)
		}
	}
	whole, part := filepath.Join(folder, "whole.tar"), filepath.Join(folder, "part.tar")
	pull("myapp", "--to=oci-archive:"+whole)
	pull("ns/myapp", "--to=docker-archive:"+part+":it:1", "--platform=linux/arm64")

	source, err := local.Open(t.Context(), local.Location{Transport: local.OCIArchive, Path: whole}, t.TempDir())
	if err != nil || source.Root.Digest.String() != digest {
		t.Errorf("%v: the archive has %s, want %s", err, source.Root.Digest, digest)
	}
	tag, err := name.NewTag("it:1")
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(part, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	original, err := index.Image(list.Manifests[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(diffIDs(t, original), diffIDs(t, image)); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	// By its manifest, and not as docker's archive: nothing is compressed anew.
	source, err = local.Open(t.Context(), local.Location{Transport: local.DockerArchive, Path: part}, t.TempDir())
	if err != nil || source.Root.Digest.String() != list.Manifests[1].Digest.String() {
		t.Errorf("%v: the archive has %s, want %s", err, source.Root.Digest, list.Manifests[1].Digest)
	}
	names := map[string]bool{}
	for reader := tar.NewReader(bytes.NewReader(read(t, part))); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || names[header.Name] {
			t.Fatalf("%v: %s", err, header.Name)
		}
		names[header.Name] = true
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v: what it needed meanwhile stayed: %v", err, entries)
	}
}

// TestPullByDigest holds that what is pulled by digest is not called latest, wherever it goes.
func TestPullByDigest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, to, want string
	}{
		{name: "an archive", to: "docker-archive:FILE", want: "myapp:SHORT"},
		{name: "an archive, by name", to: "docker-archive:FILE:it", want: "it:SHORT"},
		{name: "an archive, by name and tag", to: "docker-archive:FILE:it:1", want: "it:1"},
		{name: "an archive in the layout", to: "oci-archive:FILE", want: "SHORT"},
		{name: "an archive in the layout, by name", to: "oci-archive:FILE:it", want: "it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port, _, digest := stocked(t)
			server := published(t, port.host(), port.authority())
			file := filepath.Join(t.TempDir(), "archive.tar")
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "pull", "myapp@"+digest,
				"--to="+strings.ReplaceAll(tt.to, "FILE", file), "--platform=linux/arm64")
			if got.Code != 0 {
				t.Fatalf("unexpected result: %+v", got)
			}
			where := local.Location{Transport: local.DockerArchive, Path: file}
			if strings.HasPrefix(tt.to, "oci") {
				where.Transport = local.OCIArchive
			}
			where.Reference = strings.ReplaceAll(tt.want, "SHORT", "sha256-"+digest[len("sha256:"):][:12])
			if where.Transport == local.DockerArchive { // and not as a layout, which has another name for it
				tag, err := name.NewTag(where.Reference)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tarball.ImageFromPath(file, &tag); err != nil {
					t.Error(err)
				}
			} else if _, err := local.Open(t.Context(), where, t.TempDir()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPullGoesOn holds that a connection that breaks costs what it had not brought yet.
func TestPullGoesOn(t *testing.T) {
	t.Parallel()
	port, index, _ := stocked(t)
	var broken, ranges atomic.Int32
	port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		digest, err := v1.NewHash(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		if err != nil {
			t.Error(err)
		}
		body := blob(t, index, digest)
		w.Header().Set("Accept-Ranges", "bytes")
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
			http.ServeContent(w, r, "", now, bytes.NewReader(body))
			return true
		}
		broken.Add(1)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		return true // which breaks the connection, as something is missing
	}
	server := published(t, port.host(), port.authority())
	folder := t.TempDir()
	got := server.run(t.Context(), clock.RealClock{}, nil, "pull", "myapp", "--to=oci:"+folder)
	if got.Code != 0 || broken.Load() == 0 || ranges.Load() != broken.Load() {
		t.Fatalf("%d connections broke, %d went on: %+v", broken.Load(), ranges.Load(), got)
	}
	validLayout(t, folder)
}

// validLayout returns the index of a layout, all of which is there.
func validLayout(t *testing.T, folder string) v1.ImageIndex {
	t.Helper()
	path, err := layout.FromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	return index
}

// TestPullInterrupted holds that a pull to a layout that was interrupted goes on by the same command, and leaves blobs alone.
func TestPullInterrupted(t *testing.T) {
	t.Parallel()
	port, index, _ := stocked(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var fetched atomic.Int32
	port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || fetched.Add(1) > 1 {
			return false
		}
		digest, err := v1.NewHash(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		if err != nil {
			t.Error(err)
		}
		body := blob(t, index, digest)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		interrupt()
		<-r.Context().Done()
		return true
	}
	server := published(t, port.host(), port.authority())
	folder := filepath.Join(t.TempDir(), "layout")
	got := server.run(ctx, testingclock.NewFakeClock(now), nil, "pull", "myapp", "--to=oci:"+folder)
	if got.Code != 130 || !strings.HasSuffix(got.Stderr, "interrupted: what was moved already is not moved again by the same command\n") {
		t.Fatalf("unexpected result: %+v", got)
	}
	for range 2 {
		if _, err := os.Stat(filepath.Join(folder, "ingest")); !errors.Is(err, fs.ErrNotExist) {
			left, _ := filepath.Glob(filepath.Join(folder, "ingest", "*"))
			t.Errorf("%v: what it needed meanwhile stayed: %v", err, left)
		}
		if got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "pull", "myapp", "--to=oci:"+folder); got.Code != 0 {
			t.Fatalf("the same again: %+v", got)
		}
	}
	path, err := layout.FromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
}

// TestTransferTriesAgain holds that what a registry cannot do now is done later, and not for ever.
func TestTransferTriesAgain(t *testing.T) {
	t.Parallel()
	port, _, _ := stocked(t)
	var times atomic.Int32
	port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") || times.Add(1) > 2 {
			return false
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		return true
	}
	server := published(t, port.host(), port.authority())
	got := server.run(t.Context(), clock.RealClock{}, nil, "pull", "myapp", "--to=oci:"+t.TempDir())
	if got.Code != 0 || !strings.Contains(got.Stderr, "trying again in 1s\n") {
		t.Errorf("unexpected result: %+v", got)
	}
}

// TestPullFails holds what is said of a pull that fails, and that nothing stays of it.
func TestPullFails(t *testing.T) {
	t.Parallel()
	const (
		see    = "See 'kubectl image pull --help' for usage.\n"
		rights = "that needs the right to get images/layers in the namespace ns\n" +
			"See: kubectl image history myapp --namespace ns\n" +
			"In a cluster also: kubectl auth can-i get images.tagger.dev/myapp --subresource=layers --namespace ns\n"
	)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{name: "no such tag", args: []string{"myapp:v9"}, want: "error: there is no ns/myapp:v9, or you may not pull it: " + rights},
		{name: "no such digest", args: []string{"myapp@" + digest}, want: "error: there is no ns/myapp@" + digest + ", or you may not pull it: " + rights},
		{
			name: "no such platform", args: []string{"myapp", "--platform=plan9/arm"},
			want: "error: there is no plan9/arm in ns/myapp:latest\n" +
				"Choose another with --platform=OS/ARCHITECTURE, or pull all of them with --to=oci:FOLDER\n",
		},
		{name: "no platform", args: []string{"myapp", "--platform=arm64"},
			want: "error: --platform must be OS/ARCHITECTURE, maybe with /VARIANT, as in linux/amd64, not \"arm64\"\n" + see},
		{name: "no digest", args: []string{"myapp@sha256:5a37"}, want: "error: \"sha256:5a37\" is no digest, as in sha256:5a37… with all its digits\n" + see},
		{name: "no name", args: []string{"MyApp"},
			want: "error: \"MyApp\" is no name of an image: names are lower case, as in myapp\n" + see},
		{name: "no format", args: []string{"myapp", "-o", "wide"}, want: "error: --output must be \"name\", \"reference\", \"json\" or \"yaml\", not \"wide\"\n" + see},
		{name: "a host, and no way to it", args: []string{"localhost:5000/ns/myapp", "--via=apiserver"},
			want: "error: localhost:5000/ns/myapp names a host, and --via=apiserver goes to none\n" + see},
		{name: "a folder of others", args: []string{"myapp", "--to=oci:FOLDER"},
			want: "error: FOLDER has files and is no OCI layout; choose a folder that is new, empty or a layout\n"},
		{name: "an archive over a folder", args: []string{"myapp", "--to=docker-archive:FOLDER"},
			want: "error: FOLDER is a folder; name a file, as in docker-archive:FOLDER/myapp.tar\n"},
		{name: "a layout over a file", args: []string{"myapp", "--to=oci:FOLDER/mine"},
			want: "error: FOLDER/mine is a file; choose a folder that is new, empty or a layout, or name an archive by oci-archive:FOLDER/mine\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port, _, _ := stocked(t)
			server := published(t, port.host(), port.authority())
			folder := filepath.Dir(written(t, "mine", []byte("mine")))
			args := []string{"pull"}
			for _, arg := range tt.args {
				args = append(args, strings.ReplaceAll(arg, "FOLDER", folder))
			}
			if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--to") }) {
				args = append(args, "--to=docker-archive:"+filepath.Join(folder, "archive.tar"))
			}
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, args...)
			text := strings.ReplaceAll(got.Stderr, folder, "FOLDER")
			if _, after, found := strings.Cut(text, "by way of "+port.host()+"\n"); found {
				text = after
			}
			if diff := cmp.Diff(result{Stderr: tt.want, Code: 1}, result{Stdout: got.Stdout, Stderr: text, Code: got.Code}); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			entries, err := os.ReadDir(folder)
			if err != nil || len(entries) != 1 {
				t.Errorf("%v: something stays of it: %v", err, entries)
			}
		})
	}
}

// TestPullRefusesOtherBytes holds that what a registry makes up is not kept.
func TestPullRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	port, _, _ := stocked(t)
	port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), 4096+1024)) // as long as a layer at least
		return true
	}
	server := published(t, port.host(), port.authority())
	file := filepath.Join(t.TempDir(), "archive.tar")
	got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "pull", "myapp", "--to=oci-archive:"+file)
	if got.Code != 1 || !strings.Contains(got.Stderr, "error: could not pull ns/myapp:latest: ") {
		t.Errorf("unexpected result: %+v", got)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there is an archive")
	}
}

// blob returns a blob of an image for two platforms.
func blob(t *testing.T, index v1.ImageIndex, digest v1.Hash) []byte {
	t.Helper()
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list.Manifests {
		image, err := index.Image(entry.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if config, err := image.ConfigName(); err == nil && config == digest {
			body, err := image.RawConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			return body
		}
		if layer, err := image.LayerByDigest(digest); err == nil {
			content, err := layer.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(content)
			if err != nil {
				t.Fatal(err)
			}
			return body
		}
	}
	t.Errorf("there is no blob %s", digest)
	return nil
}
