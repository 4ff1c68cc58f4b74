// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps Images in etcd and serves them: the main resource, its status, images/import and images/rollback.
package storage

import (
	"context"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	"tagger.dev/tagger/pkg/registry/tagger/image"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// Releaser writes down, for what works later, that the mirror need not keep what an Image has there. It holds nothing up for long,
// and does not fail.
type Releaser interface {
	Release(ctx context.Context, image *tagger.Image)
}

// REST serves images.
type REST struct {
	*registry.Store
	releaser Releaser
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
)

// NewREST returns the storage of images and of images/status; releaser is told of every Image before it is deleted.
func NewREST(typer runtime.ObjectTyper, getter generic.RESTOptionsGetter, reference validation.ReferenceValidator,
	releaser Releaser, clk clock.PassiveClock) (*REST, *taggerrest.Status, error) {
	strategy := image.NewStrategy(typer, reference)
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return &tagger.Image{} },
		NewListFunc:               func() runtime.Object { return &tagger.ImageList{} },
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
	return &REST{store, releaser}, taggerrest.NewStatus(store, image.NewStatusStrategy(strategy)), nil
}

// Delete deletes an Image, or marks it as deleted where something else has to be done first.
func (r *REST) Delete(ctx context.Context, name string, deleteValidation rest.ValidateObjectFunc, options *metav1.DeleteOptions) (
	runtime.Object, bool, error) {
	return r.Store.Delete(ctx, name, r.releasing(deleteValidation, options), options)
}

// DeleteCollection deletes all Images that a list finds.
func (r *REST) DeleteCollection(ctx context.Context, deleteValidation rest.ValidateObjectFunc, options *metav1.DeleteOptions,
	listOptions *metainternalversion.ListOptions) (runtime.Object, error) {
	return r.Store.DeleteCollection(ctx, r.releasing(deleteValidation, options), options, listOptions)
}

// releasing has the mirror released of what a deletion takes along. What validates that sees the Image as it is stored, and comes
// again where that was not what is stored any more. An Image that is marked records nothing from then on.
func (r *REST) releasing(deleteValidation rest.ValidateObjectFunc, options *metav1.DeleteOptions) rest.ValidateObjectFunc {
	if options != nil && len(options.DryRun) > 0 {
		return deleteValidation
	}
	return func(ctx context.Context, obj runtime.Object) error {
		if err := deleteValidation(ctx, obj); err != nil {
			return err
		}
		r.releaser.Release(ctx, obj.(*tagger.Image))
		return nil
	}
}

// ShortNames lets kubectl say img.
func (*REST) ShortNames() []string { return []string{"img"} }
