// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	applyv1beta1 "tagger.dev/tagger/pkg/generated/applyconfiguration/tagger/v1beta1"
	typed "tagger.dev/tagger/pkg/generated/clientset/versioned/typed/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// everything returns all objects of a namespace as they are stored.
func (s *server) everything(t *testing.T, namespace string) []any {
	t.Helper()
	images, err := s.api.TaggerV1beta1().Images(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	imports, err := s.api.TaggerV1beta1().ImageImports(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return []any{images.Items, imports.Items}
}

// settledImport imports an Image and waits until nothing writes any more: the Image keeps the import's UID for a moment.
func (s *server) settledImport(t *testing.T, namespace, name string, spec v1beta1.ImageImportSpec) {
	t.Helper()
	s.mustImport(t, namespace, name, spec, v1beta1.ReasonImported)
	eventually(t, "nothing is left to be recorded", func(context.Context) (bool, error) {
		return len(s.image(t, namespace, name).Status.RecordedImports) == 0, nil
	})
}

// TestDryRunOfEveryVerb does everything that can be done, without effect: the answer shows what would be, nothing is stored and
// no network is reached.
func TestDryRunOfEveryVerb(t *testing.T) {
	t.Parallel()
	all := []string{metav1.DryRunAll}
	patch := func(kind types.PatchType, body string, subresources ...string) func(context.Context, typed.ImageInterface) (*v1beta1.Image, error) {
		return func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			return images.Patch(ctx, "app", kind, []byte(body), metav1.PatchOptions{DryRun: all}, subresources...)
		}
	}
	change := func(ctx context.Context, images typed.ImageInterface, do func(*v1beta1.Image)) *v1beta1.Image {
		image, err := images.Get(ctx, "app", metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return nil
		}
		do(image)
		return image
	}
	suspended := func(image *v1beta1.Image) bool { return image.Spec.Suspend }
	emptied := func(image *v1beta1.Image) bool { return len(image.Status.HashReferences) == 0 && image.Spec.From != "" }
	tests := []struct {
		name string
		call func(context.Context, typed.ImageInterface) (*v1beta1.Image, error)
		// shows says whether the answer shows what would be; nil where there is none.
		shows func(*v1beta1.Image) bool
	}{
		{"create", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			image := &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: v1beta1.ImageSpec{From: "a"}}
			return images.Create(ctx, image, metav1.CreateOptions{DryRun: all})
		}, func(image *v1beta1.Image) bool {
			return image.UID != "" && *image.Spec.HistoryLimit == v1beta1.DefaultHistoryLimit
		}},
		{"update", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			image := change(ctx, images, func(image *v1beta1.Image) { image.Spec.Suspend = true })
			return images.Update(ctx, image, metav1.UpdateOptions{DryRun: all})
		}, suspended},
		{"update of the status", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			image := change(ctx, images, func(image *v1beta1.Image) { image.Status.HashReferences = nil })
			return images.UpdateStatus(ctx, image, metav1.UpdateOptions{DryRun: all})
		}, emptied},
		{"merge patch", patch(types.MergePatchType, `{"spec":{"suspend":true}}`), suspended},
		{"JSON patch", patch(types.JSONPatchType, `[{"op":"add","path":"/spec/suspend","value":true}]`), suspended},
		{"strategic merge patch", patch(types.StrategicMergePatchType, `{"spec":{"suspend":true}}`), suspended},
		{"merge patch of the status", patch(types.MergePatchType, `{"status":{"hashReferences":null}}`, "status"), emptied},
		{"apply", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			config := applyv1beta1.Image("app", "").WithSpec(applyv1beta1.ImageSpec().WithSuspend(true))
			return images.Apply(ctx, config, metav1.ApplyOptions{DryRun: all, FieldManager: "a"})
		}, suspended},
		{"apply that creates", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			config := applyv1beta1.Image("other", "").WithSpec(applyv1beta1.ImageSpec().WithSuspend(true))
			return images.Apply(ctx, config, metav1.ApplyOptions{DryRun: all, FieldManager: "a"})
		}, suspended},
		{"apply of the status", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			config := applyv1beta1.Image("app", "").WithStatus(applyv1beta1.ImageStatus().WithConditions(conditionConfig("A", "New")))
			return images.ApplyStatus(ctx, config, metav1.ApplyOptions{DryRun: all, FieldManager: "a"})
		}, func(image *v1beta1.Image) bool { return conditionTypes(image) == "A Imported" }},
		{"delete", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			return nil, images.Delete(ctx, "app", metav1.DeleteOptions{DryRun: all})
		}, nil},
		{"deletecollection", func(ctx context.Context, images typed.ImageInterface) (*v1beta1.Image, error) {
			return nil, images.DeleteCollection(ctx, metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{})
		}, nil},
	}
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	s.settledImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)})
	out.Requests()
	before := s.everything(t, namespace)
	t.Cleanup(func() {
		if asked := out.Requests(); len(asked) != 0 {
			t.Errorf("the source was asked for %v", asked)
		}
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer, err := tt.call(t.Context(), s.api.TaggerV1beta1().Images(namespace))
			if err != nil {
				t.Fatal(err)
			}
			if tt.shows != nil && !tt.shows(answer) {
				t.Errorf("the answer does not show what would be: %+v", answer)
			}
			if diff := cmp.Diff(before, s.everything(t, namespace)); diff != "" {
				t.Errorf("stored (-before +after):\n%s", diff)
			}
		})
	}
}
