// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps Images in etcd and serves them: the main resource, its status, images/import and images/rollback.
package storage

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	"tagger.dev/tagger/pkg/registry/tagger/image"
)

// REST serves images.
type REST struct {
	*registry.Store
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// NewREST returns the storage of images and of images/status.
func NewREST(typer runtime.ObjectTyper, getter generic.RESTOptionsGetter, reference validation.ReferenceValidator,
	clk clock.PassiveClock) (*REST, *StatusREST, error) {
	strategy := image.NewStrategy(typer, reference)
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return &tagger.Image{} },
		NewListFunc:               func() runtime.Object { return &tagger.ImageList{} },
		PredicateFunc:             image.Match,
		DefaultQualifiedResource:  tagger.Resource("images"),
		SingularQualifiedResource: tagger.Resource("image"),

		CreateStrategy:      strategy,
		UpdateStrategy:      strategy,
		DeleteStrategy:      strategy,
		ResetFieldsStrategy: strategy,

		TableConvertor: image.TableConvertor{Now: clk.Now},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: image.GetAttrs}); err != nil {
		return nil, nil, err
	}
	statusStrategy := image.NewStatusStrategy(strategy)
	statusStore := *store
	statusStore.UpdateStrategy = statusStrategy
	statusStore.ResetFieldsStrategy = statusStrategy
	return &REST{store}, &StatusREST{&statusStore}, nil
}

// ShortNames lets kubectl say img.
func (*REST) ShortNames() []string { return []string{"img"} }

// StatusREST serves images/status.
type StatusREST struct {
	store *registry.Store
}

var (
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
)

// New returns an empty Image.
func (*StatusREST) New() runtime.Object { return &tagger.Image{} }

// Destroy does nothing: the store is the main resource's.
func (*StatusREST) Destroy() {}

// Get returns an Image.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update changes the status of an Image; it never creates one.
func (r *StatusREST) Update(ctx context.Context, name string, obj rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, obj, createValidation, updateValidation, false, options)
}

// GetResetFields names the fields that an update of the status ignores.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable shows what the main resource shows.
func (r *StatusREST) ConvertToTable(ctx context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, tableOptions)
}
