// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package imageimport

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/install"
)

// newStrategy returns the strategy with a stand-in for the parser of references: "malformed" is the one that is not valid.
func newStrategy() Strategy {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return NewStrategy(scheme, func(reference string) error {
		if reference == "malformed" {
			return errors.New("write host/repository:tag")
		}
		return nil
	}, clocktesting.NewFakePassiveClock(time.Unix(2, 0)))
}

var (
	theImage = metav1.OwnerReference{APIVersion: "tagger.dev/v1beta1", Kind: "Image", Name: "myapp", UID: "image", Controller: ptr.To(true)}
	other    = metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "other"}
)

func object(change func(*tagger.ImageImport)) *tagger.ImageImport {
	imp := &tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0", Namespace: "ns", UID: "uid", ResourceVersion: "7", Generation: 1,
			OwnerReferences: []metav1.OwnerReference{theImage}},
		Spec: tagger.ImageImportSpec{
			TargetImage: "myapp", From: "quay.io/company/myapp:latest", Mirror: ptr.To(true), Insecure: ptr.To(false),
			TTLSecondsAfterFinished: ptr.To[int32](3600),
		},
		Status: tagger.ImageImportStatus{StartTime: ptr.To(metav1.Unix(1, 0))},
	}
	if change != nil {
		change(imp)
	}
	return imp
}

