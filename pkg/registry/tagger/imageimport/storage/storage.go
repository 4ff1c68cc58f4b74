// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps ImageImports in etcd and serves them: the main resource and its status. Creating one fills in what
// it inherits from its Image, creates the Image where it is absent, and makes the Image its owner.
package storage

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	"tagger.dev/tagger/pkg/registry/tagger/imageimport"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
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
	images ImageStore, writer *requester.Writer, same SameReference, clk clock.PassiveClock) (*REST, *taggerrest.Status, error) {
	strategy := imageimport.NewStrategy(typer, reference, clk)
	binder := &binder{images: images, writer: writer, reference: reference, same: same}
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return &tagger.ImageImport{} },
		NewListFunc:               func() runtime.Object { return &tagger.ImageImportList{} },
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
	return &REST{store}, taggerrest.NewStatus(store, imageimport.NewStatusStrategy(strategy)), nil
}

// ShortNames lets kubectl say imgimp.
func (*REST) ShortNames() []string { return []string{"imgimp"} }
