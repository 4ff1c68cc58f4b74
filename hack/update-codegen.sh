#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Writes all generated code anew: what lies beside the API types (zz_generated.*), the whole of pkg/generated, and docs/api.md.
# `make generate` builds the generators first; hack/verify-codegen.sh runs this on a copy of the tree.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where the generators of hack/tools/codegen are.
readonly bin=${CODEGEN_BIN:-${PWD}/output/tools}
readonly module=tagger.dev/tagger
readonly hub=${module}/pkg/apis/tagger
readonly versions=("${hub}/v1beta1")
# The models of the types in OpenAPI: what +k8s:openapi-model-package says, up to the version; and the same by Go path.
readonly model=dev.tagger.v1
readonly path_as_model=dev.tagger.tagger.pkg.apis.tagger.v1
readonly generated=${module}/pkg/generated
# The violations of the API rules that were looked at and accepted; a new one shows up in the diff of this file.
readonly violations=hack/codegen/api-violations.list

# Every package of Kubernetes whose types ours embed. They are read only: nothing is written beside them.
readonly foreign=(
	k8s.io/apimachinery/pkg/apis/meta/v1
	k8s.io/apimachinery/pkg/runtime
	k8s.io/apimachinery/pkg/version
)

generate() { # GENERATOR ARGS...
	echo "generate: $1" >&2
	"${bin}/$1" --go-header-file hack/boilerplate.go.txt "${@:2}"
}

rewrite() { # SED-SCRIPT FILES...
	local file
	for file in "${@:2}"; do
		sed "$1" "${file}" >"${file}.new"
		mv "${file}.new" "${file}"
	done
}

find pkg/apis -name 'zz_generated.*.go' -delete
rm -rf pkg/generated
mkdir -p pkg/generated

generate deepcopy-gen --output-file zz_generated.deepcopy.go "${hub}" "${versions[@]}"
generate defaulter-gen --output-file zz_generated.defaults.go "${versions[@]}"
generate conversion-gen --output-file zz_generated.conversion.go "${versions[@]}"

generate openapi-gen \
	--output-file zz_generated.openapi.go \
	--output-dir pkg/generated/openapi \
	--output-pkg "${generated}/openapi" \
	--output-model-name-file zz_generated.model_name.go \
	--report-filename "${violations}" \
	"${foreign[@]/#/--readonly-pkg=}" \
	"${foreign[@]}" "${versions[@]}"

# applyconfiguration-gen does not know +k8s:openapi-model-package: it looks each type up by its Go path, spelled as a model
# name. It gets the models under that name, and what it wrote gets their real names back.
schema=$(mktemp)
trap 'rm -f "${schema}"' EXIT
CGO_ENABLED=0 go run ./hack/codegen/models-schema | sed "s/${model//./\\.}/${path_as_model}/g" >"${schema}"
generate applyconfiguration-gen \
	--output-dir pkg/generated/applyconfiguration \
	--output-pkg "${generated}/applyconfiguration" \
	--openapi-schema "${schema}" \
	"${versions[@]}"
rewrite "s/${path_as_model//./\\.}/${model}/g" pkg/generated/applyconfiguration/internal/*.go \
	pkg/generated/applyconfiguration/tagger/*/*.go
# It also writes an Extract<Kind><Subresource> for each method of the client, which for images/import has the name of the
# function of another kind, ImageImport. Neither an import nor a rollback leaves anything in an Image to extract: they go.
for method in Import Rollback; do
	rewrite "/^\/\/ ExtractImage${method} extracts/,/^\$/d" pkg/generated/applyconfiguration/tagger/*/image.go
done

generate client-gen \
	--output-dir pkg/generated/clientset \
	--output-pkg "${generated}/clientset" \
	--clientset-name versioned \
	--apply-configuration-package "${generated}/applyconfiguration" \
	--input-base "${module}/pkg/apis" \
	"${versions[@]/#"${module}/pkg/apis/"/--input=}"
generate lister-gen \
	--output-dir pkg/generated/listers \
	--output-pkg "${generated}/listers" \
	"${versions[@]}"
generate informer-gen \
	--output-dir pkg/generated/informers \
	--output-pkg "${generated}/informers" \
	--versioned-clientset-package "${generated}/clientset/versioned" \
	--listers-package "${generated}/listers" \
	"${versions[@]}"

echo "generate: crd-ref-docs" >&2
"${bin}/crd-ref-docs" --log-level ERROR \
	--source-path pkg/apis/tagger/v1beta1 \
	--config hack/codegen/api-docs/config.yaml --templates-dir hack/codegen/api-docs \
	--renderer markdown --output-path docs/api.md
