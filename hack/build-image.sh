#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Builds the image of tagger-apiserver for all PLATFORMS, without a container engine: output/image/oci is an OCI layout, and
# output/image/tagger-apiserver.tar an archive of it; IMAGE_DIR puts both elsewhere. IMAGE names it, and where PUSH is set it is
# pushed there, with its SBOMs. The same commit gives the same digest on every machine.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source hack/build-env.sh

readonly output=${IMAGE_DIR:-output/image}

rm -rf "${output}"
binaries=()
for platform in ${PLATFORMS}; do
	binary=${output}/bin/${platform/\//-}/tagger-apiserver
	build tagger-apiserver "${platform}" "${binary}"
	binaries+=("${binary}")
done

(cd hack/image && go build -buildvcs=false -o ../../output/tools/image .)
digest=$(output/tools/image -output "${output}" -name "${IMAGE}" -version "${version}" -revision "$(hack/version.sh commit)" \
	-created "$(hack/version.sh date)" "${binaries[@]}")

[[ -z ${PUSH:-} ]] || crane push "${output}/oci" "${IMAGE}" >/dev/null
echo "${IMAGE}@${digest}"
