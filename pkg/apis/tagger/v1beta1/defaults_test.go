// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	// The conversions need the internal types, which this package cannot name here; defaults and labels do not.
	if err := addKnownTypes(scheme); err != nil {
		t.Fatal(err)
	}
	if err := addDefaultingFuncs(scheme); err != nil {
		t.Fatal(err)
	}
	if err := addFieldLabelConversionFuncs(scheme); err != nil {
		t.Fatal(err)
	}
	return scheme
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	scheme := newScheme(t)
	tests := []struct {
		name      string
		obj, want runtime.Object
	}{
		{
			name: "Image",
			obj:  &Image{},
			want: &Image{Spec: ImageSpec{HistoryLimit: ptr.To[int32](25)}},
		},
		{
			name: "Image that says",
			obj:  &Image{Spec: ImageSpec{HistoryLimit: ptr.To[int32](3)}},
			want: &Image{Spec: ImageSpec{HistoryLimit: ptr.To[int32](3)}},
		},
		{
			name: "zero is a value, for validation to refuse",
			obj:  &Image{Spec: ImageSpec{HistoryLimit: ptr.To[int32](0)}},
			want: &Image{Spec: ImageSpec{HistoryLimit: ptr.To[int32](0)}},
		},
		{
			name: "what an ImageImport inherits from its Image is no default",
			obj:  &ImageImport{Spec: ImageImportSpec{TargetImage: "myapp"}},
			want: &ImageImport{Spec: ImageImportSpec{TargetImage: "myapp", TTLSecondsAfterFinished: ptr.To[int32](3600)}},
		},
		{
			name: "an ImageImport to be deleted at once",
			obj:  &ImageImport{Spec: ImageImportSpec{TTLSecondsAfterFinished: ptr.To[int32](0)}},
			want: &ImageImport{Spec: ImageImportSpec{TTLSecondsAfterFinished: ptr.To[int32](0)}},
		},
		{
			name: "lists",
			obj:  &ImageImportList{Items: []ImageImport{{}}},
			want: &ImageImportList{Items: []ImageImport{{Spec: ImageImportSpec{TTLSecondsAfterFinished: ptr.To[int32](3600)}}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.obj.DeepCopyObject()
			scheme.Default(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("defaults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFieldLabels(t *testing.T) {
	t.Parallel()
	scheme := newScheme(t)
	tests := []struct {
		name, kind, label string
		want              bool
	}{
		{name: "name", kind: "Image", label: "metadata.name", want: true},
		{name: "namespace", kind: "Image", label: "metadata.namespace", want: true},
		{name: "from of an Image", kind: "Image", label: "spec.from", want: true},
		{name: "mirror of an Image", kind: "Image", label: "spec.mirror", want: true},
		{name: "Images have no target", kind: "Image", label: "spec.targetImage"},
		{name: "other field of an Image", kind: "Image", label: "spec.insecure"},
		{name: "name of an import", kind: "ImageImport", label: "metadata.name", want: true},
		{name: "from of an import", kind: "ImageImport", label: "spec.from", want: true},
		{name: "mirror of an import", kind: "ImageImport", label: "spec.mirror", want: true},
		{name: "target of an import", kind: "ImageImport", label: "spec.targetImage", want: true},
		{name: "other field of an import", kind: "ImageImport", label: "status.startTime"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			label, value, err := scheme.ConvertFieldLabel(SchemeGroupVersion.WithKind(tt.kind), tt.label, "Some/Value")
			if (err == nil) != tt.want {
				t.Fatalf("error %v, want one: %t", err, !tt.want)
			}
			if err == nil && (label != tt.label || value != "Some/Value") {
				t.Errorf("converted to %s=%s", label, value)
			}
		})
	}
}

func TestReasonSeldomHeals(t *testing.T) {
	t.Parallel()
	want := map[string]bool{
		ReasonPending: false, ReasonInProgress: false, ReasonImported: false, ReasonUnchanged: false,
		ReasonNotFound: true, ReasonUnauthorized: true, ReasonTLS: true,
		ReasonRateLimited: false, ReasonUnavailable: false, ReasonTimeout: false,
		ReasonBlocked: false, ReasonInvalid: false, ReasonUnsupportedManifest: false, // they end the import
		ReasonMirrorUnavailable: false, ReasonMirrorUnauthorized: false, ReasonDigestMismatch: false,
	}
	got := map[string]bool{}
	for reason := range want {
		got[reason] = ReasonSeldomHeals(reason)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}
