#!/usr/bin/env bash
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Shows Tagger's main job with the commands that a user would type: a tag is imported and mirrored, moves, is imported again, is
# rolled back, and is pulled back when the registry it came from is gone; then an image is pushed. `make demo` builds what this needs and sets PATH.
#
# usage: demo.sh [REFERENCE]   REFERENCE: an image to import instead of the one that is built here

set -o errexit -o nounset -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly reference=${1-}
readonly timeout=60 # seconds that a server may take to start, or to stop

server='' outside='' command='' # the processes to stop at the end

# stop PID: ends one of our own children, and waits until it is gone.
stop() {
	[[ -n $1 ]] || return 0
	kill -TERM "$1" 2>/dev/null || return 0
	for ((i = 0; i < timeout * 10; i++)); do
		kill -0 "$1" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$1" 2>/dev/null || true
	wait "$1" || true
}

cleanup() {
	local status=$?
	set +o errexit
	trap - EXIT
	trap '' HUP INT PIPE TERM
	if ((status > 0 && status < 128)); then # above: it was interrupted
		printf '\nThe demo did not finish (exit code %d). The last lines of its logs:\n' "${status}"
		tail -n 20 "${demo}"/*.log
	fi >&2
	stop "${command}"
	stop "${server}"
	stop "${outside}"
	rm -rf "${demo}"
	exit "${status}"
}

section() { printf '\n\n%s\n%s\n' "$1" "${1//?/-}"; }

# run COMMAND: shows a line as it would be typed, and runs it. In the background, so that an interrupt is obeyed at once.
run() {
	printf '\n$ %s\n' "$1"
	bash -o pipefail -c "$1" &
	command=$!
	wait "${command}"
	command=''
}

# until_true PID WHAT COMMAND...: waits until a command succeeds, as long as the process that it depends on lives.
until_true() {
	local pid=$1 what=$2
	for ((i = 0; i < timeout * 10; i++)); do
		"${@:3}" >/dev/null 2>&1 && return
		kill -0 "${pid}" 2>/dev/null || break
		sleep 0.1
	done
	echo "${what} did not become ready." >&2
	exit 1
}

# start_outside: the outside world, a registry that keeps all in memory; without TLS, as a laptop's is.
start_outside() {
	crane registry serve --address 127.0.0.1:0 >"${demo}/outside.log" 2>&1 &
	outside=$!
	until_true "${outside}" 'The outside registry' grep -qE 'port [0-9]+$' "${demo}/outside.log"
	host=127.0.0.1:$(sed -nE 's/.*port ([0-9]+)$/\1/p' "${demo}/outside.log")
}

# build VERSION: the program of hack/demo/hello as a layer for each platform.
build() {
	local arch
	for arch in amd64 arm64; do
		mkdir -p "${demo}/build/$1-${arch}"
		CGO_ENABLED=0 GOOS=linux GOARCH=${arch} go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$1" \
			-o "${demo}/build/$1-${arch}/hello" ./hack/demo/hello
		tar -C "${demo}/build/$1-${arch}" -cf "${demo}/build/$1-${arch}.tar" hello
	done
}

# push VERSION: those layers as one image for both platforms, to the tag latest of the outside registry.
push() {
	local arch image
	local images=()
	for arch in amd64 arm64; do
		image=${host}/demo/hello:$1-${arch}
		crane append --oci-empty-base --new_layer "${demo}/build/$1-${arch}.tar" --new_tag "${image}"
		crane mutate --set-platform "linux/${arch}" --entrypoint /hello --tag "${image}" "${image}"
		images+=(--manifest "${image}")
	done
	crane index append "${images[@]}" --tag "${host}/demo/hello:latest"
} >"${demo}/push.log" 2>&1

# start_server: on ports that are free; the kubeconfig and the references to mirrored images name them.
start_server() {
	tagger-apiserver --standalone --data-dir "${data}" --secure-port 0 --registry-port 0 >"${demo}/tagger-apiserver.log" 2>&1 &
	server=$!
	export KUBECONFIG=${data}/kubeconfig
	until_true "${server}" tagger-apiserver kubectl get --raw /readyz
	printf '\n$ %s\n' 'tagger-apiserver --standalone --data-dir data --secure-port 0 --registry-port 0 &' \
		'export KUBECONFIG=data/kubeconfig'
}

# pull: the newest reference of the Image hello as any client of a registry sees it.
pull() {
	image=$(kubectl get image hello --output 'jsonpath={.status.hashReferences[0].imageReference}')
	export SSL_CERT_FILE=${data}/ca.crt
	printf '\n$ %s\n' 'export SSL_CERT_FILE=data/ca.crt DOCKER_CONFIG=docker'
	# As a token, and not by crane auth login, which warns that it keeps a password unencrypted.
	run "kubectl config view --raw --output 'go-template=
    {\"auths\": {\"${image%%/*}\": {\"registrytoken\": \"{{(index .users 0).user.token}}\"}}}' >docker/config.json"
	run "crane validate --remote ${image}"
}

mkdir -p output
demo=$(mktemp -d "${PWD}/output/demo.XXXXXX")
readonly demo data=${demo}/data
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
arch=$(go env GOHOSTARCH)
if [[ -z ${reference} ]]; then
	build 1
	build 2
	build 3
fi

# From here on nothing is read from or written to the user's own configuration.
export HOME=${demo}/home DOCKER_CONFIG=${demo}/docker
mkdir -p "${HOME}" "${DOCKER_CONFIG}"
cd "${demo}"

section 'A standalone Tagger: one process, no cluster'
start_server

if [[ -n ${reference} ]]; then
	quoted=$(printf %q "${reference}")
	section "Import ${reference}, and mirror it"
	run "kubectl image import hello --from ${quoted} --mirror"
	run 'kubectl get imageimports'
	run 'kubectl get image hello --output yaml'

	section 'Import it again: unless the tag has moved, there is nothing to do'
	run 'kubectl image import hello'
	run 'kubectl image history hello'

	section 'Check every byte of the image in the mirror'
	pull

	section 'Take it out with the kubeconfig alone, and push it as another image'
	run 'kubectl image pull hello --to oci:layout'
	run 'kubectl image push copy --from oci:layout'
	run 'kubectl image history copy'
else
	start_outside
	push 1
	section "Elsewhere, at ${host}, there is an image for two platforms"
	run "crane digest ${host}/demo/hello:latest"

	section 'Import it, and mirror it'
	run "kubectl image import hello --from ${host}/demo/hello:latest --mirror --insecure-source"
	run 'kubectl get imageimports'
	run 'kubectl get image hello --output yaml'

	section 'The tag moves: version 2 is pushed to it. Import it again'
	push 2
	run "crane digest ${host}/demo/hello:latest"
	run 'kubectl image import hello'
	run 'kubectl get images'
	run 'kubectl image history hello'

	section 'Version 2 is not what was hoped for: go back to version 1'
	run 'kubectl image rollback hello'
	run 'kubectl image history hello'

	section 'The registry outside is gone. The mirror has every byte of every platform'
	stop "${outside}"
	outside=''
	pull
	run "crane export --platform linux/${arch} ${image} hello.tar"
	run 'tar -xf hello.tar hello'
	if [[ ${OSTYPE} == linux* ]]; then
		run './hello'
	fi

	section 'Version 3 is built on this machine: push it, with the kubeconfig alone'
	crane append --oci-empty-base --new_layer "${demo}/build/3-${arch}.tar" --new_tag hello:3 --output hello-3.tar >"${demo}/push.log" 2>&1
	run 'kubectl image push hello --from docker-archive:hello-3.tar'
	run 'kubectl image history hello'

	section 'Pull it back'
	run 'kubectl image pull hello --to docker-archive:pulled.tar'
	run 'crane export - hello.tar <pulled.tar'
	run 'tar -xf hello.tar hello'
	if [[ ${OSTYPE} == linux* ]]; then
		run './hello'
	fi
fi

section 'Done. The servers are stopped, and what they wrote is removed'
