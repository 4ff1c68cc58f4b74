// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps MirrorReleases in etcd and serves them: the main resource and its status.
package storage

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
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

// Request stores a MirrorRelease or, where there is one of that name, its times in that one. No admission is asked: it is Tagger that
// writes down what it has yet to do. It returns what is stored then, and whether it was not before. Errors are API errors, or
// those of etcd.
func (r *REST) Request(ctx context.Context, release *tagger.MirrorRelease) (stored *tagger.MirrorRelease, created bool, err error) {
	ctx = request.WithNamespace(ctx, metav1.NamespaceNone) // that of the request is the Image's
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		current := old.DeepCopyObject().(*tagger.MirrorRelease)
		if current.UID == "" {
			return release.DeepCopy(), nil
		}
		current.Spec.RequestedAt, current.Spec.DueTime = release.Spec.RequestedAt, release.Spec.DueTime
		return current, nil
	})
	obj, created, err := r.Update(ctx, release.Name, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, true, &metav1.UpdateOptions{})
	if err != nil {
		return nil, false, err
	}
	return obj.(*tagger.MirrorRelease), created, nil
}

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
