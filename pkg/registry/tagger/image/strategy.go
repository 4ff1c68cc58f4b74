// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image is the behaviour of Images in storage: what a create, an update and a status update may change, what
// selectors see, and how a table shows them. It does not import anything from a registry.
package image

import (
	"context"
	"fmt"
	"strconv"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
)

// Strategy is what creating, updating and deleting an Image means; status is not touched by any of them.
type Strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	reference validation.ReferenceValidator
}

var (
	_ rest.RESTCreateStrategy  = Strategy{}
	_ rest.RESTUpdateStrategy  = Strategy{}
	_ rest.RESTDeleteStrategy  = Strategy{}
	_ rest.ResetFieldsStrategy = Strategy{}
)

// NewStrategy returns the strategy of Images; reference says which values of spec.from are valid.
func NewStrategy(typer runtime.ObjectTyper, reference validation.ReferenceValidator) Strategy {
	return Strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator, reference: reference}
}

// NamespaceScoped is true.
func (Strategy) NamespaceScoped() bool { return true }

// GetResetFields names the fields that are ignored in a create or an update.
func (Strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(v1beta1.SchemeGroupVersion.String()): fieldpath.NewSet(fieldpath.MakePathOrDie("status")),
	}
}

// PrepareForCreate drops what only Tagger writes.
func (Strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	image := obj.(*tagger.Image)
	image.Status = tagger.ImageStatus{}
	image.Generation = 1
}

// PrepareForUpdate keeps the status and counts the generations of the spec.
func (Strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	image, oldImage := obj.(*tagger.Image), old.(*tagger.Image)
	image.Status = oldImage.Status
	if !apiequality.Semantic.DeepEqual(image.Spec, oldImage.Spec) {
		image.Generation = oldImage.Generation + 1
	}
}

// Validate validates an Image at its creation.
func (s Strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateImage(obj.(*tagger.Image), s.reference)
}

// ValidateUpdate validates a change of an Image.
func (s Strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateImageUpdate(obj.(*tagger.Image), old.(*tagger.Image), s.reference)
}

// WarningsOnCreate warns of a schedule.
func (Strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	return warnings(&obj.(*tagger.Image).Spec)
}

// WarningsOnUpdate warns of a schedule that is new.
func (Strategy) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	if apiequality.Semantic.DeepEqual(obj.(*tagger.Image).Spec.RefreshInterval, old.(*tagger.Image).Spec.RefreshInterval) {
		return nil
	}
	return warnings(&obj.(*tagger.Image).Spec)
}

// warnings says what is accepted and does nothing yet.
func warnings(spec *tagger.ImageSpec) []string {
	if spec.RefreshInterval == nil {
		return nil
	}
	return []string{"spec.refreshInterval: this version does not refresh by itself yet; import the image to refresh it"}
}

// AllowCreateOnUpdate is false: an Image is created by a create or an apply.
func (Strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate is true: an update without a resourceVersion wins.
func (Strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

// Canonicalize changes nothing: spec.from is kept as written.
func (Strategy) Canonicalize(runtime.Object) {}

// StatusStrategy is what updating the status of an Image means; nothing but the status changes.
type StatusStrategy struct {
	Strategy
}

// NewStatusStrategy returns the strategy of the status subresource.
func NewStatusStrategy(strategy Strategy) StatusStrategy {
	return StatusStrategy{Strategy: strategy}
}

// GetResetFields names the fields that are ignored in an update of the status.
func (StatusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(v1beta1.SchemeGroupVersion.String()): fieldpath.NewSet(
			fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata")),
	}
}

// PrepareForUpdate keeps spec and metadata.
func (StatusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	image, oldImage := obj.(*tagger.Image), old.(*tagger.Image)
	image.Spec = oldImage.Spec
	metav1.ResetObjectMetaForStatus(image, oldImage)
}

// ValidateUpdate validates a change of the status.
func (StatusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateImageStatusUpdate(obj.(*tagger.Image), old.(*tagger.Image))
}

// GetAttrs returns what selectors may select an Image by.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	image, ok := obj.(*tagger.Image)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not an Image", obj)
	}
	return image.Labels, generic.AddObjectMetaFieldsSet(fields.Set{
		"spec.from":   image.Spec.From,
		"spec.mirror": strconv.FormatBool(image.Spec.Mirror),
	}, &image.ObjectMeta, true), nil
}

// Match matches Images by their labels and fields.
func Match(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: GetAttrs}
}
