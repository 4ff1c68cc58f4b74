// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
)

// kubectl is one of those that the tests drive.
type kubectl struct {
	program, version string
}

// findKubectls returns the kubectl of PATH and the one that TAGGER_KUBECTL names, which make builds from source. They are the
// same where there is no other.
var findKubectls = sync.OnceValues(func() ([]kubectl, error) {
	var found []kubectl
	for _, candidate := range []string{"kubectl", builtKubectl()} {
		program, err := exec.LookPath(candidate)
		if err != nil || slices.ContainsFunc(found, func(k kubectl) bool { return k.program == program }) {
			continue
		}
		printed, err := exec.Command(program, "version", "--client", "-o", "json").Output()
		if err != nil {
			return nil, fmt.Errorf("%s version: %w", program, err)
		}
		var version struct {
			ClientVersion struct {
				GitVersion string `json:"gitVersion"`
			} `json:"clientVersion"`
		}
		if err := json.Unmarshal(printed, &version); err != nil {
			return nil, fmt.Errorf("%s version: %w", program, err)
		}
		found = append(found, kubectl{program, version.ClientVersion.GitVersion})
	}
	return found, nil
})

func builtKubectl() string {
	return os.Getenv("TAGGER_KUBECTL") //nolint:forbidigo // this is where the tests are told
}

// withKubectls runs a test with every kubectl there is, each as a subtest that has the version for its name.
func withKubectls(t *testing.T, test func(t *testing.T, kubectl string)) {
	t.Helper()
	t.Parallel()
	require(t, "kubectl")
	if built := builtKubectl(); built != "" || clientsRequired() {
		require(t, built)
	}
	found, err := findKubectls()
	if err != nil {
		t.Fatal(err)
	}
	for _, kubectl := range found {
		t.Run(kubectl.version, func(t *testing.T) {
			t.Parallel()
			test(t, kubectl.program)
		})
	}
}
