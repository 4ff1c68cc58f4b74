// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolterrors "go.etcd.io/bbolt/errors"

	"tagger.dev/tagger/pkg/distribution"
)

func TestStoreIsolation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		namespace, repo string
		wantRead        bool
		wantMount       bool
	}{
		{name: "same repository", namespace: "a--b", repo: "app", wantRead: true, wantMount: true},
		{name: "other repository of the namespace", namespace: "a--b", repo: "other", wantMount: true},
		{name: "repository whose name is the beginning", namespace: "a--b", repo: "ap", wantMount: true},
		{name: "other namespace, same repository", namespace: "c", repo: "app"},
		{name: "namespace that looks alike", namespace: "a-b", repo: "app"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			items, root := sample(t, "isolation")
			repo := s.Repository("a--b", "app")
			push(t, repo, items...)
			commit(t, repo, root, "latest")

			if diff := cmp.Diff(all(len(items), tt.wantRead), readable(t, s, tt.namespace, tt.repo, items)); diff != "" {
				t.Errorf("readable at first (-want +got):\n%s", diff)
			}
			other := s.Repository(tt.namespace, tt.repo)
			for _, i := range items {
				if got := mount(t, other, i); got != tt.wantMount {
					t.Errorf("Mount(%s): got %v, want %v", i.desc.MediaType, got, tt.wantMount)
				}
			}
			if diff := cmp.Diff(all(len(items), tt.wantMount), readable(t, s, tt.namespace, tt.repo, items)); diff != "" {
				t.Errorf("readable after mounting (-want +got):\n%s", diff)
			}
			push(t, other, items...)
			commit(t, other, root, "latest")
			if !complete(t, other, root) {
				t.Error("incomplete after everything was pushed")
			}
		})
	}
}

func TestStoreCollects(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(t *testing.T, s *Store, items []item, root item)
		want bool
	}{
		{
			name: "committed content stays",
			do: func(t *testing.T, s *Store, items []item, root item) {
				repo := s.Repository("ns", "app")
				push(t, repo, items...)
				commit(t, repo, root, "latest", "anchor-1")
			},
			want: true,
		},
		{
			name: "content under way stays",
			do:   func(t *testing.T, s *Store, items []item, _ item) { push(t, s.Repository("ns", "app"), items...) },
			want: true,
		},
		{
			name: "content of a failed import goes in time",
			do: func(t *testing.T, s *Store, items []item, _ item) {
				s.leaseDuration = -time.Minute
				push(t, s.Repository("ns", "app"), items...)
			},
		},
		{
			name: "mounted content stays while its import is under way",
			do: func(t *testing.T, s *Store, items []item, _ item) {
				s.leaseDuration = -time.Minute
				push(t, s.Repository("ns", "app"), items...)
				s.leaseDuration = time.Hour
				repo := s.Repository("ns", "app")
				for _, i := range items {
					if !mount(t, repo, i) {
						t.Errorf("Mount(%s): got false", i.desc.MediaType)
					}
				}
			},
			want: true,
		},
		{
			name: "what the tag left goes",
			do: func(t *testing.T, s *Store, items []item, root item) {
				repo := s.Repository("ns", "app")
				push(t, repo, items...)
				commit(t, repo, root, "latest")
				others, otherRoot := sample(t, "next version")
				push(t, repo, others...)
				commit(t, repo, otherRoot, "latest")
			},
		},
		{
			name: "commit ends the protection of what it does not name",
			do: func(t *testing.T, s *Store, items []item, _ item) {
				repo := s.Repository("ns", "app")
				push(t, repo, items...)
				others, otherRoot := sample(t, "another")
				push(t, repo, others...)
				commit(t, repo, otherRoot, "latest")
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := openStore(t, dir)
			items, root := sample(t, "collection")
			tt.do(t, s, items, root)
			collect(t, s)
			if diff := cmp.Diff(all(len(items), tt.want), readable(t, s, "ns", "app", items)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, i := range items {
				_, err := os.Stat(filepath.Join(dir, "content", "blobs", i.desc.Digest.Algorithm().String(), i.desc.Digest.Encoded()))
				if got := err == nil; got != tt.want {
					t.Errorf("file of %s: got %v, want it there: %v", i.desc.MediaType, err, tt.want)
				}
			}
		})
	}
}

