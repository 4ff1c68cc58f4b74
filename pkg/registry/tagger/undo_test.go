// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	imageimportstorage "tagger.dev/tagger/pkg/registry/tagger/imageimport/storage"
)

// faster lets somebody else create the Image first.
type faster struct {
	imageimportstorage.ImageStore
	theirs *tagger.Image
	once   sync.Once
}

func (f *faster) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	var err error
	f.once.Do(func() {
		_, err = f.ImageStore.Create(ctx, f.theirs, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	})
	if err != nil {
		return nil, err
	}
	return f.ImageStore.Create(ctx, obj, validate, options)
}

func TestBindWhenSomebodyElseIsFaster(t *testing.T) {
	t.Parallel()
	theirs := tagger.ImageSpec{From: "nginx", Mirror: true, HistoryLimit: ptr.To[int32](3)}
	tests := []struct {
		name     string
		from     string
		denied   string
		validate rest.ValidateObjectFunc
		want     bound
	}{
		{name: "the import is into theirs", from: "nginx:latest", want: bound{
			Import: filled("nginx:latest", true, false), Image: &theirs, Generation: 1,
		}},
		{name: "another source than theirs needs the right", from: "other", denied: "update images", want: bound{
			Reason: metav1.StatusReasonForbidden, Image: &theirs, Generation: 1,
		}},
		{name: "theirs is not taken back", from: "nginx", validate: refuse, want: bound{
			Reason: metav1.StatusReasonForbidden, Image: &theirs, Generation: 1,
		}},
	}
	for _, tt := range tests {
		for way, create := range creators {
			t.Run(way+": "+tt.name, func(t *testing.T) {
				t.Parallel()
				s := newStores(t, setup{authorizer: deny(tt.denied), around: func(images imageimportstorage.ImageStore) imageimportstorage.ImageStore {
					return &faster{ImageStore: images, theirs: &tagger.Image{
						ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace}, Spec: *theirs.DeepCopy(),
					}}
				}})
				imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = tt.from })
				_, err := create(as(t, alice, "create", "imageimports", ""), s, imp, tt.validate, nil)
				if diff := cmp.Diff(tt.want, see(t, s, err)); diff != "" {
					t.Errorf("outcome %v (-want +got):\n%s", err, diff)
				}
			})
		}
	}
}

// TestTakeBackSparesWhatWasTouched: an Image that somebody changed since it was created is not Tagger's to delete any more.
func TestTakeBackSparesWhatWasTouched(t *testing.T) {
	t.Parallel()
	for way, create := range creators {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			touch := func(ctx context.Context, obj runtime.Object) error {
				if _, _, err := s.images.Update(as(t, "bob", "update", "images", "myapp"), "myapp",
					change(func(i *tagger.Image) { i.Labels = map[string]string{"kept": "by-bob"} }), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
					return err
				}
				return refuse(ctx, obj)
			}
			imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = "nginx" })
			if _, err := create(as(t, alice, "create", "imageimports", ""), s, imp, touch, nil); !apierrors.IsForbidden(err) {
				t.Fatalf("error %v, want the refusal", err)
			}
			if image := s.image(t, "myapp"); image == nil || image.Labels["kept"] != "by-bob" {
				t.Errorf("the Image is %v", image)
			}
		})
	}
}

// TestTakeBackSparesAChangedSchedule: what somebody changed since an import suspended the schedule stays as they want it.
func TestTakeBackSparesAChangedSchedule(t *testing.T) {
	t.Parallel()
	for way, create := range creators {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			s.createImage(t, &tagger.Image{
				ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace},
				Spec:       tagger.ImageSpec{From: "nginx", RefreshInterval: &metav1.Duration{Duration: time.Hour}, HistoryLimit: ptr.To[int32](25)},
			})
			touch := func(ctx context.Context, obj runtime.Object) error {
				if _, _, err := s.images.Update(as(t, "bob", "update", "images", "myapp"), "myapp",
					change(func(i *tagger.Image) { i.Spec.Mirror = true }), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
					return err
				}
				return refuse(ctx, obj)
			}
			imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = "other" })
			if _, err := create(as(t, alice, "create", "imageimports", ""), s, imp, touch, nil); !apierrors.IsForbidden(err) {
				t.Fatalf("error %v, want the refusal", err)
			}
			if image := s.image(t, "myapp"); !image.Spec.Suspend || !image.Spec.Mirror {
				t.Errorf("the Image is %+v, want it as bob left it", image.Spec)
			}
		})
	}
}

// TestTakenNameSuspendsNothing: an import whose name is taken does nothing to the Image, not even for a moment.
func TestTakenNameSuspendsNothing(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.createImage(t, &tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace},
		Spec:       tagger.ImageSpec{From: "nginx", RefreshInterval: &metav1.Duration{Duration: time.Hour}, HistoryLimit: ptr.To[int32](25)},
	})
	for _, from := range []string{"nginx", "other"} {
		imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = from })
		_, err := s.imports.Create(as(t, alice, "create", "imageimports", ""), imp, nil, &metav1.CreateOptions{})
		if (from == "other") != apierrors.IsAlreadyExists(err) {
			t.Errorf("import from %s: %v", from, err)
		}
	}
	if image := s.image(t, "myapp"); image.Spec.Suspend || image.Generation != 1 {
		t.Errorf("the Image was touched: generation %d, suspend: %t", image.Generation, image.Spec.Suspend)
	}
}

// TestTakeBackAfterTheClientLeft: the Image goes even when the request that created it has ended meanwhile.
func TestTakeBackAfterTheClientLeft(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	ctx, leave := context.WithCancel(as(t, alice, "create", "imageimports", ""))
	imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = "nginx" })
	_, err := s.imports.Create(ctx, imp, func(ctx context.Context, obj runtime.Object) error {
		leave()
		return refuse(ctx, obj)
	}, &metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Fatalf("error %v, want the refusal", err)
	}
	if image := s.image(t, "myapp"); image != nil {
		t.Errorf("the Image is still there: %v", image)
	}
}

// TestSecondImportOfOneName changes nothing of the Image that the first one is of.
func TestSecondImportOfOneName(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	for i, wanted := range []func(error) bool{func(err error) bool { return err == nil }, apierrors.IsAlreadyExists} {
		imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = "nginx" })
		if i == 1 {
			imp.Spec.TargetImage = "other"
		}
		if _, err := s.imports.Create(as(t, alice, "create", "imageimports", ""), imp, nil, &metav1.CreateOptions{}); !wanted(err) {
			t.Errorf("create %d: %v", i+1, err)
		}
	}
	if image := s.image(t, "other"); image != nil {
		t.Errorf("the refused import left its Image: %v", image)
	}
	if image := s.image(t, "myapp"); image == nil {
		t.Error("the Image of the first import is gone")
	}
}
