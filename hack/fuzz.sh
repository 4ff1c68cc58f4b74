#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Runs every fuzz target for a while: hack/fuzz.sh DURATION [FUNCTION]. What one finds fails it, and is kept below
# testdata/fuzz of its package, where go test tries it from then on: it is to be committed with the fix.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f "${log}"' EXIT

# Whether a run failed by nothing but its own end: up to go 1.26 a target may fail when its time is over, if the machine is busy
# (https://go.dev/issue/75804). A finding has other words than these, and is kept.
out_of_time() {
	[[ $(sed --quiet --regexp-extended '/^--- FAIL: /,$ { s/ \([0-9.]+s\)//; /^FAIL\t/d; p }' "${log}") == \
		"--- FAIL: $1"$'\n    context deadline exceeded\nFAIL\nexit status 1' ]]
}

# Without a bound on minimizing, one input that is worth keeping may take all the time of its target.
status=0
while IFS=: read -r file function; do
	echo "${file%/*} ${function}"
	if go test "./${file%/*}" -run "^${function}\$" -fuzz "^${function}\$" -fuzztime "$1" -fuzzminimizetime 1s >"${log}" 2>&1; then
		cat "${log}"
	elif out_of_time "${function}"; then
		sed '/^--- FAIL: /,$d' "${log}"
		echo "${function} found nothing until its time was over"
	else
		cat "${log}"
		status=1
	fi
done < <(grep --recursive --include='*_test.go' --only-matching "^func ${2:-Fuzz[A-Za-z0-9]*}\b" cmd pkg | sed 's/func //' | sort)
exit "${status}"
