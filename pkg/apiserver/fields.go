// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/util"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/registry/tagger/image"
	"tagger.dev/tagger/pkg/registry/tagger/imageimport"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// fieldManagers keep in objects who manages which field when a request about something else writes them, as the generic server
// does for the objects of requests.
func (c CompletedConfig) fieldManagers() (func(schema.GroupVersionKind) requester.FieldManager, error) {
	managers := map[schema.GroupVersionKind]requester.FieldManager{}
	for kind, strategy := range map[string]rest.ResetFieldsStrategy{"Image": image.Strategy{}, "ImageImport": imageimport.Strategy{}} {
		manager, err := c.fieldManager(v1beta1.SchemeGroupVersion.WithKind(kind), strategy)
		if err != nil {
			return nil, fmt.Errorf("describing the fields of %s: %w", kind, err)
		}
		managers[v1beta1.SchemeGroupVersion.WithKind(kind)] = manager
	}
	return func(kind schema.GroupVersionKind) requester.FieldManager { return managers[kind] }, nil
}

func (c CompletedConfig) fieldManager(kind schema.GroupVersionKind, strategy rest.ResetFieldsStrategy) (*managedfields.FieldManager, error) {
	sample, err := Scheme.New(kind)
	if err != nil {
		return nil, err
	}
	models, err := builder3.BuildOpenAPIDefinitionsForResources(c.generic.OpenAPIV3Config, util.GetCanonicalTypeName(sample))
	if err != nil {
		return nil, err
	}
	types, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil, err
	}
	hub := schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal}
	return managedfields.NewDefaultFieldManager(types, Scheme, Scheme, Scheme, kind, hub, "",
		fieldpath.NewExcludeFilterSetMap(strategy.GetResetFields()))
}
