#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Prints the linker flags that stamp a binary with the version of this tree. The same commit gives the same stamp.
# VERSION overrides what git says; kubectl needs it to be a semantic version. So does SOURCE_DATE_EPOCH for the date.
# hack/version.sh version|commit|date prints that alone.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=unknown state=unknown date=1970-01-01T00:00:00Z version=v0.0.0-dev
if git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
	commit=$(git rev-parse HEAD)
	date=$(TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)
	state=clean
	[[ -z $(git status --porcelain) ]] || state=dirty

	# v1.2.3 at the tag; v1.2.3-4+0123456789ab four commits later; v0.0.0-dev+0123456789ab where there is no tag.
	if described=$(git describe --tags --long --abbrev=12 --match 'v[0-9]*' 2>/dev/null); then
		tag=${described%-*-g*}
		commits=${described%-g*}
		commits=${commits##*-}
		version=${tag}
		((commits == 0)) || version=${tag}-${commits}+${commit:0:12}
	else
		version=v0.0.0-dev+${commit:0:12}
	fi
	if [[ ${state} == dirty ]]; then
		case ${version} in
		*+*) version+=.dirty ;;
		*) version+=+dirty ;;
		esac
	fi
fi
version=${VERSION:-${version}}
if [[ -n ${SOURCE_DATE_EPOCH:-} ]]; then
	format=+%Y-%m-%dT%H:%M:%SZ
	date=$(date -u -d "@${SOURCE_DATE_EPOCH}" "${format}" 2>/dev/null || date -u -r "${SOURCE_DATE_EPOCH}" "${format}") # GNU, BSD
fi

if [[ $# -gt 0 ]]; then
	echo "${!1}"
	exit
fi

readonly package=tagger.dev/tagger/pkg/version
echo "-X ${package}.gitVersion=${version} -X ${package}.gitCommit=${commit}" \
	"-X ${package}.gitTreeState=${state} -X ${package}.buildDate=${date}"
