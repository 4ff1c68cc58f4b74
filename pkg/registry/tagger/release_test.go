// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func validRelease() *tagger.MirrorRelease {
	return &tagger.MirrorRelease{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0"},
		Spec: tagger.MirrorReleaseSpec{
			Namespace: namespace, Image: "myapp", ImageReferences: []string{"mirror.example/ns/myapp@sha256:" + strings.Repeat("0f", 32)},
			DueTime: metav1.NewTime(time.Unix(0, 0)),
		},
	}
}

// TestMirrorReleases is what every resource of Kubernetes does that is in no namespace.
func TestMirrorReleases(t *testing.T) {
	t.Parallel()
	t.Run("create", func(t *testing.T) {
		t.Parallel()
		valid := validRelease()
		valid.ObjectMeta = metav1.ObjectMeta{GenerateName: "myapp-"}
		malformed := valid.DeepCopy()
		malformed.Spec.ImageReferences = nil
		newTester(t, newStores(t, setup{}).releases.Store).ClusterScope().TestCreate(valid, malformed)
	})
	t.Run("update", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).releases.Store).ClusterScope().TestUpdate(validRelease(),
			func(obj runtime.Object) runtime.Object {
				obj.(*tagger.MirrorRelease).Spec.DueTime = metav1.NewTime(time.Unix(1, 0))
				return obj
			},
			func(obj runtime.Object) runtime.Object {
				obj.(*tagger.MirrorRelease).Spec.Image = "other"
				return obj
			})
	})
	t.Run("delete", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).releases.Store).ClusterScope().TestDelete(validRelease())
	})
	t.Run("get", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).releases.Store).ClusterScope().TestGet(validRelease())
	})
	t.Run("list", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).releases.Store).ClusterScope().TestList(validRelease())
	})
}

// TestDeletedImageIsReleased deletes Images that mean something, in every way, and says of which the mirror was told before they
// were gone.
func TestDeletedImageIsReleased(t *testing.T) {
	t.Parallel()
	remove := func(s *stores, ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) error {
		_, _, err := s.images.Delete(ctx, name, validate, options)
		return err
	}
	held := func(image *tagger.Image) { image.Finalizers = []string{"example.com/hold"} }
	tests := []struct {
		name   string
		change func(*tagger.Image)
		do     func(s *stores, ctx context.Context) error
		want   []string
		left   int
		reason metav1.StatusReason
	}{
		{
			name: "one", want: []string{"a a@1", "a a@2"}, left: 1,
			do: func(s *stores, ctx context.Context) error {
				return remove(s, ctx, "a", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
			},
		},
		{
			name: "without options", want: []string{"a a@1", "a a@2"}, left: 1,
			do: func(s *stores, ctx context.Context) error {
				return remove(s, ctx, "a", rest.ValidateAllObjectFunc, nil)
			},
		},
		{
			name: "all", want: []string{"a a@1", "a a@2", "b b@1", "b b@2"},
			do: func(s *stores, ctx context.Context) error {
				_, err := s.images.DeleteCollection(ctx, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, &metainternalversion.ListOptions{})
				return err
			},
		},
		{
			name: "marked as deleted", change: held, want: []string{"a a@1", "a a@2"}, left: 2,
			do: func(s *stores, ctx context.Context) error {
				return remove(s, ctx, "a", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
			},
		},
		{
			name: "dry run", left: 2,
			do: func(s *stores, ctx context.Context) error {
				return remove(s, ctx, "a", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
			},
		},
		{
			name: "dry run of all", left: 2,
			do: func(s *stores, ctx context.Context) error {
				_, err := s.images.DeleteCollection(ctx, rest.ValidateAllObjectFunc,
					&metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, &metainternalversion.ListOptions{})
				return err
			},
		},
		{
			name: "refused", left: 2, reason: metav1.StatusReasonForbidden,
			do: func(s *stores, ctx context.Context) error {
				return remove(s, ctx, "a", func(context.Context, runtime.Object) error {
					return apierrors.NewForbidden(tagger.Resource("images"), "a", errors.New("a policy"))
				}, &metav1.DeleteOptions{})
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			for _, name := range []string{"a", "b"} {
				image := validImage()
				image.Name = name
				if tt.change != nil {
					tt.change(image)
				}
				s.createImage(t, image)
				if _, _, err := s.imageStatus.Update(as(t, alice, "update", "images/status", name), name, change(func(image *tagger.Image) {
					image.Status.HashReferences = []tagger.HashReference{{ImageReference: name + "@1"}, {ImageReference: name + "@2"}}
				}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			s.released.asked = func(image *tagger.Image) {
				if s.image(t, image.Name) == nil {
					t.Errorf("%s was gone before the mirror was told of it", image.Name)
				}
			}
			if err := tt.do(s, as(t, alice, "delete", "images", "")); apierrors.ReasonForError(err) != tt.reason || (err == nil) != (tt.reason == "") {
				t.Fatalf("the deletion: %v, want the reason %q", err, tt.reason)
			}
			if diff := cmp.Diff(tt.want, s.released.digests); diff != "" {
				t.Errorf("released (-want +got):\n%s", diff)
			}
			left := 0
			for _, name := range []string{"a", "b"} {
				if s.image(t, name) != nil {
					left++
				}
			}
			if left != tt.left {
				t.Errorf("%d Images are left, want %d", left, tt.left)
			}
		})
	}
}

// TestRequestRelease asks twice for the same, as the deletion of an Image does, in whose namespace the request is.
func TestRequestRelease(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	ctx := as(t, alice, "delete", "images", "myapp")
	first, created, err := s.releases.Request(ctx, validRelease())
	if err != nil || !created || first.UID == "" {
		t.Fatalf("made %v: %v, %v", created, first, err)
	}
	failed := first.DeepCopy()
	failed.Status.Failures = 3
	if _, _, err := s.releaseStatus.Update(request.WithNamespace(ctx, ""), failed.Name, rest.DefaultUpdatedObjectInfo(failed), nil, nil, false,
		&metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	later := validRelease()
	later.Spec.DueTime = metav1.NewTime(time.Unix(60, 0))
	later.Spec.RequestedAt = metav1.NewMicroTime(time.Unix(50, 0))
	second, created, err := s.releases.Request(ctx, later)
	if err != nil || created || second.UID != first.UID {
		t.Fatalf("made again %v: %v, %v", created, second, err)
	}
	if diff := cmp.Diff(later.Spec, second.Spec); diff != "" || second.Status.Failures != 0 || second.ResourceVersion == first.ResourceVersion {
		t.Errorf("asked for again it is %+v (-want +got):\n%s", second, diff)
	}
	malformed := validRelease()
	malformed.Name, malformed.Spec.ImageReferences = "malformed", nil
	if _, _, err := s.releases.Request(ctx, malformed); !apierrors.IsInvalid(err) {
		t.Errorf("one without references: %v, want invalid", err)
	}
}
