// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package version

import (
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
)

// TestVersion stamps the version as the linker does, and so cannot run beside others.
func TestVersion(t *testing.T) {
	unstamped := gitVersion
	t.Cleanup(func() { gitVersion = unstamped })

	platform := runtime.GOOS + "/" + runtime.GOARCH
	tests := []struct {
		name, version, major, minor string
	}{
		{name: "unstamped", version: unstamped, major: "0", minor: "0"},
		{name: "release", version: "v3.14.1", major: "3", minor: "14"},
		{name: "between releases", version: "v3.14.1-7-g0123abc-dirty", major: "3", minor: "14"},
		{name: "not semantic", version: "0123abc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			gitVersion = tt.version
			want := apimachineryversion.Info{
				Major: tt.major, Minor: tt.minor, GitVersion: tt.version, BuildDate: "1970-01-01T00:00:00Z",
				GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: platform,
			}
			if diff := cmp.Diff(want, Info()); diff != "" {
				t.Errorf("version (-want +got):\n%s", diff)
			}
			if got, want := UserAgent("kubectl-image"), "kubectl-image/"+tt.version+" ("+platform+")"; got != want {
				t.Errorf("user agent %q, want %q", got, want)
			}
		})
	}
}
