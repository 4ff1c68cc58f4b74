// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"tagger.dev/tagger/pkg/distribution"
)

var other = distribution.Repository{Namespace: "ns", Name: "other"}

func putManifest(t *testing.T, s *Store, repo distribution.Repository, i item, tags ...string) {
	t.Helper()
	if err := s.PutManifest(t.Context(), repo, i.desc, i.data, tags); err != nil {
		t.Fatal(err)
	}
}

// pushAll pushes items, children first, as a client of the endpoint does.
func pushAll(t *testing.T, s *Store, repo distribution.Repository, items []item, tags ...string) {
	t.Helper()
	for n, i := range items {
		switch {
		case !isManifest(i.desc.MediaType):
			pushBlob(t, s, repo, i)
		case n < len(items)-1:
			putManifest(t, s, repo, i)
		default:
			putManifest(t, s, repo, i, tags...)
		}
	}
}

// referring is an artifact that refers to a subject.
func referring(t *testing.T, name string, subject ocispec.Descriptor) (config, manifest item) {
	t.Helper()
	config = layer(name)
	return config, marshal(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config.desc, Subject: &subject,
	})
}

// referrersOf returns what refers to a subject.
func referrersOf(t *testing.T, s *Store, repo distribution.Repository, subject digest.Digest) []digest.Digest {
	t.Helper()
	found, err := s.Referrers(t.Context(), repo, subject)
	if err != nil {
		t.Fatal(err)
	}
	var digests []digest.Digest
	for _, d := range found {
		digests = append(digests, d.Digest)
	}
	return digests
}

func TestPutManifestNeeds(t *testing.T) {
	t.Parallel()
	items, root := sample(t, "needs")
	foreign := newItem("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digest.SHA256, []byte("not sent"))
	raw := func(mediaType, data string) item { return newItem(mediaType, digest.SHA256, []byte(data)) }
	const oci, list = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	tests := []struct {
		name string
		push []item
		put  item
		want error
	}{
		{name: "everything is there", push: items[:len(items)-1], put: root},
		{name: "an empty index", put: index(t)},
		{name: "an image without a config", push: items[:1], put: raw(oci, `{"layers":[{"digest":"`+items[0].desc.Digest.String()+`"}]}`)},
		{name: "a layer that is not for distribution", push: items[:2], put: image(t, items[1], items[0], foreign)},
		{name: "a layer is missing", push: items[1:2], put: image(t, items[1], items[0]), want: distribution.ErrManifestBlobUnknown},
		{name: "the config is missing", push: items[:1], put: image(t, items[1], items[0]), want: distribution.ErrManifestBlobUnknown},
		{name: "an image is missing", push: items[:len(items)-2], put: root, want: distribution.ErrManifestBlobUnknown},
		{name: "an image is there as a blob", push: append(slices.Clone(items[:2]), raw("", string(image(t, items[1]).data))), put: index(t, image(t, items[1])), want: distribution.ErrManifestBlobUnknown},
		{name: "an index as an image", push: items[:len(items)-1], put: raw(oci, string(root.data)), want: distribution.ErrManifestInvalid},
		{name: "an image as an index", push: items[:2], put: raw(list, string(image(t, items[1], items[0]).data)), want: distribution.ErrManifestInvalid},
		{name: "schema 1", put: raw(oci, `{"fsLayers":[]}`), want: distribution.ErrManifestInvalid},
		{name: "a layer by what is no digest", put: raw(oci, `{"layers":[{"digest":"../x"}]}`), want: distribution.ErrManifestInvalid},
		{name: "layers that are no list", put: raw(oci, `{"layers":{"digest":"x"}}`), want: distribution.ErrManifestInvalid},
		{name: "layers that are numbers", put: raw(oci, `{"layers":[1]}`), want: distribution.ErrManifestInvalid},
		{name: "as many layers as may be", put: raw(oci, `{"layers":[{}`+strings.Repeat(",{}", maxManifestParts-1)+`]}`)},
		{name: "a layer more", put: raw(oci, `{"layers":[{}`+strings.Repeat(",{}", maxManifestParts)+`]}`), want: distribution.ErrManifestInvalid},
		{name: "layers to the last byte", put: raw(oci, `{"layers":[{}`+strings.Repeat(",{}", 4<<20/3)+`]}`), want: distribution.ErrManifestInvalid},
		{name: "images to the last byte", put: raw(list, `{"manifests":[{}`+strings.Repeat(",{}", 4<<20/3)+`]}`), want: distribution.ErrManifestInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			pushAll(t, s, app, tt.push)
			pushAll(t, s, other, items) // that another repository has it makes no difference
			err := s.PutManifest(t.Context(), app, tt.put.desc, tt.put.data, []string{"v1", "v2"})
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			tags, err := s.Tags(t.Context(), app)
			if tt.want != nil {
				if !errors.Is(err, distribution.ErrNameUnknown) || read(t, s, "ns", "app", tt.put) != "" {
					t.Errorf("tags: %v, %v; and the manifest is not to be there", tags, err)
				}
				return
			}
			if diff := cmp.Diff([]string{"v1", "v2"}, tags); diff != "" || err != nil {
				t.Errorf("tags: %v (-want +got):\n%s", err, diff)
			}
			if got := read(t, s, "ns", "app", tt.put); got != string(tt.put.data) {
				t.Errorf("got %d bytes, want %d", len(got), len(tt.put.data))
			}
		})
	}
}

