// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestPropagationPolicy deletes an Image that owns an ImageImport in every way that clients know. Without a garbage collector
// beside it the server does the same for all of them: no finalizer is left that nobody would remove, and the import goes too.
func TestPropagationPolicy(t *testing.T) {
	t.Parallel()
	policy := func(p metav1.DeletionPropagation) metav1.DeleteOptions {
		return metav1.DeleteOptions{PropagationPolicy: &p}
	}
	tests := []struct {
		name    string
		options metav1.DeleteOptions
	}{
		{"none", metav1.DeleteOptions{}},
		{"background", policy(metav1.DeletePropagationBackground)},
		{"foreground", policy(metav1.DeletePropagationForeground)},
		{"orphan", policy(metav1.DeletePropagationOrphan)},
		{"orphanDependents", metav1.DeleteOptions{OrphanDependents: ptr.To(true)}}, //nolint:staticcheck // clients still may send it
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			for _, name := range []string{"app", "other"} {
				s.settledImport(t, namespace, name, v1beta1.ImageImportSpec{From: out.Reference("app")})
			}
			images := s.api.TaggerV1beta1().Images(namespace)
			if err := images.Delete(t.Context(), "app", tt.options); err != nil {
				t.Fatal(err)
			}
			if _, err := images.Get(t.Context(), "app", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("the Image after it was deleted: %v, want NotFound", err)
			}
			if err := images.DeleteCollection(t.Context(), tt.options, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
			list, err := images.List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 0 {
				t.Errorf("the Images after all were deleted: %v, %v; want none", list.Items, err)
			}
			eventually(t, "the ImageImports are gone", func(ctx context.Context) (bool, error) {
				list, err := s.api.TaggerV1beta1().ImageImports(namespace).List(ctx, metav1.ListOptions{})
				return err == nil && len(list.Items) == 0, err
			})
		})
	}
}

// TestPreconditions deletes and updates only what the client has seen.
func TestPreconditions(t *testing.T) {
	t.Parallel()
	type call func(ctx context.Context, s *server, seen *v1beta1.Image) error
	remove := func(preconditions func(*v1beta1.Image) *metav1.Preconditions) call {
		return func(ctx context.Context, s *server, seen *v1beta1.Image) error {
			return s.api.TaggerV1beta1().Images(seen.Namespace).Delete(ctx, seen.Name, metav1.DeleteOptions{Preconditions: preconditions(seen)})
		}
	}
	update := func(change func(*v1beta1.Image)) call {
		return func(ctx context.Context, s *server, seen *v1beta1.Image) error {
			image := seen.DeepCopy()
			image.Spec.Suspend = true
			change(image)
			_, err := s.api.TaggerV1beta1().Images(seen.Namespace).Update(ctx, image, metav1.UpdateOptions{})
			return err
		}
	}
	another := types.UID("11111111-2222-3333-4444-555555555555")
	tests := []struct {
		name string
		// changed says that somebody else has changed the Image since it was seen.
		changed bool
		call    call
		want    int32
	}{
		{"delete by UID", true, remove(func(seen *v1beta1.Image) *metav1.Preconditions { return &metav1.Preconditions{UID: &seen.UID} }), 0},
		{"delete by another UID", false, remove(func(*v1beta1.Image) *metav1.Preconditions { return &metav1.Preconditions{UID: &another} }), http.StatusConflict},
		{"delete by resourceVersion", false, remove(func(seen *v1beta1.Image) *metav1.Preconditions {
			return &metav1.Preconditions{ResourceVersion: &seen.ResourceVersion}
		}), 0},
		{"delete by a resourceVersion that has passed", true, remove(func(seen *v1beta1.Image) *metav1.Preconditions {
			return &metav1.Preconditions{ResourceVersion: &seen.ResourceVersion}
		}), http.StatusConflict},
		{"update", false, update(func(*v1beta1.Image) {}), 0},
		{"update of a resourceVersion that has passed", true, update(func(*v1beta1.Image) {}), http.StatusConflict},
		{"update without a resourceVersion", true, update(func(image *v1beta1.Image) { image.ResourceVersion = "" }), 0},
		{"update of another object of the name", false, update(func(image *v1beta1.Image) { image.UID = another }), http.StatusConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			seen := s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: "quay.io/company/app"})
			if tt.changed {
				if _, err := s.api.TaggerV1beta1().Images(namespace).Patch(t.Context(), "app", types.MergePatchType,
					[]byte(`{"metadata":{"labels":{"changed":"true"}}}`), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			err := tt.call(t.Context(), s, seen)
			if diff := cmp.Diff(tt.want, statusOf(err)); diff != "" {
				t.Errorf("status of %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestDeleteCollection deletes what selectors select, and nothing of another namespace.
func TestDeleteCollection(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		options metav1.ListOptions
		want    []string // what is left
	}{
		{"all", metav1.ListOptions{}, []string{}},
		{"by label", metav1.ListOptions{LabelSelector: "name in (a,b)"}, []string{"c"}},
		{"by field", metav1.ListOptions{FieldSelector: "spec.from=quay.io/company/c"}, []string{"a", "b"}},
		{"none", metav1.ListOptions{LabelSelector: "name=d"}, []string{"a", "b", "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			_, elsewhere := shared(t)
			for _, ns := range []string{namespace, elsewhere} {
				s.createImages(t, ns, "a", "b", "c")
			}
			if err := s.api.TaggerV1beta1().Images(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, tt.options); err != nil {
				t.Fatal(err)
			}
			for ns, want := range map[string][]string{namespace: tt.want, elsewhere: {"a", "b", "c"}} {
				list, err := s.api.TaggerV1beta1().Images(ns).List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, namesOf(list)); diff != "" {
					t.Errorf("what is left in %s (-want +got):\n%s", ns, diff)
				}
			}
		})
	}
}

// TestMetadataClient lists and deletes as the controllers of namespaces and of garbage do, which ask for protobuf before JSON.
func TestMetadataClient(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: lab.NoSuchName + "/app"})
	images := client.Resource(v1beta1.SchemeGroupVersion.WithResource("images")).Namespace(namespace)
	list, err := images.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "app" {
		t.Errorf("the list is %+v, %v; want one Image", list, err)
	}
	for _, resource := range []string{"images", "imageimports"} {
		if err := client.Resource(v1beta1.SchemeGroupVersion.WithResource(resource)).Namespace(namespace).DeleteCollection(
			t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Errorf("deleting all %s: %v", resource, err)
		}
	}
	if list, err := images.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
		t.Errorf("the list is %+v, %v; want none", list, err)
	}
}

// TestFinalizer keeps a deleted Image until whoever put a finalizer there takes it away.
func TestFinalizer(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	images := s.api.TaggerV1beta1().Images(namespace)
	if _, err := images.Create(t.Context(), &v1beta1.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "app", Finalizers: []string{"example.com/mine"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.deleteImage(t, namespace, "app")
	image := s.image(t, namespace, "app")
	if diff := cmp.Diff([]string{"example.com/mine"}, image.Finalizers); diff != "" || image.DeletionTimestamp == nil {
		t.Errorf("deletionTimestamp %v, finalizers (-want +got):\n%s", image.DeletionTimestamp, diff)
	}
	if _, err := images.Patch(t.Context(), "app", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := images.Get(t.Context(), "app", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without the finalizer: %v, want NotFound", err)
	}
}
