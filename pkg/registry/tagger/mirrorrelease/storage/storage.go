// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps MirrorReleases in etcd and serves them: the main resource and its status.
package storage

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/registry/tagger/mirrorrelease"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// REST serves mirrorreleases.
type REST struct {
	*registry.Store
}

var _ rest.StandardStorage = &REST{}

// NewREST returns the storage of mirrorreleases and of mirrorreleases/status.
func NewREST(typer runtime.ObjectTyper, getter generic.RESTOptionsGetter, clk clock.PassiveClock) (*REST, *taggerrest.Status, error) {
	strategy := mirrorrelease.NewStrategy(typer)
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return &tagger.MirrorRelease{} },
		NewListFunc:               func() runtime.Object { return &tagger.MirrorReleaseList{} },
		DefaultQualifiedResource:  tagger.Resource("mirrorreleases"),
		SingularQualifiedResource: tagger.Resource("mirrorrelease"),

		CreateStrategy:      strategy,
		UpdateStrategy:      strategy,
		DeleteStrategy:      strategy,
		ResetFieldsStrategy: strategy,

		TableConvertor: mirrorrelease.TableConvertor{Now: clk.Now},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: mirrorrelease.GetAttrs}); err != nil {
		return nil, nil, err
	}
	return &REST{store}, taggerrest.NewStatus(store, mirrorrelease.NewStatusStrategy(strategy)), nil
}