// TestPushesAreKept: what was pushed outlives collections until its manifest is there, then as long as that, and no longer.
func TestPushesAreKept(t *testing.T) {
	t.Parallel()
	expired := -2 * pushLeaseInterval
	tests := []struct {
		name string
		keep time.Duration // after a collection it is over; 0 for a day
		tags []string
		want bool
	}{
		{name: "tagged", tags: []string{"v1"}, want: true},
		{name: "by digest", want: true},
		{name: "tagged, long ago", keep: expired, tags: []string{"v1"}, want: true},
		{name: "by digest, long ago", keep: expired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			items, _ := sample(t, "kept")
			for n, i := range items {
				if n == len(items)-1 && tt.keep != 0 {
					s.pushDuration = tt.keep
				}
				pushAll(t, s, app, []item{i}, tt.tags...)
				if n < len(items)-1 {
					collect(t, s)
				}
			}
			if tt.keep != 0 { // as if all leases had been made then
				expireLeases(t, s)
			}
			collect(t, s)
			if diff := cmp.Diff(all(len(items), tt.want), readable(t, s, "ns", "app", items)); diff != "" {
				t.Errorf("readable (-want +got):\n%s", diff)
			}
			if got := len(blobs(t, s)); (got > 0) != tt.want {
				t.Errorf("%d files, want some: %v", got, tt.want)
			}
		})
	}
}