// TestStoreCollectsMeanwhile collects in the middle of every push, at first and
// when all the content is there already.
func TestStoreCollectsMeanwhile(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "meanwhile")
	for _, round := range []string{"new content", "content that is there"} {
		repo := s.Repository("ns", "app")
		for _, i := range items {
			// Something to be removed, without which the collector does not
			// look at the files.
			s.leaseDuration = -time.Minute
			push(t, s.Repository("ns", "app"), layer("garbage of "+round+i.desc.Digest.String()))
			s.leaseDuration = time.Hour
			reader := io.MultiReader(bytes.NewReader(i.data[:1]), &collecting{t: t, store: s}, bytes.NewReader(i.data[1:]))
			if err := repo.Push(t.Context(), i.desc, reader); err != nil {
				t.Fatalf("%s: %v", round, err)
			}
		}
		commit(t, repo, root, "latest")
		if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "app", items)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", round, diff)
		}
	}
}

// collecting is a reader without content that collects when it is read.
type collecting struct {
	t     *testing.T
	store *Store
}

func (c *collecting) Read([]byte) (int, error) {
	collect(c.t, c.store)
	return 0, io.EOF
}

func TestStoreRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	items, root := sample(t, "restart")
	s := openStore(t, dir)
	repo := s.Repository("ns", "app")
	push(t, repo, items...)
	commit(t, repo, root, "latest")
	if _, err := OpenStore(t.Context(), StoreConfig{Dir: dir}); !errors.Is(err, bolterrors.ErrTimeout) {
		t.Errorf("second open: got %v, want %v", err, bolterrors.ErrTimeout)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What a process leaves that is killed while it begins a write.
	stale := filepath.Join(dir, "content", "ingest", "stale")
	overwrite(t, filepath.Join(stale, "ref"), "push-stale")

	s = openStore(t, dir)
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unfinished write: got %v, want it gone", err)
	}
	collect(t, s)
	if diff := cmp.Diff(all(len(items), true), readable(t, s, "ns", "app", items)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !complete(t, s.Repository("ns", "app"), root) {
		t.Error("Complete: got false")
	}
}

func TestStoreNames(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "names")
	repo := s.Repository("ns", "app.v1")
	push(t, repo, items...)
	commit(t, repo, root, "latest")
	tests := []struct {
		name            string
		namespace, repo string
		tag             string
		want            error
	}{
		{name: "there", namespace: "ns", repo: "app.v1", tag: "latest"},
		{name: "tag unknown", namespace: "ns", repo: "app.v1", tag: "other", want: distribution.ErrManifestUnknown},
		{name: "repository unknown", namespace: "ns", repo: "app", tag: "latest", want: distribution.ErrNameUnknown},
		{name: "dot is no wildcard", namespace: "ns", repo: "app-v1", tag: "latest", want: distribution.ErrNameUnknown},
		{name: "namespace unknown", namespace: "other", repo: "app.v1", tag: "latest", want: distribution.ErrNameUnknown},
		{name: "namespace that encodes to another", namespace: "nDs", repo: "app.v1", tag: "latest", want: distribution.ErrNameInvalid},
		{name: "path in a name", namespace: "ns", repo: "../app.v1", tag: "latest", want: distribution.ErrNameInvalid},
		{name: "no name", namespace: "ns", want: distribution.ErrNameInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			name := distribution.Repository{Namespace: tt.namespace, Name: tt.repo}
			if _, err := s.Resolve(t.Context(), name, tt.tag); !errors.Is(err, tt.want) {
				t.Errorf("Resolve: got %v, want %v", err, tt.want)
			}
			if errors.Is(tt.want, distribution.ErrNameInvalid) {
				if _, err := s.Repository(tt.namespace, tt.repo).Mount(t.Context(), root.desc); !errors.Is(err, tt.want) {
					t.Errorf("Mount: got %v, want %v", err, tt.want)
				}
			}
		})
	}
}

