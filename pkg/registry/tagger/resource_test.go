// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	tester "k8s.io/apiserver/pkg/registry/generic/testing"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func validImage() *tagger.Image {
	return &tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace},
		Spec:       tagger.ImageSpec{From: "quay.io/company/myapp:latest", Mirror: true, HistoryLimit: ptr.To[int32](25)},
	}
}

func validImport() *tagger.ImageImport {
	return &tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0", Namespace: namespace},
		Spec: tagger.ImageImportSpec{
			TargetImage: "myapp", From: "quay.io/company/myapp:latest", Mirror: ptr.To(true), Insecure: ptr.To(false),
			TTLSecondsAfterFinished: ptr.To[int32](3600),
		},
	}
}

func newTester(t *testing.T, store *registry.Store) *tester.Tester {
	tester := tester.New(t, store)
	tester.SetUserInfo(&user.DefaultInfo{Name: alice})
	return tester
}

// TestImages is what every resource of Kubernetes does.
func TestImages(t *testing.T) {
	t.Parallel()
	t.Run("create", func(t *testing.T) {
		t.Parallel()
		valid := validImage()
		valid.ObjectMeta = metav1.ObjectMeta{GenerateName: "myapp-"}
		malformed := valid.DeepCopy()
		malformed.Spec.From = "malformed"
		newTester(t, newStores(t, setup{}).images.Store).TestCreate(valid, malformed)
	})
	t.Run("update", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).images.Store).TestUpdate(validImage(),
			func(obj runtime.Object) runtime.Object {
				obj.(*tagger.Image).Spec.Insecure = true
				return obj
			},
			func(obj runtime.Object) runtime.Object {
				obj.(*tagger.Image).Spec.HistoryLimit = ptr.To[int32](0)
				return obj
			})
	})
	t.Run("delete", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).images.Store).TestDelete(validImage())
	})
	t.Run("get", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).images.Store).TestGet(validImage())
	})
	t.Run("list", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).images.Store).TestList(validImage())
	})
	t.Run("names", func(t *testing.T) {
		t.Parallel()
		images := newStores(t, setup{}).images
		if diff := cmp.Diff([]string{"img", "image"}, append(images.ShortNames(), images.GetSingularName())); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	})
}

func TestImageImports(t *testing.T) {
	t.Parallel()
	t.Run("create", func(t *testing.T) {
		t.Parallel()
		valid := validImport()
		valid.ObjectMeta = metav1.ObjectMeta{GenerateName: "myapp-"}
		malformed, noTarget := valid.DeepCopy(), valid.DeepCopy()
		malformed.Spec.From, noTarget.Spec.TargetImage = "malformed", ""
		newTester(t, newStores(t, setup{}).imports.Store).TestCreate(valid, malformed, noTarget)
	})
	t.Run("update", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).imports.Store).TestUpdate(validImport(),
			func(obj runtime.Object) runtime.Object {
				obj.(*tagger.ImageImport).Labels = map[string]string{"team": "a"}
				return obj
			},
			func(obj runtime.Object) runtime.Object {
				obj.(*tagger.ImageImport).Spec.From = "other"
				return obj
			})
	})
	t.Run("delete", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).imports.Store).TestDelete(validImport())
	})
	t.Run("get", func(t *testing.T) {
		t.Parallel()
		store := newStores(t, setup{}).imports.Store
		store.BeginCreate = nil // the test creates what it gets, in requests without a user
		newTester(t, store).TestGet(validImport())
	})
	t.Run("list", func(t *testing.T) {
		t.Parallel()
		newTester(t, newStores(t, setup{}).imports.Store).TestList(validImport())
	})
	t.Run("names", func(t *testing.T) {
		t.Parallel()
		imports := newStores(t, setup{}).imports
		if diff := cmp.Diff([]string{"imgimp", "imageimport"}, append(imports.ShortNames(), imports.GetSingularName())); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	})
}