// TestPushesAtOnce pushes the same image to several repositories several times at once, and collects meanwhile.
func TestPushesAtOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "at once")
	repos := []distribution.Repository{app, other, {Namespace: "b", Name: "app"}}
	var group errgroup.Group
	for _, repo := range repos {
		for n := range 3 {
			group.Go(func() error {
				for _, i := range items {
					if isManifest(i.desc.MediaType) {
						var tags []string
						if i.desc.Digest == root.desc.Digest {
							tags = []string{"latest", fmt.Sprintf("v%d", n)}
						}
						if err := s.PutManifest(t.Context(), repo, i.desc, i.data, tags); err != nil {
							return err
						}
						continue
					}
					u, err := s.StartUpload(t.Context(), repo, digest.SHA256)
					if err != nil {
						return err
					}
					err = u.Commit(t.Context(), strings.NewReader(string(i.data)), -1, i.desc.Digest)
					if err := errors.Join(err, u.Close()); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	for range 10 {
		collect(t, s)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	collect(t, s)
	for _, repo := range repos {
		if diff := cmp.Diff(all(len(items), true), readable(t, s, repo.Namespace, repo.Name, items)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", repo, diff)
		}
		tags, err := s.Tags(t.Context(), repo)
		if diff := cmp.Diff([]string{"latest", "v0", "v1", "v2"}, tags); diff != "" || err != nil {
			t.Errorf("tags of %s: %v (-want +got):\n%s", repo, err, diff)
		}
	}
}

func TestMountIntoRepository(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	blob := layer("content")
	pushBlob(t, s, app, blob)
	foreign := distribution.Repository{Namespace: "other", Name: "app"}
	for _, tt := range []struct {
		name     string
		to, from distribution.Repository
		dgst     digest.Digest
		want     error
	}{
		{name: "of the same namespace", to: other, from: app, dgst: blob.desc.Digest},
		{name: "from itself", to: app, from: app, dgst: blob.desc.Digest},
		{name: "from a repository that does not hold it", to: app, from: distribution.Repository{Namespace: "ns", Name: "third"}, dgst: blob.desc.Digest, want: distribution.ErrBlobUnknown},
		{name: "of another namespace", to: foreign, from: app, dgst: blob.desc.Digest, want: distribution.ErrBlobUnknown},
		{name: "absent", to: other, from: app, dgst: digest.FromString("x"), want: distribution.ErrBlobUnknown},
	} {
		if err := s.Mount(t.Context(), tt.to, tt.from, tt.dgst); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if got := read(t, s, "ns", "other", blob); got != string(blob.data) {
		t.Errorf("mounted: got %q", got)
	}
	if got := read(t, s, "other", "app", blob); got != "" {
		t.Errorf("in another namespace: got %q", got)
	}
}

// TestReferrersBeforeTheirSubject: they are found from the beginning, and held by the subject once that is there.
func TestReferrersBeforeTheirSubject(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	items, root := sample(t, "subject")
	config, signature := referring(t, "signature", root.desc)
	pushBlob(t, s, app, config)
	putManifest(t, s, app, signature)
	collect(t, s)
	want := []digest.Digest{signature.desc.Digest}
	if diff := cmp.Diff(want, referrersOf(t, s, app, root.desc.Digest)); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	pushAll(t, s, app, items, "v1")
	expireLeases(t, s)
	collect(t, s)
	if diff := cmp.Diff(want, referrersOf(t, s, app, root.desc.Digest)); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(all(2, true), readable(t, s, "ns", "app", []item{config, signature})); diff != "" {
		t.Errorf("readable (-want +got):\n%s", diff)
	}
	if got := referrersOf(t, s, other, root.desc.Digest); len(got) > 0 {
		t.Errorf("in another repository: %v", got)
	}
}

// TestTooManyReferrers: all of them are read for each list, so that they are bounded by their number and by their bytes, whether
// their subject is there or not.
func TestTooManyReferrers(t *testing.T) {
	t.Parallel()
	root := index(t)
	sized := func(n, size int) item {
		raw := fmt.Sprintf(`{"n":%d,"subject":{"digest":%q},"annotations":{"x":"`, n, root.desc.Digest)
		return newItem(ocispec.MediaTypeImageIndex, digest.SHA256, []byte(raw+strings.Repeat("x", size-len(raw)-3)+`"}}`))
	}
	const large = 8 << 20
	for _, tt := range []struct {
		name   string
		there  bool // the subject
		labels int  // how many referrers it has already, of which nothing else is there
		first  []item
		last   item
		want   string // of the error of the last
	}{
		{name: "as large as may be", there: true, first: []item{sized(0, large), sized(1, large), sized(2, large)}, last: sized(3, large)},
		{name: "a byte more", there: true, first: []item{sized(0, large), sized(1, large), sized(2, large)}, last: sized(3, large+1), want: "32Mi"},
		{name: "a byte more without their subject", first: []item{sized(0, 4*large)}, last: sized(1, 100+len(root.desc.Digest)), want: "32Mi"},
		{name: "one that is there already", there: true, first: []item{sized(0, 4*large)}, last: sized(0, 4*large)},
		{name: "as many as may be", there: true, labels: maxReferrers - 1, last: sized(0, 200)},
		{name: "too many", there: true, labels: maxReferrers, last: sized(0, 200), want: "10000 manifests"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			if tt.there {
				putManifest(t, s, app, root)
				labels := map[string]string{}
				for n := range tt.labels {
					d := digest.FromString(fmt.Sprint(n)).String()
					labels[referrerLabelPrefix+d] = d
				}
				if err := s.label(namespaces.WithNamespace(t.Context(), "ns"), root.desc.Digest, labels); err != nil {
					t.Fatal(err)
				}
			}
			for _, i := range tt.first {
				putManifest(t, s, app, i)
			}
			switch err := s.PutManifest(t.Context(), app, tt.last.desc, tt.last.data, nil); {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want it taken", err)
			case tt.want != "" && (!errors.Is(err, distribution.ErrManifestInvalid) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %v that says %s", err, distribution.ErrManifestInvalid, tt.want)
			}
		})
	}
}
