#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Builds output/release, which is all that is published of a version: image, chart, manifests, binaries, documents, and checksums
# of them. The chart and the manifests name the IMAGE, which is pushed where PUSH is set. The same commit gives the same files.

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source hack/build-env.sh

case ${version} in
*dirty*) echo "warning: the tree has changes that no commit has; this is not a release of anything" >&2 ;;
esac
readonly release=output/release name=${version//+/_} chart=tagger-${version#v}.tgz
tag=${IMAGE##*/}
if [[ ${tag} != *:* || ${IMAGE} == *@* ]]; then
	echo "error: IMAGE=${IMAGE}: it must end with a tag, as in registry.example.com/tagger-apiserver:${name}" >&2
	exit 1
fi
tag=${tag##*:}

rm -rf "${release}"
mkdir -p "${release}"
work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT

image=$(IMAGE_DIR=${work}/image hack/build-image.sh)
readonly digest=${image##*@}
mv "${work}/image/tagger-apiserver.tar" "${release}/tagger-apiserver-${name}-image.tar"
for platform in ${PLATFORMS}; do
	cp LICENSE "${work}/image/bin/${platform/\//-}"
	pack "${release}/tagger-apiserver-${name}-${platform/\//-}.tar.gz" "${work}/image/bin/${platform/\//-}" tagger-apiserver LICENSE
done

# For nodes, with what configures them.
for platform in ${PLATFORMS}; do
	nodes=${work}/nodes/${platform}
	build tagger-credential-provider "${platform}" "${nodes}/tagger-credential-provider"
	cp LICENSE artifacts/nodes/* "${nodes}"
	pack "${release}/tagger-credential-provider-${name}-${platform/\//-}.tar.gz" "${nodes}" tagger-credential-provider LICENSE \
		credential-provider.yaml hosts.toml rbac.yaml
done

for platform in ${PLUGIN_PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64}; do
	suffix=
	[[ ${platform} != windows/* ]] || suffix=.exe
	build kubectl-image "${platform}" "${work}/plugin/${platform}/kubectl-image${suffix}"
	cp LICENSE "${work}/plugin/${platform}"
	pack "${release}/kubectl-image-${name}-${platform/\//-}.tar.gz" "${work}/plugin/${platform}" "kubectl-image${suffix}" LICENSE
done

# helm writes the time of day into its archives: what it has packed and found right is packed once more.
cp -r artifacts "${work}"
sed -i "s|^image: .*|image: ${IMAGE}|" "${work}/artifacts/chart/values.yaml"
helm package "${work}/artifacts/chart" --version "${version#v}" --app-version "${version}" --destination "${work}" >/dev/null
mkdir "${work}/packed"
tar --extract --gzip --file "${work}/${chart}" --directory "${work}/packed"
pack "${release}/${chart}" "${work}/packed" tagger

mkdir "${work}/manifests"
mv "${work}/artifacts/manifests" "${work}/manifests/tagger-manifests"
cat >>"${work}/manifests/tagger-manifests/kustomization.yaml" <<-END
	images:
	- name: tagger-apiserver
	  newName: ${IMAGE%:"${tag}"}
	  newTag: "${tag}"
END
pack "${release}/tagger-manifests-${name}.tar.gz" "${work}/manifests" tagger-manifests

pack "${release}/tagger-docs-${name}.tar.gz" . README.md CHANGELOG.md CONTRIBUTING.md LICENSE SECURITY.md artifacts assets docs

sed -e "s|@VERSION@|${version}|g" -e "s|@NAME@|${name}|g" -e "s|@CHART@|${chart}|g" -e "s|@IMAGE@|${IMAGE}|g" \
	-e "s|@REPOSITORY@|${IMAGE%:"${tag}"}|g" -e "s|@DIGEST@|${digest}|g" -e "s|@COMMIT@|$(hack/version.sh commit)|g" hack/release.md >"${release}/README.md"

cd "${release}"
sha256sum -- * >"${work}/SHA256SUMS"
mv "${work}/SHA256SUMS" .
cat SHA256SUMS
