# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Sourced by what builds for others: which version that is, the IMAGE that it is by default, and the PLATFORMS it is for. The same
# commit gives the same bytes on every machine: what go and tar would take from their environment is set here.

export GOTOOLCHAIN=go1.26.8 # go fetches it, unless it is that version
export CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOWORK=off GOFLAGS=-trimpath

version=$(hack/version.sh version)
export IMAGE=${IMAGE:-tagger.dev/tagger-apiserver:${version//+/_}} # a tag has no +
export PLATFORMS=${PLATFORMS:-linux/amd64 linux/arm64}

# build PROGRAM OS/ARCHITECTURE FILE builds one of the commands.
build() {
	GOOS=${2%/*} GOARCH=${2#*/} go build -buildvcs=false -ldflags "-s -w $(hack/version.sh)" -o "$3" "./cmd/$1"
}

# pack ARCHIVE DIRECTORY FILE... makes a .tar.gz of files and directories in a directory. It needs GNU tar.
pack() {
	local archive=$1 directory=$2
	shift 2
	tar --create --directory "${directory}" --format ustar --sort name --owner 0 --group 0 --numeric-owner --mode u=rwX,go=rX \
		--mtime "$(hack/version.sh date)" "$@" | gzip --no-name --best >"${archive}"
}
