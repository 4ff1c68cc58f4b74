// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strings"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"

	generatedopenapi "tagger.dev/tagger/pkg/generated/openapi"
	"tagger.dev/tagger/pkg/version"
)

// describeAPI has the server publish OpenAPI v2 and v3 of everything that it serves.
func describeAPI(config *genericapiserver.Config) {
	namer := openapi.NewDefinitionNamer(Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "Tagger"
	config.OpenAPIConfig.GetOperationIDAndTags = operationID //nolint:staticcheck // the generic server sets this one, and both cannot be set
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "Tagger"
	// Tagger's own version, as clients learn it through kube-apiserver, and not that of the API machinery.
	config.OpenAPIConfig.Info.Version, config.OpenAPIV3Config.Info.Version = version.Info().GitVersion, version.Info().GitVersion
	config.OpenAPIV3Config.GetOperationIDAndTags = operationID //nolint:staticcheck // the generic server sets this one, and both cannot be set
}

// operationID names the operations as Kubernetes does, but tells images/import from creating an imageimport: kind Image with
// subresource import makes the same name as kind ImageImport.
func operationID(route *restful.Route) (string, []string, error) {
	id, tags, err := openapi.GetOperationIDAndTags(route)
	if strings.HasSuffix(route.Path, "/images/{name}/import") {
		id += "ByImage"
	}
	return id, tags, err
}
