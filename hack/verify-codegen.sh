#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Fails, and shows how, where generated code is not what the generators would write now. It works on a copy, so that the
# tree need not be clean and is not touched.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p output
copy=$(mktemp -d "${PWD}/output/verify.XXXXXX")
trap 'rm -rf "${copy}"' EXIT

mkdir -p "${copy}/hack" "${copy}/pkg" "${copy}/docs"
cp go.mod go.sum "${copy}/"
cp -R pkg/apis "${copy}/pkg/"
cp -R hack/boilerplate.go.txt hack/codegen hack/update-codegen.sh "${copy}/hack/"
CODEGEN_BIN=${PWD}/output/tools "${copy}/hack/update-codegen.sh"

for path in pkg/apis pkg/generated hack/codegen docs/api.md; do
	git diff --no-index --stat --patch "${path}" "${copy}/${path}" || {
		echo "Generated code is not up to date: run 'make generate'." >&2
		exit 1
	}
done
