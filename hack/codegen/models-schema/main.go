// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command models-schema prints the schemas of package pkg/generated/openapi as one OpenAPI v2 document. The generator of the
// apply configurations reads it to learn how server-side apply merges each list and map. It owns no schema of its own.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"tagger.dev/tagger/pkg/generated/openapi"
)

func main() {
	if err := write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "models-schema:", err)
		os.Exit(1)
	}
}

func write(out io.Writer) error {
	reference := func(name string) spec.Ref {
		return spec.MustCreateRef("#/definitions/" + name)
	}
	definitions := spec.Definitions{}
	for name, definition := range openapi.GetOpenAPIDefinitions(reference) {
		schema := definition.Schema
		// Types such as IntOrString have one schema for v3 and embed another for v2, which is what this document is.
		if v2, ok := schema.Extensions[common.ExtensionV2Schema].(spec.Schema); ok {
			schema = v2
		}
		definitions[name] = schema
	}
	return json.NewEncoder(out).Encode(&spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger:     "2.0",
		Info:        &spec.Info{InfoProps: spec.InfoProps{Title: "Tagger", Version: "unversioned"}},
		Definitions: definitions,
	}})
}
