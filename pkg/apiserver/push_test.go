// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/queue"
)

// steps are what a backend, a pusher and a history were asked, in order.
type steps struct {
	distribution.Backend
	done                                      []string
	put, tag, prepare, record, deleted, leave error // what fails
	has                                       bool  // the history has what is deleted
}

func (s *steps) PutManifest(_ context.Context, repo distribution.Repository, _ ocispec.Descriptor, _ []byte, tags []string) error {
	s.done = append(s.done, fmt.Sprintf("put %s %v", repo, tags))
	if len(tags) > 0 {
		return s.tag
	}
	return s.put
}

func (s *steps) DeleteManifest(context.Context, distribution.Repository, digest.Digest) error {
	s.done = append(s.done, "delete the manifest")
	return s.deleted
}

func (s *steps) DeleteTag(_ context.Context, _ distribution.Repository, tag string) error {
	s.done = append(s.done, "delete the tag "+tag)
	return nil
}

func (s *steps) Prepare(ctx context.Context, name string) (*tagger.Image, func(context.Context), error) {
	s.done = append(s.done, "prepare "+request.NamespaceValue(ctx)+"/"+name)
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	return &tagger.Image{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}, func(context.Context) { s.done = append(s.done, "undo") }, s.prepare
}

func (s *steps) RecordPush(ctx context.Context, image *v1beta1.Image, pushed queue.Pushed, tag func(context.Context) error) error {
	if err := tag(ctx); err != nil {
		return err
	}
	s.done = append(s.done, fmt.Sprintf("record %s/%s %s %v %d", image.Namespace, image.Name, pushed.From, pushed.Platforms, pushed.Size))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.record
}

func (s *steps) RecordDeletion(_ context.Context, namespace, name string, _ digest.Digest, _ time.Time) (*v1beta1.Image, error) {
	s.done = append(s.done, "forget "+namespace+"/"+name)
	if !s.has {
		return nil, s.leave
	}
	return &v1beta1.Image{}, s.leave
}

var (
	app      = distribution.Repository{Namespace: "ns", Name: "app"}
	hexOfOne = digest.FromString("1").Encoded()
	index    = []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest +
		`","digest":"sha256:` + hexOfOne + `","size":1,"platform":{"os":"linux","architecture":"arm64"}}]}`)
	referring = []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[],"subject":{"mediaType":"` + ocispec.MediaTypeImageManifest +
		`","digest":"sha256:` + hexOfOne + `","size":1}}`)
)

