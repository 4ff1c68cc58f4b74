// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"tagger.dev/tagger/pkg/distribution"
)

func TestStoreRefusesOtherContent(t *testing.T) {
	t.Parallel()
	errCut := errors.New("connection reset")
	blob := layer("some content of a layer")
	long := newItem(ocispec.MediaTypeImageLayer, digest.SHA512, []byte("some content of a layer"))
	manifest := image(t, layer("{}"), blob)
	notJSON := newItem(ocispec.MediaTypeImageManifest, digest.SHA256, []byte("{"))
	wrongKind := newItem(ocispec.MediaTypeImageManifest, digest.SHA256, index(t, manifest).data)
	badChild := newItem(ocispec.MediaTypeImageManifest, digest.SHA256, []byte(`{"layers":[{"digest":"sha256:x"}]}`))
	huge := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: manifest.desc.Digest, Size: maxManifestSize + 1}
	tests := []struct {
		name   string
		desc   ocispec.Descriptor
		reader io.Reader
		want   error
	}{
		{name: "blob too short", desc: blob.desc, reader: bytes.NewReader(blob.data[1:]), want: errdefs.ErrFailedPrecondition},
		{name: "blob too long", desc: blob.desc, reader: bytes.NewReader(append(blob.data, 'x')), want: errdefs.ErrFailedPrecondition},
		{name: "blob of other bytes", desc: blob.desc, reader: bytes.NewReader(bytes.ToUpper(blob.data)), want: errdefs.ErrFailedPrecondition},
		{name: "blob of other bytes, sha512", desc: long.desc, reader: bytes.NewReader(bytes.ToUpper(long.data)), want: errdefs.ErrFailedPrecondition},
		{name: "blob cut off", desc: blob.desc, reader: io.MultiReader(bytes.NewReader(blob.data[:5]), iotest.ErrReader(errCut)), want: errCut},
		{name: "manifest too short", desc: manifest.desc, reader: bytes.NewReader(manifest.data[1:]), want: errdefs.ErrFailedPrecondition},
		{name: "manifest of other bytes", desc: manifest.desc, reader: bytes.NewReader(bytes.ToUpper(manifest.data)), want: errdefs.ErrFailedPrecondition},
		{name: "manifest cut off", desc: manifest.desc, reader: iotest.ErrReader(errCut), want: errCut},
		{name: "manifest that is not JSON", desc: notJSON.desc, reader: bytes.NewReader(notJSON.data), want: errdefs.ErrInvalidArgument},
		{name: "index sent as a manifest", desc: wrongKind.desc, reader: bytes.NewReader(wrongKind.data), want: errdefs.ErrInvalidArgument},
		{name: "manifest with a malformed digest", desc: badChild.desc, reader: bytes.NewReader(badChild.data), want: errdefs.ErrInvalidArgument},
		{name: "manifest beyond all measure", desc: huge, reader: bytes.NewReader(manifest.data), want: errdefs.ErrInvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			repo := s.Repository("ns", "app")
			if err := repo.Push(t.Context(), tt.desc, tt.reader); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if mount(t, repo, item{desc: tt.desc}) {
				t.Error("the repository holds it")
			}
			// Content that is there already is checked all the same.
			push(t, repo, blob, long, manifest)
			if again, ok := tt.reader.(io.Seeker); ok {
				if _, err := again.Seek(0, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				if err := repo.Push(t.Context(), tt.desc, tt.reader); !errors.Is(err, tt.want) {
					t.Errorf("over good content: got %v, want %v", err, tt.want)
				}
			}
			if diff := cmp.Diff(all(3, true), readable(t, s, "ns", "app", []item{blob, long, manifest})); diff != "" {
				t.Errorf("afterwards (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStorePushesAtOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "at once")
	targets := [][2]string{{"a", "app"}, {"a", "other"}, {"b", "app"}}
	var group errgroup.Group
	for _, target := range targets {
		repo := s.Repository(target[0], target[1])
		for _, i := range items {
			for range 3 {
				group.Go(func() error { return repo.Push(t.Context(), i.desc, bytes.NewReader(i.data)) })
			}
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		commit(t, s.Repository(target[0], target[1]), root, "latest")
		if diff := cmp.Diff(all(len(items), true), readable(t, s, target[0], target[1], items)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
}

// TestLiesDamageNothing pushes other bytes, of another size, by the digests of what another namespace has.
func TestLiesDamageNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "lies")
	victim, liar := s.Repository("ns", "app"), s.Repository("other", "app")
	push(t, victim, items...)
	commit(t, victim, root, "latest")
	const lie = "not what has the digest"
	for _, i := range items {
		desc := i.desc
		desc.Size, desc.MediaType = int64(len(lie)), ocispec.MediaTypeImageLayer
		if err := liar.Push(t.Context(), desc, strings.NewReader(lie)); err == nil {
			t.Errorf("%s: a lie is taken", i.desc.MediaType)
		}
		u, err := s.StartUpload(t.Context(), liar.name, desc.Digest.Algorithm())
		if err != nil {
			t.Fatal(err)
		}
		if err := finish(t, u.(*upload), lie, desc.Digest); err == nil {
			t.Errorf("%s: a lie is taken as an upload", i.desc.MediaType)
		}
	}
	if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "app", items)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStoreHealsDamage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		damage func(name string) error
	}{
		{name: "file gone", damage: os.Remove},
		{name: "file cut off", damage: func(name string) error { return rewrite(name, []byte("x")) }},
		{name: "file empty", damage: func(name string) error { return rewrite(name, nil) }},
		{name: "file too long", damage: func(name string) error { return rewrite(name, make([]byte, 64<<10)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := openStore(t, dir)
			items, root := sample(t, "damage")
			repo, neighbour := s.Repository("ns", "app"), s.Repository("ns", "neighbour")
			for _, r := range []*Repository{repo, neighbour} {
				push(t, r, items...)
				commit(t, r, root, "latest")
			}
			for _, i := range items {
				blob := filepath.Join(dir, "content", "blobs", i.desc.Digest.Algorithm().String(), i.desc.Digest.Encoded())
				if err := tt.damage(blob); err != nil {
					t.Fatal(err)
				}
				if complete(t, repo, root) {
					t.Errorf("%s damaged: Complete says true", i.desc.MediaType)
				}
				if mount(t, repo, i) {
					t.Errorf("%s damaged: Mount says true", i.desc.MediaType)
				}
				if read(t, s, "ns", "app", i) != "" {
					t.Errorf("%s damaged: it is served", i.desc.MediaType)
				}
				push(t, repo, i)
				// What healed one repository healed the other.
				for _, r := range []*Repository{repo, neighbour} {
					if !complete(t, r, root) {
						t.Errorf("%s pushed again: %s is not complete", i.desc.MediaType, r.name)
					}
				}
			}
			if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "neighbour", items)); diff != "" {
				t.Errorf("afterwards (-want +got):\n%s", diff)
			}
		})
	}
}

// rewrite replaces a file that may be read-only.
func rewrite(name string, data []byte) error {
	if err := os.Remove(name); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o600)
}

func TestStoreCommitNeedsEverything(t *testing.T) {
	t.Parallel()
	items, root := sample(t, "commit")
	foreign := newItem("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digest.SHA256, []byte("not sent"))
	withForeign := image(t, items[1], items[0], foreign)
	tests := []struct {
		name string
		push []item
		root item
		want error
	}{
		{name: "everything", push: items, root: root},
		{name: "a layer is missing", push: items[1:], root: root, want: errdefs.ErrFailedPrecondition},
		{name: "the root is missing", push: items[:len(items)-1], root: root, want: errdefs.ErrFailedPrecondition},
		{name: "a layer that is not for distribution is missing", push: append(items[:2:2], withForeign), root: withForeign},
		{name: "the root is a blob", push: items[:1], root: items[0], want: errdefs.ErrFailedPrecondition},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			repo := s.Repository("ns", "app")
			push(t, repo, tt.push...)
			err := repo.Commit(t.Context(), map[string]digest.Digest{"b": tt.root.desc.Digest, "a": tt.root.desc.Digest})
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			for _, tag := range []string{"a", "b"} {
				got, err := s.Resolve(t.Context(), repo.name, tag)
				if tt.want != nil {
					if !errors.Is(err, distribution.ErrNameUnknown) {
						t.Errorf("Resolve: got %v, want %v", err, distribution.ErrNameUnknown)
					}
				} else if diff := cmp.Diff(tt.root.desc, got); diff != "" || err != nil {
					t.Errorf("Resolve: %v (-want +got):\n%s", err, diff)
				}
			}
		})
	}
}

func TestStoreManifestSentAsBlob(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "as a blob")
	repo := s.Repository("ns", "app")
	push(t, repo, items[:len(items)-1]...)
	push(t, repo, newItem("application/octet-stream", digest.SHA256, root.data))
	if read(t, s, "ns", "app", root) != "" {
		t.Error("a blob is served as a manifest")
	}
	if mount(t, repo, root) {
		t.Error("Mount of the manifest: got true, though nobody has read it")
	}
	push(t, repo, root)
	commit(t, repo, root, "latest")
	collect(t, s)
	if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "app", items)); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}
