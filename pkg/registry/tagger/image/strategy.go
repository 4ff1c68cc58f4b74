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

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// Strategy is what creating, updating and deleting an Image means; status is not touched by any of them.
type Strategy struct {
	taggerrest.Strategy
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
	return Strategy{Strategy: taggerrest.NewStrategy(typer), reference: reference}
}

// NamespaceScoped is true.
func (Strategy) NamespaceScoped() bool { return true }

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

// StatusStrategy is what updating the status of an Image means; nothing but the status changes.
type StatusStrategy struct {
	Strategy
	taggerrest.StatusFields
}

// NewStatusStrategy returns the strategy of the status subresource.
func NewStatusStrategy(strategy Strategy) StatusStrategy {
	return StatusStrategy{Strategy: strategy}
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
