// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps ImageImports in etcd and serves them: the main resource and its status. Creating one fills in what
// it inherits from its Image, creates the Image where it is absent, and makes the Image its owner.
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
	"tagger.dev/tagger/pkg/registry/tagger/imageimport"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// REST serves imageimports.
type REST struct {
	*registry.Store
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// NewREST returns the storage of imageimports and of imageimports/status; images is the storage of Images.
func NewREST(typer runtime.ObjectTyper, getter generic.RESTOptionsGetter, reference validation.ReferenceValidator,
	images ImageStore, writer *requester.Writer, same SameReference, clk clock.PassiveClock) (*REST, *StatusREST, error) {
	strategy := imageimport.NewStrategy(typer, reference, clk)
	binder := &binder{images: images, writer: writer, reference: reference, same: same}
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return &tagger.ImageImport{} },
		NewListFunc:               func() runtime.Object { return &tagger.ImageImportList{} },
		PredicateFunc:             imageimport.Match,
		DefaultQualifiedResource:  tagger.Resource("imageimports"),
		SingularQualifiedResource: tagger.Resource("imageimport"),

		CreateStrategy:      strategy,
		UpdateStrategy:      strategy,
		DeleteStrategy:      strategy,
		ResetFieldsStrategy: strategy,
		BeginCreate:         binder.beginCreate,

		TableConvertor: imageimport.TableConvertor{Now: clk.Now},
	}
	binder.imports = store
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: imageimport.GetAttrs}); err != nil {
		return nil, nil, err
	}
	statusStrategy := imageimport.NewStatusStrategy(strategy)
	statusStore := *store
	statusStore.UpdateStrategy = statusStrategy
	statusStore.ResetFieldsStrategy = statusStrategy
	return &REST{store}, &StatusREST{&statusStore}, nil
}

// ShortNames lets kubectl say imgimp.
func (*REST) ShortNames() []string { return []string{"imgimp"} }

// StatusREST serves imageimports/status.
type StatusREST struct {
	store *registry.Store
}

var (
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
)

// New returns an empty ImageImport.
func (*StatusREST) New() runtime.Object { return &tagger.ImageImport{} }

// Destroy does nothing: the store is the main resource's.
func (*StatusREST) Destroy() {}

// Get returns an ImageImport.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update changes the status of an ImageImport; it never creates one.
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
