// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package mirrorrelease is the behaviour of MirrorReleases in storage: what a create, an update and a status update may change,
// what selectors see, and how a table shows them. It releases nothing.
package mirrorrelease

import (
	"context"
	"fmt"

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

// Strategy is what creating, updating and deleting a MirrorRelease means; status is not touched by any of them.
type Strategy struct {
	taggerrest.Strategy
}

var (
	_ rest.RESTCreateStrategy  = Strategy{}
	_ rest.RESTUpdateStrategy  = Strategy{}
	_ rest.RESTDeleteStrategy  = Strategy{}
	_ rest.ResetFieldsStrategy = Strategy{}
)

// NewStrategy returns the strategy of MirrorReleases.
func NewStrategy(typer runtime.ObjectTyper) Strategy {
	return Strategy{taggerrest.NewStrategy(typer)}
}

// NamespaceScoped is false: a release outlives the namespace that it is for, and does not hold its deletion up.
func (Strategy) NamespaceScoped() bool { return false }

// PrepareForCreate drops what only Tagger writes.
func (Strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	release := obj.(*tagger.MirrorRelease)
	release.Status = tagger.MirrorReleaseStatus{}
	release.Generation = 1
}

// PrepareForUpdate keeps the status and counts the generations of the spec. A release that was asked for again, or whose time was
// set, waits for nothing else than that.
func (Strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	release, oldRelease := obj.(*tagger.MirrorRelease), old.(*tagger.MirrorRelease)
	release.Status = oldRelease.Status
	if !apiequality.Semantic.DeepEqual(release.Spec, oldRelease.Spec) {
		release.Generation = oldRelease.Generation + 1
		release.Status = tagger.MirrorReleaseStatus{}
	}
}

// Validate validates a MirrorRelease at its creation.
func (Strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateMirrorRelease(obj.(*tagger.MirrorRelease))
}

// ValidateUpdate validates a change of a MirrorRelease.
func (Strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateMirrorReleaseUpdate(obj.(*tagger.MirrorRelease), old.(*tagger.MirrorRelease))
}

// StatusStrategy is what updating the status of a MirrorRelease means; nothing but the status changes.
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
	release, oldRelease := obj.(*tagger.MirrorRelease), old.(*tagger.MirrorRelease)
	release.Spec = oldRelease.Spec
	metav1.ResetObjectMetaForStatus(release, oldRelease)
}

// ValidateUpdate validates a change of the status.
func (StatusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateMirrorReleaseStatusUpdate(obj.(*tagger.MirrorRelease), old.(*tagger.MirrorRelease))
}

// GetAttrs returns what selectors may select a MirrorRelease by.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	release, ok := obj.(*tagger.MirrorRelease)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a MirrorRelease", obj)
	}
	return release.Labels, generic.AddObjectMetaFieldsSet(fields.Set{
		"spec.namespace": release.Spec.Namespace,
		"spec.image":     release.Spec.Image,
	}, &release.ObjectMeta, false), nil
}