// TestPushMeaning pushes manifests under tags that mean something, or do not.
func TestPushMeaning(t *testing.T) {
	t.Parallel()
	anchor := queue.Anchor(digest.FromBytes(index))
	record := func(tag string) string { return "record ns/app tagger.example/ns/app:" + tag + " [linux/arm64] 0" }
	forbidden := apierrors.NewForbidden(tagger.Resource("images"), "app", errors.New("the push creates its Image"))
	down := errors.New("etcd is down")
	policy := apierrors.NewInvalid(tagger.Kind("Image"), "app", field.ErrorList{field.Forbidden(nil, "a policy says no")})
	webhook := apierrors.NewBadRequest("a webhook says no")
	conflict := apierrors.NewConflict(tagger.Resource("images"), "app", errors.New("the Image was deleted meanwhile"))
	unavailable := apierrors.NewServiceUnavailable("the push was recorded, but latest could not follow")
	tests := []struct {
		name     string
		repo     distribution.Repository // app when zero
		manifest []byte                  // index when nil
		tags     []string
		fails    steps
		gone     bool // the client, as soon as it has sent all
		want     []string
		err      error
	}{
		{name: "a tag", tags: []string{"v1"}, want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", record("v1")}},
		{name: "latest follows", tags: []string{"latest"}, want: []string{"put ns/app []", "prepare ns/app", "put ns/app [" + anchor + "]", record("latest")}},
		{name: "by digest it means nothing", want: []string{"put ns/app []"}},
		{name: "what refers to another", manifest: referring, tags: []string{"v1"}, want: []string{"put ns/app [v1]"}},
		{name: "a tag of referrers", tags: []string{"sha256-" + hexOfOne}, want: []string{"put ns/app [sha256-" + hexOfOne + "]"}},
		{
			name: "what refers to another, as what the Image means", manifest: referring, tags: []string{"latest"},
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [" + queue.Anchor(digest.FromBytes(referring)) + "]", "record ns/app tagger.example/ns/app:latest [] 0"},
		},
		{name: "a tag of cosign", tags: []string{"sha256-" + hexOfOne + ".sig"}, want: []string{"put ns/app [sha256-" + hexOfOne + ".sig]"}},
		{
			name: "several tags", tags: []string{"v1", "latest"},
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", record("v1")},
		},
		{name: "no Image can be called so", repo: distribution.Repository{Namespace: "ns", Name: "my_app"}, tags: []string{"v1"}, err: distribution.ErrNameInvalid},
		{
			name: "the manifest is refused", tags: []string{"v1"}, fails: steps{put: distribution.ErrManifestBlobUnknown},
			want: []string{"put ns/app []"}, err: distribution.ErrManifestBlobUnknown,
		},
		{
			name: "the Image may not be created", tags: []string{"v1"}, fails: steps{prepare: forbidden},
			want: []string{"put ns/app []", "prepare ns/app"}, err: distribution.ErrForbidden,
		},
		{
			name: "a policy forbids it", tags: []string{"v1"}, fails: steps{prepare: policy},
			want: []string{"put ns/app []", "prepare ns/app"}, err: distribution.ErrForbidden,
		},
		{
			name: "a webhook forbids it", tags: []string{"v1"}, fails: steps{prepare: webhook},
			want: []string{"put ns/app []", "prepare ns/app"}, err: distribution.ErrForbidden,
		},
		{
			name: "it cannot be tagged", tags: []string{"v1"}, fails: steps{tag: down},
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", "undo"}, err: down,
		},
		{
			name: "it is not recorded", tags: []string{"v1"}, fails: steps{record: conflict},
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", record("v1"), "undo"}, err: distribution.ErrConflict,
		},
		{
			name: "it may be recorded", tags: []string{"v1"}, fails: steps{record: down},
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", record("v1")}, err: down,
		},
		{
			name: "it is recorded, without latest", tags: []string{"v1"}, fails: steps{record: unavailable},
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", record("v1")}, err: distribution.ErrUnavailable,
		},
		{
			name: "the client leaves", tags: []string{"v1"}, gone: true,
			want: []string{"put ns/app []", "prepare ns/app", "put ns/app [v1 " + anchor + "]", record("v1")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.repo == (distribution.Repository{}) {
				tt.repo = app
			}
			if tt.manifest == nil {
				tt.manifest = index
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.gone {
				cancel()
			}
			backend := &imageBackend{Backend: &tt.fails, pushes: &tt.fails, history: &tt.fails, host: "tagger.example"}
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(tt.manifest), Size: int64(len(tt.manifest))}
			err := backend.PutManifest(ctx, tt.repo, desc, tt.manifest, tt.tags)
			if !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, tt.fails.done); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeletionMeaning deletes what a history has, or has not.
func TestDeletionMeaning(t *testing.T) {
	t.Parallel()
	dgst := digest.FromBytes(index)
	tests := []struct {
		name  string
		do    func(*imageBackend) error
		fails steps
		want  []string
		told  bool
		err   error
	}{
		{
			name: "a manifest of the history", do: func(b *imageBackend) error { return b.DeleteManifest(t.Context(), app, dgst) }, fails: steps{has: true},
			want: []string{"delete the manifest", "forget ns/app"}, told: true,
		},
		{
			name: "another manifest", do: func(b *imageBackend) error { return b.DeleteManifest(t.Context(), app, dgst) },
			want: []string{"delete the manifest", "forget ns/app"},
		},
		{
			name: "an earlier deletion was cut short", do: func(b *imageBackend) error { return b.DeleteManifest(t.Context(), app, dgst) },
			fails: steps{has: true, deleted: distribution.ErrManifestUnknown},
			want:  []string{"delete the manifest", "forget ns/app"}, told: true, err: distribution.ErrManifestUnknown,
		},
		{
			name: "latest cannot follow", do: func(b *imageBackend) error { return b.DeleteManifest(t.Context(), app, dgst) },
			fails: steps{has: true, leave: apierrors.NewServiceUnavailable("it was deleted, but latest could not follow")},
			want:  []string{"delete the manifest", "forget ns/app"}, told: true, err: distribution.ErrUnavailable,
		},
		{
			name: "an index names it", do: func(b *imageBackend) error { return b.DeleteManifest(t.Context(), app, dgst) },
			fails: steps{has: true, deleted: distribution.ErrInUse}, want: []string{"delete the manifest"}, err: distribution.ErrInUse,
		},
		{name: "a tag", do: func(b *imageBackend) error { return b.DeleteTag(t.Context(), app, "v1") }, want: []string{"delete the tag v1"}},
		{name: "latest", do: func(b *imageBackend) error { return b.DeleteTag(t.Context(), app, "latest") }, err: distribution.ErrReserved},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var told []digest.Digest
			backend := &imageBackend{Backend: &tt.fails, pushes: &tt.fails, history: &tt.fails, deleted: func(_ context.Context, _ *v1beta1.Image, dgst digest.Digest) {
				told = append(told, dgst)
			}}
			if err := tt.do(backend); !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, tt.fails.done); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.told != slices.Contains(told, dgst) {
				t.Errorf("told of %v, want %v", told, tt.told)
			}
		})
	}
}
