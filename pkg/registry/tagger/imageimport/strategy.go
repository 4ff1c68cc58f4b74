// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package imageimport is the behaviour of ImageImports in storage: their spec is immutable, their status apart from it, and
// tables show what the import brought. It does not import anything from a registry.
package imageimport

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// Strategy is what creating, updating and deleting an ImageImport means. What the spec inherits from the Image is filled in
// before it is called.
type Strategy struct {
	taggerrest.Strategy
	reference validation.ReferenceValidator
	clock     clock.PassiveClock
}

var (
	_ rest.RESTCreateStrategy  = Strategy{}
	_ rest.RESTUpdateStrategy  = Strategy{}
	_ rest.RESTDeleteStrategy  = Strategy{}
	_ rest.ResetFieldsStrategy = Strategy{}
)

// NewStrategy returns the strategy of ImageImports; reference says which values of spec.from are valid.
func NewStrategy(typer runtime.ObjectTyper, reference validation.ReferenceValidator, clk clock.PassiveClock) Strategy {
	return Strategy{Strategy: taggerrest.NewStrategy(typer), reference: reference, clock: clk}
}

// NamespaceScoped is true.
func (Strategy) NamespaceScoped() bool { return true }

// PrepareForCreate drops what only Tagger writes, and says that the import waits for its first attempt.
func (s Strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	imp := obj.(*tagger.ImageImport)
	imp.Generation = 1
	now := s.clock.Now()
	imp.Status = tagger.ImageImportStatus{
		RequestedAt: metav1.NewMicroTime(now.Truncate(time.Microsecond)),
		Conditions: []metav1.Condition{{
			Type: v1beta1.ConditionImported, Status: metav1.ConditionUnknown, Reason: v1beta1.ReasonPending,
			Message:            "the first attempt has not begun",
			ObservedGeneration: imp.Generation, LastTransitionTime: metav1.NewTime(now),
		}},
	}
}

// PrepareForUpdate keeps the status. The spec is immutable, so the generation stays; an absent field of an update is what was
// filled in at creation, so that applying the same manifest again changes nothing.
func (Strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	imp, oldImp := obj.(*tagger.ImageImport), old.(*tagger.ImageImport)
	imp.Status = oldImp.Status
	keepController(imp, oldImp)
	if imp.Spec.From == "" {
		imp.Spec.From = oldImp.Spec.From
	}
	if imp.Spec.Mirror == nil {
		imp.Spec.Mirror = oldImp.Spec.Mirror
	}
	if imp.Spec.Insecure == nil {
		imp.Spec.Insecure = oldImp.Spec.Insecure
	}
}

// keepController has an import belong to its Image for ever: an update that names no controller, as that of a manifest does, or
// another one must not part them.
func keepController(imp, old *tagger.ImageImport) {
	controller := metav1.GetControllerOf(old)
	if controller == nil {
		return
	}
	if now := metav1.GetControllerOf(imp); now != nil && now.UID == controller.UID {
		return
	}
	imp.OwnerReferences = append(slices.DeleteFunc(imp.OwnerReferences, func(owner metav1.OwnerReference) bool {
		return owner.UID == controller.UID || ptr.Deref(owner.Controller, false)
	}), *controller)
}

// Validate validates an ImageImport at its creation.
func (s Strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateImageImport(obj.(*tagger.ImageImport), s.reference)
}

// ValidateUpdate validates a change of an ImageImport: nothing but metadata can change.
func (Strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateImageImportUpdate(obj.(*tagger.ImageImport), old.(*tagger.ImageImport))
}

// StatusStrategy is what updating the status of an ImageImport means; nothing but the status changes.
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
	imp, oldImp := obj.(*tagger.ImageImport), old.(*tagger.ImageImport)
	imp.Spec = oldImp.Spec
	metav1.ResetObjectMetaForStatus(imp, oldImp)
}

// ValidateUpdate validates a change of the status.
func (StatusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateImageImportStatusUpdate(obj.(*tagger.ImageImport), old.(*tagger.ImageImport))
}

// GetAttrs returns what selectors may select an ImageImport by.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	imp, ok := obj.(*tagger.ImageImport)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not an ImageImport", obj)
	}
	return imp.Labels, generic.AddObjectMetaFieldsSet(fields.Set{
		"spec.targetImage": imp.Spec.TargetImage,
		"spec.from":        imp.Spec.From,
		"spec.mirror":      strconv.FormatBool(ptr.Deref(imp.Spec.Mirror, false)),
	}, &imp.ObjectMeta, true), nil
}
