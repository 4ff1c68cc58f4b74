// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
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
	})
}

func object(change func(*tagger.Image)) *tagger.Image {
	image := &tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "ns", UID: "uid", ResourceVersion: "7", Generation: 3},
		Spec:       tagger.ImageSpec{From: "quay.io/company/myapp:latest", HistoryLimit: ptr.To[int32](25)},
		Status: tagger.ImageStatus{HashReferences: []tagger.HashReference{{
			From: "quay.io/company/myapp:latest", ImageReference: "quay.io/company/myapp@sha256:00",
		}}},
	}
	if change != nil {
		change(image)
	}
	return image
}

func TestCreate(t *testing.T) {
	t.Parallel()
	got := object(func(i *tagger.Image) { i.Generation = 9 })
	newStrategy().PrepareForCreate(t.Context(), got)
	want := object(func(i *tagger.Image) {
		i.Generation = 1
		i.Status = tagger.ImageStatus{}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		update rest.RESTUpdateStrategy
		change func(*tagger.Image)
		want   func(*tagger.Image)
	}{
		{name: "nothing", update: newStrategy()},
		{
			name:   "status is not the spec's to change",
			update: newStrategy(),
			change: func(i *tagger.Image) { i.Status = tagger.ImageStatus{} },
		},
		{
			name:   "spec counts generations",
			update: newStrategy(),
			change: func(i *tagger.Image) { i.Spec.Mirror, i.Status.HashReferences = true, nil },
			want:   func(i *tagger.Image) { i.Spec.Mirror, i.Generation = true, 4 },
		},
		{
			name:   "metadata does not",
			update: newStrategy(),
			change: func(i *tagger.Image) { i.Labels = map[string]string{"a": "b"} },
			want:   func(i *tagger.Image) { i.Labels = map[string]string{"a": "b"} },
		},
		{
			name:   "status alone",
			update: NewStatusStrategy(newStrategy()),
			change: func(i *tagger.Image) {
				i.Status.HashReferences[0].Size = 12
				i.Spec.From, i.Generation = "elsewhere", 8
				i.Labels = map[string]string{"a": "b"}
				i.Annotations = map[string]string{"a": "b"}
				i.Finalizers = []string{"a.example/b"}
				i.OwnerReferences = []metav1.OwnerReference{{Name: "a"}}
				i.DeletionTimestamp = ptr.To(metav1.Unix(1, 0))
			},
			want: func(i *tagger.Image) { i.Status.HashReferences[0].Size = 12 },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, old := object(tt.change), object(nil)
			tt.update.PrepareForUpdate(t.Context(), got, old)
			if diff := cmp.Diff(object(tt.want), got); diff != "" {
				t.Errorf("updated (-want +got):\n%s", diff)
			}
			if !apiequality.Semantic.DeepEqual(old, object(nil)) {
				t.Error("the old object was changed")
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	strategy := newStrategy()
	malformed := object(func(i *tagger.Image) { i.Spec.From = "malformed" })
	noReference := object(func(i *tagger.Image) { i.Status.HashReferences[0].ImageReference = "" })
	tests := []struct {
		name string
		errs int
		want int
	}{
		{name: "create", errs: len(strategy.Validate(t.Context(), object(nil))), want: 0},
		{name: "create malformed", errs: len(strategy.Validate(t.Context(), malformed)), want: 1},
		{name: "update", errs: len(strategy.ValidateUpdate(t.Context(), object(nil), object(nil))), want: 0},
		{name: "update malformed", errs: len(strategy.ValidateUpdate(t.Context(), malformed, object(nil))), want: 1},
		{name: "status", errs: len(NewStatusStrategy(strategy).ValidateUpdate(t.Context(), object(nil), object(nil))), want: 0},
		{name: "status malformed", errs: len(NewStatusStrategy(strategy).ValidateUpdate(t.Context(), noReference, object(nil))), want: 1},
		{
			name: "a spec that is not valid any more does not stop status",
			errs: len(NewStatusStrategy(strategy).ValidateUpdate(t.Context(), malformed, malformed)), want: 0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.errs != tt.want {
				t.Errorf("%d errors, want %d", tt.errs, tt.want)
			}
		})
	}
}

func TestStrategyIs(t *testing.T) {
	t.Parallel()
	strategy := newStrategy()
	if !strategy.NamespaceScoped() {
		t.Error("Images have a namespace")
	}
	if strategy.AllowCreateOnUpdate(t.Context()) {
		t.Error("an update must not create")
	}
	if !strategy.AllowUnconditionalUpdate(t.Context()) {
		t.Error("kubectl replace needs no resourceVersion")
	}
	got := object(nil)
	strategy.Canonicalize(got)
	if diff := cmp.Diff(object(nil), got); diff != "" {
		t.Errorf("canonical form (-want +got):\n%s", diff)
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
	image := object(func(i *tagger.Image) { i.Labels = map[string]string{"team": "a"} })
	tests := []struct {
		name, labels, fields string
		want                 bool
	}{
		{name: "everything", want: true},
		{name: "label", labels: "team=a", want: true},
		{name: "other label", labels: "team=b"},
		{name: "name", fields: "metadata.name=myapp", want: true},
		{name: "namespace", fields: "metadata.namespace=other"},
		{name: "from", fields: "spec.from=quay.io/company/myapp:latest", want: true},
		{name: "other from", fields: "spec.from=quay.io/company/myapp"},
		{name: "not mirrored", fields: "spec.mirror=false", want: true},
		{name: "mirrored", fields: "spec.mirror=true"},
		{name: "both", labels: "team=a", fields: "spec.mirror!=true", want: true},
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
			got, err := predicate.Matches(image)
			if err != nil || got != tt.want {
				t.Errorf("matches: %t, %v, want %t", got, err, tt.want)
			}
		})
	}
	if _, _, err := GetAttrs(&tagger.ImageImport{}); err == nil {
		t.Error("an ImageImport is no Image")
	}
}
