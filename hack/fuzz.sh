#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Runs every fuzz target for a while: hack/fuzz.sh DURATION [FUNCTION]. What one finds fails it, and is kept below
# testdata/fuzz of its package, where go test tries it from then on: it is to be committed with the fix.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
while IFS=: read -r file function; do
	echo "${file%/*} ${function}"
	go test "./${file%/*}" -run "^${function}\$" -fuzz "^${function}\$" -fuzztime "$1" || status=1
done < <(grep --recursive --include='*_test.go' --only-matching "^func ${2:-Fuzz[A-Za-z0-9]*}\b" cmd pkg | sed 's/func //' | sort)
exit "${status}"
