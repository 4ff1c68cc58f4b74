// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package version says which version of Tagger this is. It is stamped by the linker, and apart from Kubernetes' own version
// package, whose value decides which features of the API machinery are on.
package version

import (
	"runtime"
	"strconv"

	"k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
)

// Set by -ldflags "-X tagger.dev/tagger/pkg/version.gitVersion=…".
var (
	gitVersion   = "v0.0.0-unstamped"
	gitCommit    = ""
	gitTreeState = ""
	buildDate    = "1970-01-01T00:00:00Z"
)

// Info is the version in the form that /version answers.
func Info() apimachineryversion.Info {
	info := apimachineryversion.Info{
		GitVersion:   gitVersion,
		GitCommit:    gitCommit,
		GitTreeState: gitTreeState,
		BuildDate:    buildDate,
		GoVersion:    runtime.Version(),
		Compiler:     runtime.Compiler,
		Platform:     runtime.GOOS + "/" + runtime.GOARCH,
	}
	if parsed, err := version.ParseSemantic(gitVersion); err == nil {
		info.Major, info.Minor = strconv.FormatUint(uint64(parsed.Major()), 10), strconv.FormatUint(uint64(parsed.Minor()), 10)
	}
	return info
}

// UserAgent is how a program of Tagger names itself to other servers.
func UserAgent(program string) string {
	return program + "/" + gitVersion + " (" + runtime.GOOS + "/" + runtime.GOARCH + ")"
}