// TestReferrers: what refers to an image is found by it and held with it, in the repository that has both.
func TestReferrers(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "subject")
	signed := func(name string, subject *ocispec.Descriptor, annotations map[string]string) []item {
		content := layer(name)
		manifest := marshal(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: content.desc, Layers: []ocispec.Descriptor{content.desc}, Subject: subject, Annotations: annotations,
		})
		return []item{content, manifest}
	}
	signature := signed("signature", &root.desc, map[string]string{"key": "value"})
	elsewhere := signed("elsewhere", &root.desc, nil)
	absent := layer("absent").desc
	dangling := signed("dangling", &absent, nil)

	app, other := s.Repository("ns", "app"), s.Repository("ns", "other")
	for _, repo := range []*Repository{app, other} {
		push(t, repo, items...)
	}
	push(t, app, append(signature, dangling...)...)
	push(t, other, elsewhere...)
	commit(t, app, root, "latest")
	commit(t, other, root, "latest")
	collect(t, s)

	want := signature[1].desc
	want.ArtifactType, want.Annotations = ocispec.MediaTypeImageLayer, map[string]string{"key": "value"}
	for _, tt := range []struct {
		name    string
		repo    distribution.Repository
		subject digest.Digest
		want    []ocispec.Descriptor
	}{
		{name: "of the image", repo: distribution.Repository{Namespace: "ns", Name: "app"}, subject: root.desc.Digest, want: []ocispec.Descriptor{want}},
		{name: "of something without", repo: distribution.Repository{Namespace: "ns", Name: "app"}, subject: items[0].desc.Digest},
		{name: "of what is not there", repo: distribution.Repository{Namespace: "ns", Name: "app"}, subject: digest.FromString("x")},
		{name: "in another namespace", repo: distribution.Repository{Namespace: "other", Name: "app"}, subject: root.desc.Digest},
	} {
		got, err := s.Referrers(t.Context(), tt.repo, tt.subject)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	for _, d := range signature {
		if !slices.Equal(readable(t, s, "ns", "app", []item{d}), []bool{true}) {
			t.Errorf("%s was collected though the image refers to it", d.desc.MediaType)
		}
	}
	if slices.Equal(readable(t, s, "ns", "app", []item{dangling[1]}), []bool{true}) {
		t.Error("what refers to nothing that is there was not collected")
	}
	if !complete(t, app, root) {
		t.Error("the image is incomplete")
	}
}

