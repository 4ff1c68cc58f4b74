#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Fails where a Go file is not formatted, or does not start with the two lines of hack/boilerplate.go.txt.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
while IFS= read -r file; do
	echo "${file}: not formatted, run gofmt -w on it" >&2
	status=1
done < <(find . -path ./output -prune -o -name '*.go' -exec gofmt -l {} +)

license=$(tail -n 1 hack/boilerplate.go.txt)
while IFS= read -r file; do
	# Generated files may have a build constraint before it.
	if ! head -n 6 "${file}" | grep -qxF "${license}"; then
		echo "${file}: does not start with hack/boilerplate.go.txt" >&2
		status=1
	fi
done < <(find . -path ./output -prune -o -name '*.go' -print)
exit "${status}"