// TestWatch: a watch by a selector sees what is selected and nothing before it.
func TestWatch(t *testing.T) {
	t.Parallel()
	image := func(name string, change func(*tagger.Image)) *tagger.Image {
		image := validImage()
		image.Name, image.Labels = name, map[string]string{"team": name}
		change(image)
		return image
	}
	imp := func(name string, change func(*tagger.ImageImport)) *tagger.ImageImport {
		imp := validImport()
		imp.Name, imp.Labels = name, map[string]string{"team": name}
		change(imp)
		return imp
	}
	tests := []struct {
		name          string
		label, field  string
		other, wanted runtime.Object
	}{
		{
			name: "images by label", label: "team=wanted",
			other: image("other", func(*tagger.Image) {}), wanted: image("wanted", func(*tagger.Image) {}),
		},
		{
			name: "images by name", field: "metadata.name=wanted",
			other: image("other", func(*tagger.Image) {}), wanted: image("wanted", func(*tagger.Image) {}),
		},
		{
			name: "images by source", field: "spec.from=nginx",
			other: image("other", func(*tagger.Image) {}), wanted: image("wanted", func(i *tagger.Image) { i.Spec.From = "nginx" }),
		},
		{
			name: "images by mirror", field: "spec.mirror=false",
			other: image("other", func(*tagger.Image) {}), wanted: image("wanted", func(i *tagger.Image) { i.Spec.Mirror = false }),
		},
		{
			name: "imports by label", label: "team=wanted",
			other: imp("other", func(*tagger.ImageImport) {}), wanted: imp("wanted", func(*tagger.ImageImport) {}),
		},
		{
			name: "imports by target", field: "spec.targetImage=nginx",
			other:  imp("other", func(*tagger.ImageImport) {}),
			wanted: imp("wanted", func(i *tagger.ImageImport) { i.Spec.TargetImage = "nginx" }),
		},
		{
			name: "imports by mirror, inherited", field: "spec.mirror=false",
			other:  imp("other", func(*tagger.ImageImport) {}),
			wanted: imp("wanted", func(i *tagger.ImageImport) { i.Spec.TargetImage, i.Spec.Mirror = "nginx", nil }),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			store, resource := s.images.Store, "images"
			if _, ok := tt.wanted.(*tagger.ImageImport); ok {
				store, resource = s.imports.Store, "imageimports"
			}
			label, err := labels.Parse(tt.label)
			if err != nil {
				t.Fatal(err)
			}
			field, err := fields.ParseSelector(tt.field)
			if err != nil {
				t.Fatal(err)
			}
			watcher, err := store.Watch(as(t, alice, "watch", resource, ""),
				&metainternalversion.ListOptions{LabelSelector: label, FieldSelector: field})
			if err != nil {
				t.Fatal(err)
			}
			defer watcher.Stop()
			ctx := as(t, alice, "create", resource, "")
			for _, obj := range []runtime.Object{tt.other, tt.wanted} {
				if _, err := store.Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := store.Delete(as(t, alice, "delete", resource, "wanted"), "wanted", rest.ValidateAllObjectFunc, nil); err != nil {
				t.Fatal(err)
			}
			var got []string
			for range 2 {
				select {
				case event := <-watcher.ResultChan():
					got = append(got, fmt.Sprintf("%s %s", event.Type, nameOf(event.Object)))
				case <-time.After(time.Minute):
					t.Fatalf("events so far: %v", got)
				}
			}
			if diff := cmp.Diff([]string{"ADDED wanted", "DELETED wanted"}, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func nameOf(obj runtime.Object) string {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Sprintf("%T: %v", obj, err)
	}
	return accessor.GetName()
}

// change returns an update that changes what is stored.
func change[T runtime.Object](do func(T)) rest.UpdatedObjectInfo {
	return rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		obj := old.DeepCopyObject().(T)
		do(obj)
		return obj, nil
	})
}

// TestStatusApart: the main resource does not write the status, and the status writes nothing else.
func TestStatusApart(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	reference := tagger.HashReference{From: "quay.io/company/myapp:latest", ImageReference: "quay.io/company/myapp@sha256:00"}

	sent := validImage()
	sent.Status.HashReferences = []tagger.HashReference{reference}
	if created := s.createImage(t, sent); len(created.Status.HashReferences) != 0 || created.Generation != 1 {
		t.Errorf("a create wrote the status, or generation %d", created.Generation)
	}
	both := func(image *tagger.Image) {
		image.Status.HashReferences = append(image.Status.HashReferences, reference)
		image.Spec.Insecure = !image.Spec.Insecure
	}
	type outcome struct {
		References int
		Insecure   bool
		Generation int64
	}
	ctx := as(t, alice, "update", "images/status", "myapp")
	obj, _, err := s.imageStatus.Update(ctx, "myapp", change(both), nil, nil, true, &metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := obj.(*tagger.Image)
	want := outcome{References: 1, Generation: 1}
	if diff := cmp.Diff(want, outcome{len(got.Status.HashReferences), got.Spec.Insecure, got.Generation}); diff != "" {
		t.Errorf("update of the status (-want +got):\n%s", diff)
	}
	ctx = as(t, alice, "update", "images", "myapp")
	if obj, _, err = s.images.Update(ctx, "myapp", change(both), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got = obj.(*tagger.Image)
	want = outcome{References: 1, Insecure: true, Generation: 2}
	if diff := cmp.Diff(want, outcome{len(got.Status.HashReferences), got.Spec.Insecure, got.Generation}); diff != "" {
		t.Errorf("update (-want +got):\n%s", diff)
	}
	if obj, err = s.imageStatus.Get(ctx, "myapp", &metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, obj); diff != "" {
		t.Errorf("get of the status (-main +status):\n%s", diff)
	}
}

// TestStatusCreatesNothing, whatever the caller allows.
func TestStatusCreatesNothing(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	tests := []struct {
		name   string
		status rest.Updater
		obj    runtime.Object
	}{
		{name: "images", status: s.imageStatus, obj: validImage()},
		{name: "imageimports", status: s.importStatus, obj: validImport()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := tt.status.Update(as(t, alice, "update", tt.name+"/status", "absent"), "absent",
				rest.DefaultUpdatedObjectInfo(tt.obj), nil, nil, true, &metav1.UpdateOptions{})
			if !apierrors.IsNotFound(err) {
				t.Errorf("error %v, want not found", err)
			}
		})
	}
}

func TestResetFields(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	tests := []struct {
		name     string
		resource rest.ResetFieldsStrategy
		want     string
	}{
		{name: "images", resource: s.images, want: ".status"},
		{name: "images/status", resource: s.imageStatus, want: ".metadata\n.spec"},
		{name: "imageimports", resource: s.imports, want: ".status"},
		{name: "imageimports/status", resource: s.importStatus, want: ".metadata\n.spec"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.resource.GetResetFields()["tagger.dev/v1beta1"]; got == nil || got.String() != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}