func TestCreate(t *testing.T) {
	t.Parallel()
	got := object(func(i *tagger.ImageImport) { i.Generation = 9 })
	newStrategy().PrepareForCreate(t.Context(), got)
	want := object(func(i *tagger.ImageImport) {
		i.Status = tagger.ImageImportStatus{RequestedAt: metav1.NewMicroTime(time.Unix(2, 0)), Conditions: []metav1.Condition{{
			Type: "Imported", Status: metav1.ConditionUnknown, Reason: "Pending", Message: "the first attempt has not begun",
			ObservedGeneration: 1, LastTransitionTime: metav1.Unix(2, 0),
		}}}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
}

// TestUpdate also validates what was prepared: an update that says nothing of a field that was filled in is no change.
func TestUpdate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		update  rest.RESTUpdateStrategy
		change  func(*tagger.ImageImport)
		want    func(*tagger.ImageImport)
		refused bool
	}{
		{name: "nothing", update: newStrategy()},
		{
			name:   "owners without the Image, which stays one",
			update: newStrategy(),
			change: func(i *tagger.ImageImport) {
				i.OwnerReferences = []metav1.OwnerReference{other}
			},
			want: func(i *tagger.ImageImport) {
				i.OwnerReferences = []metav1.OwnerReference{other, theImage}
			},
		},
		{
			name:   "another Image as its controller",
			update: newStrategy(),
			change: func(i *tagger.ImageImport) {
				i.OwnerReferences = []metav1.OwnerReference{other, {APIVersion: "tagger.dev/v1beta1", Kind: "Image", Name: "another", UID: "another", Controller: ptr.To(true)}}
			},
			want: func(i *tagger.ImageImport) {
				i.OwnerReferences = []metav1.OwnerReference{other, theImage}
			},
		},
		{
			name:   "the manifest that it was created from, applied again",
			update: newStrategy(),
			change: func(i *tagger.ImageImport) {
				i.Spec = tagger.ImageImportSpec{TargetImage: "myapp", TTLSecondsAfterFinished: ptr.To[int32](3600)}
				i.Status = tagger.ImageImportStatus{}
			},
		},
		{
			name:   "status is not the spec's to change",
			update: newStrategy(),
			change: func(i *tagger.ImageImport) { i.Status.CompletionTime = ptr.To(metav1.Unix(2, 0)) },
		},
		{
			name:    "another value",
			update:  newStrategy(),
			change:  func(i *tagger.ImageImport) { i.Spec.Mirror = ptr.To(false) },
			want:    func(i *tagger.ImageImport) { i.Spec.Mirror = ptr.To(false) },
			refused: true,
		},
		{
			name:    "another target",
			update:  newStrategy(),
			change:  func(i *tagger.ImageImport) { i.Spec.TargetImage = "other" },
			want:    func(i *tagger.ImageImport) { i.Spec.TargetImage = "other" },
			refused: true,
		},
		{
			name:    "the target cannot be left out",
			update:  newStrategy(),
			change:  func(i *tagger.ImageImport) { i.Spec.TargetImage = "" },
			want:    func(i *tagger.ImageImport) { i.Spec.TargetImage = "" },
			refused: true,
		},
		{
			name:   "metadata",
			update: newStrategy(),
			change: func(i *tagger.ImageImport) { i.Labels = map[string]string{"a": "b"} },
			want:   func(i *tagger.ImageImport) { i.Labels = map[string]string{"a": "b"} },
		},
		{
			name:   "status alone",
			update: NewStatusStrategy(newStrategy()),
			change: func(i *tagger.ImageImport) {
				i.Status.CompletionTime = ptr.To(metav1.Unix(2, 0))
				i.Spec, i.Generation = tagger.ImageImportSpec{}, 8
				i.Labels = map[string]string{"a": "b"}
				i.Finalizers = []string{"a.example/b"}
				i.OwnerReferences = []metav1.OwnerReference{{Name: "a"}}
			},
			want: func(i *tagger.ImageImport) { i.Status.CompletionTime = ptr.To(metav1.Unix(2, 0)) },
		},
		{
			name:   "status that is none",
			update: NewStatusStrategy(newStrategy()),
			change: func(i *tagger.ImageImport) {
				i.Status.ImportAttempts = make([]tagger.ImportAttempt, tagger.MaxImportAttempts+1)
			},
			want: func(i *tagger.ImageImport) {
				i.Status.ImportAttempts = make([]tagger.ImportAttempt, tagger.MaxImportAttempts+1)
			},
			refused: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := object(tt.change)
			tt.update.PrepareForUpdate(t.Context(), got, object(nil))
			if diff := cmp.Diff(object(tt.want), got); diff != "" {
				t.Errorf("updated (-want +got):\n%s", diff)
			}
			if errs := tt.update.ValidateUpdate(t.Context(), got, object(nil)); (len(errs) > 0) != tt.refused {
				t.Errorf("errors %v, want some: %t", errs, tt.refused)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if errs := newStrategy().Validate(t.Context(), object(nil)); len(errs) > 0 {
		t.Errorf("valid: %v", errs)
	}
	malformed := object(func(i *tagger.ImageImport) { i.Spec.From = "malformed" })
	if errs := newStrategy().Validate(t.Context(), malformed); len(errs) != 1 {
		t.Errorf("malformed: %v", errs)
	}
}

func TestStrategyIs(t *testing.T) {
	t.Parallel()
	strategy := newStrategy()
	if !strategy.NamespaceScoped() {
		t.Error("ImageImports have a namespace")
	}
	if strategy.AllowCreateOnUpdate(t.Context()) {
		t.Error("an update must not create")
	}
	if !strategy.AllowUnconditionalUpdate(t.Context()) {
		t.Error("kubectl replace needs no resourceVersion")
	}
}

func TestResetFields(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		strategy rest.ResetFieldsStrategy
		want     *fieldpath.Set
	}{
		{name: "main", strategy: newStrategy(), want: fieldpath.NewSet(fieldpath.MakePathOrDie("status"))},
		{
			name: "status", strategy: NewStatusStrategy(newStrategy()),
			want: fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata")),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.strategy.GetResetFields()
			if set := got["tagger.dev/v1beta1"]; len(got) != 1 || set == nil || !set.Equals(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	imp := object(func(i *tagger.ImageImport) { i.Labels = map[string]string{"team": "a"} })
	tests := []struct {
		name, labels, fields string
		want                 bool
	}{
		{name: "everything", want: true},
		{name: "label", labels: "team=a", want: true},
		{name: "other label", labels: "team=b"},
		{name: "name", fields: "metadata.name=myapp-0", want: true},
		{name: "namespace", fields: "metadata.namespace=other"},
		{name: "target", fields: "spec.targetImage=myapp", want: true},
		{name: "other target", fields: "spec.targetImage=other"},
		{name: "from", fields: "spec.from=quay.io/company/myapp:latest", want: true},
		{name: "mirrored", fields: "spec.mirror=true", want: true},
		{name: "not mirrored", fields: "spec.mirror=false"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			label, err := labels.Parse(tt.labels)
			if err != nil {
				t.Fatal(err)
			}
			field, err := fields.ParseSelector(tt.fields)
			if err != nil {
				t.Fatal(err)
			}
			predicate := storage.SelectionPredicate{Label: label, Field: field, GetAttrs: GetAttrs}
			got, err := predicate.Matches(imp)
			if err != nil || got != tt.want {
				t.Errorf("matches: %t, %v, want %t", got, err, tt.want)
			}
		})
	}
	if _, _, err := GetAttrs(&tagger.Image{}); err == nil {
		t.Error("an Image is no ImageImport")
	}
}
