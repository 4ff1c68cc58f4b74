#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Fails, and shows how, where the go.mod or go.sum of one of our modules is not tidy.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
for module in . hack/tools/{codegen,clients,cosign,helm3,helm4,lint} hack/{image,kubernetes,node} docs/examples/client test/chart; do
	(cd "${module}" && go mod tidy -diff) || {
		echo "${module}/go.mod is not tidy: run 'go mod tidy' there." >&2
		status=1
	}
done
exit "${status}"
