// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Status serves the status subresource of a resource.
type Status struct {
	store registry.Store
}

var (
	_ rest.Patcher             = &Status{}
	_ rest.ResetFieldsStrategy = &Status{}
)

// StatusStrategy is what updating a status means.
type StatusStrategy interface {
	rest.RESTUpdateStrategy
	rest.ResetFieldsStrategy
}

// NewStatus returns the status subresource of what a store keeps, which was completed.
func NewStatus(store *registry.Store, strategy StatusStrategy) *Status {
	status := &Status{store: *store}
	status.store.UpdateStrategy, status.store.ResetFieldsStrategy = strategy, strategy
	return status
}

// New returns an empty object.
func (r *Status) New() runtime.Object { return r.store.New() }

// Destroy does nothing: the store is the main resource's.
func (*Status) Destroy() {}

// Get returns an object.
func (r *Status) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update changes the status of an object; it never creates one.
func (r *Status) Update(ctx context.Context, name string, obj rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, obj, createValidation, updateValidation, false, options)
}

// GetResetFields names the fields that an update of the status ignores.
func (r *Status) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable shows what the main resource shows.
func (r *Status) ConvertToTable(ctx context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, tableOptions)
}
