// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage keeps RegistryKeys in etcd, for the servers that share it, as all that is stored: encrypted where the
// server is told to. It serves them to nobody.
package storage

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"tagger.dev/tagger/pkg/apis/tagger"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
	"tagger.dev/tagger/pkg/token"
)

// Keys are the keys in etcd.
type Keys struct {
	store *registry.Store
}

var _ token.Store = &Keys{}

// New returns the storage of keys.
func New(typer runtime.ObjectTyper, getter generic.RESTOptionsGetter) (*Keys, error) {
	strategy := strategy{taggerrest.NewStrategy(typer)}
	resource := tagger.Resource("registrykeys")
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return &tagger.RegistryKey{} },
		NewListFunc:               func() runtime.Object { return &tagger.RegistryKeyList{} },
		DefaultQualifiedResource:  resource,
		SingularQualifiedResource: tagger.Resource("registrykey"),

		CreateStrategy: strategy,
		UpdateStrategy: strategy,
		DeleteStrategy: strategy,

		TableConvertor: rest.NewDefaultTableConvertor(resource),
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: uncached{getter}}); err != nil {
		return nil, err
	}
	return &Keys{store}, nil
}

// Destroy closes the connection to etcd.
func (k *Keys) Destroy() { k.store.Destroy() }

// outside returns a context that is of no namespace, whatever the request's is.
func outside(ctx context.Context) context.Context {
	return request.WithNamespace(ctx, metav1.NamespaceNone)
}

// List implements token.Store.
func (k *Keys) List(ctx context.Context) ([]token.Key, error) {
	list, err := k.store.List(outside(ctx), &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var keys []token.Key
	for _, stored := range list.(*tagger.RegistryKeyList).Items {
		keys = append(keys, token.Key{
			Name: stored.Name, Private: stored.Spec.PrivateKey, From: stored.Spec.SignsFrom.Time, Until: stored.Spec.SignsUntil.Time,
		})
	}
	return keys, nil
}

// Create implements token.Store.
func (k *Keys) Create(ctx context.Context, key token.Key) error {
	_, err := k.store.Create(outside(ctx), &tagger.RegistryKey{
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec: tagger.RegistryKeySpec{
			PrivateKey: key.Private, SignsFrom: metav1.NewTime(key.From), SignsUntil: metav1.NewTime(key.Until),
		},
	}, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%s: %w", key.Name, token.ErrExists)
	}
	return err
}

// Delete implements token.Store.
func (k *Keys) Delete(ctx context.Context, name string) error {
	_, _, err := k.store.Delete(outside(ctx), name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// uncached reads what few objects there are from etcd itself: the cache of a watch would hold keys for nobody.
type uncached struct{ generic.RESTOptionsGetter }

func (u uncached) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := u.RESTOptionsGetter.GetRESTOptions(resource, example)
	options.Decorator = generic.UndecoratedStorage
	return options, err
}

// strategy is that of objects which Tagger alone writes.
type strategy struct{ taggerrest.Strategy }

// NamespaceScoped is false.
func (strategy) NamespaceScoped() bool { return false }

// PrepareForCreate changes nothing.
func (strategy) PrepareForCreate(context.Context, runtime.Object) {}

// PrepareForUpdate changes nothing: keys are not updated.
func (strategy) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}

// Validate finds nothing: what cannot be read as a key is not used.
func (strategy) Validate(context.Context, runtime.Object) field.ErrorList { return nil }

// ValidateUpdate refuses: a key is not changed.
func (strategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return field.ErrorList{field.Forbidden(field.NewPath("spec"), "a key cannot be changed; delete it for a new one")}
}