// TestListOfReferrersIsBounded: whatever referrers hold, the list of them is there, and not as large as they are together.
func TestListOfReferrersIsBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	app := s.Repository("ns", "app")
	config := layer("{}")
	root := image(t, config)
	push(t, app, config, root)
	refer := func(fields string) item {
		referrer := newItem(ocispec.MediaTypeImageManifest, digest.SHA256,
			fmt.Appendf(nil, `{"schemaVersion":2,%s,"config":{"mediaType":"a/b","digest":%q,"size":2},"subject":{"digest":%q}}`,
				fields, config.desc.Digest, root.desc.Digest))
		push(t, app, referrer)
		return referrer
	}
	long := strings.Repeat("x", maxReferrerAnnotations/3)
	want := map[digest.Digest]ocispec.Descriptor{}
	for fields, artifactType := range map[string]string{
		`"annotations":{"n":5}`: "a/b", `"annotations":["x"]`: "a/b", `"artifactType":5`: "a/b", fmt.Sprintf(`"artifactType":%q`, long): "",
	} {
		d := refer(fields).desc
		d.ArtifactType = artifactType
		want[d.Digest] = d
	}
	for n := range 5 {
		refer(fmt.Sprintf(`"annotations":{"n":"%d%s"}`, n, long))
	}
	commit(t, app, root, "latest")

	got, err := s.Referrers(t.Context(), distribution.Repository{Namespace: "ns", Name: "app"}, root.desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	annotated := 0
	for _, d := range got {
		if d.Annotations != nil {
			annotated++
		}
		if want, ok := want[d.Digest]; ok {
			if diff := cmp.Diff(want, d); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
	if len(got) != len(want)+5 || annotated != 2 {
		t.Errorf("got %d referrers, %d with annotations; want %d, 2 with them", len(got), annotated, len(want)+5)
	}
}

// TestReferrerCutOff: a referrer that is there is in the list, wherever its push is cut off.
func TestReferrerCutOff(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	app := s.Repository("ns", "app")
	config := layer("{}")
	root := image(t, config)
	referrer := marshal(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config.desc, Subject: &root.desc,
	})
	push(t, app, config, root)
	commit(t, app, root, "latest")
	listed := func() int {
		t.Helper()
		found, err := s.Referrers(t.Context(), distribution.Repository{Namespace: "ns", Name: "app"}, root.desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}

	s.space.reserve = 1 << 60
	if err := app.Push(t.Context(), referrer.desc, bytes.NewReader(referrer.data)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Push: %v, want no space", err)
	}
	collect(t, s)
	if n := listed(); n != 0 || !complete(t, app, root) {
		t.Errorf("%d referrers are listed, of which none is there; the image is complete: %t", n, complete(t, app, root))
	}
	// What is cut off after the content was written leaves just that.
	s.space.reserve = 0
	inside, err := s.namespaced(t.Context(), app.name)
	if err != nil {
		t.Fatal(err)
	}
	labels, err := manifestLabels(referrer.desc, referrer.data)
	if err != nil {
		t.Fatal(err)
	}
	labels[repositoryLabel("app")] = "true"
	if err := s.write(inside, referrer.desc, bytes.NewReader(referrer.data), labels); err != nil {
		t.Fatal(err)
	}
	if n := listed(); n != 1 {
		t.Errorf("%d referrers are listed, want the one that is there", n)
	}
}

// TestReserve: what would leave less space on the disk than the reserve is refused, before and while it is written.
func TestReserve(t *testing.T) {
	t.Parallel()
	s, err := OpenStore(t.Context(), StoreConfig{Dir: t.TempDir(), Reserve: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := layer("content")
	if err := s.Repository("ns", "app").Push(t.Context(), l.desc, bytes.NewReader(l.data)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Push: %v, want no space", err)
	}
	bounded, done := s.bounded(t.Context(), zeros{})
	defer done()
	if _, err := bounded.Read(make([]byte, 1)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("reading: %v, want no space", err)
	}
}

// TestReserveOfMany: those who write at once do not use up together what each of them found free.
func TestReserveOfMany(t *testing.T) {
	t.Parallel()
	const free, reserve, writers = 100 * claimSize, 90 * claimSize, 40
	s := openStore(t, t.TempDir())
	s.space = space{reserve: reserve, free: func(string) (int64, error) { return free, nil }}
	var ends []func()
	for i := range writers {
		bounded, done := s.bounded(t.Context(), zeros{})
		ends = append(ends, done)
		_, err := bounded.Read(make([]byte, 1))
		if room := i < (free-reserve)/claimSize; room != (err == nil) || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("writer %d: %v, with room for it: %t", i, err, room)
		}
	}
	for _, done := range ends {
		done()
	}
	if s.space.claimed != 0 {
		t.Errorf("%d bytes are claimed by nobody", s.space.claimed)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestUntag(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "untagged")
	repo := s.Repository("ns", "app")
	push(t, repo, items...)
	commit(t, repo, root, "kept", "gone")
	named := func(leftOut ...string) int {
		t.Helper()
		found, err := repo.Tagged(t.Context(), []digest.Digest{root.desc.Digest, digest.FromString("other")}, func(tag string) bool { return slices.Contains(leftOut, tag) })
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if none, one := named("kept", "gone"), named("kept"); none != 0 || one != 1 {
		t.Errorf("named are %d, with tags left out %d, want 1 and 0", one, none)
	}
	if err := repo.Untag(t.Context(), "gone", "absent"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Tags(t.Context(), distribution.Repository{Namespace: "ns", Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kept"}, got); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// TestNamespaceMadeAgain: a namespace of the same name and another UID has nothing of the one before.
func TestNamespaceMadeAgain(t *testing.T) {
	t.Parallel()
	uid := "6f1c2d3e-0000-4000-8000-000000000001"
	s, err := OpenStore(t.Context(), StoreConfig{Dir: t.TempDir(), NamespaceUID: func(_ context.Context, namespace string) (string, error) {
		if namespace != "ns" {
			return "", fmt.Errorf("namespace %s: %w", namespace, distribution.ErrNameUnknown)
		}
		return uid, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	all, root := sample(t, "again")
	repo := s.Repository("ns", "app")
	push(t, repo, all...)
	commit(t, repo, root, "latest")
	name := distribution.Repository{Namespace: "ns", Name: "app"}
	if _, err := s.Resolve(t.Context(), name, "latest"); err != nil {
		t.Fatal(err)
	}
	uid = "6f1c2d3e-0000-4000-8000-000000000002"
	if _, err := s.Resolve(t.Context(), name, "latest"); !errors.Is(err, distribution.ErrNameUnknown) {
		t.Errorf("resolved in the namespace that was made again: %v", err)
	}
	if complete, err := s.Repository("ns", "app").Complete(t.Context(), root.desc.Digest); complete || err != nil {
		t.Errorf("complete in the namespace that was made again: %t, %v", complete, err)
	}
	if _, err := s.Resolve(t.Context(), distribution.Repository{Namespace: "none", Name: "app"}, "latest"); !errors.Is(err, distribution.ErrNameUnknown) {
		t.Errorf("resolved in a namespace that is not there: %v", err)
	}
}
