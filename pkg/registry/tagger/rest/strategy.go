// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rest is what the storage of all resources has alike: the parts of their strategies that say nothing of a kind, their
// status subresource, and how rows become a table. It knows no kind.
package rest

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// Strategy is the part of a strategy that is the same for every kind: the status is not touched, and nothing is warned of.
type Strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

// NewStrategy returns the common part.
func NewStrategy(typer runtime.ObjectTyper) Strategy {
	return Strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator}
}

// GetResetFields names the fields that are ignored in a create or an update.
func (Strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields("status")
}

// WarningsOnCreate has none.
func (Strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

// WarningsOnUpdate has none.
func (Strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// AllowCreateOnUpdate is false: an object is created by a create or an apply.
func (Strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate is true: an update without a resourceVersion wins.
func (Strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

// Canonicalize changes nothing: what was written is kept as written.
func (Strategy) Canonicalize(runtime.Object) {}

// StatusFields is the part of a strategy of a status subresource that is the same for every kind. Embedded beside the strategy of
// the main resource, it goes before that.
type StatusFields struct{}

// GetResetFields names the fields that are ignored in an update of the status.
func (StatusFields) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields("spec", "metadata")
}

func resetFields(names ...string) map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	for _, name := range names {
		set.Insert(fieldpath.MakePathOrDie(name))
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(v1beta1.SchemeGroupVersion.String()): set}
}
