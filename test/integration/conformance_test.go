// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"testing"

	"tagger.dev/tagger/test/lab"
)

// TestConformance runs the conformance suite of the OCI distribution specification: of its release, and of what comes next.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			program := require(t, "conformance")
			s, namespace := shared(t)
			for _, name := range lab.Conformance(t, program, "standalone-"+version, append(s.command(t, program).Env,
				"OCI_REGISTRY="+s.registry, "OCI_USERNAME=anybody", "OCI_PASSWORD="+s.token, "OCI_VERSION="+version,
				"OCI_REPO1="+namespace+"/conformance", "OCI_REPO2="+namespace+"/other")...) {
				t.Errorf("failed: %s", name)
			}
		})
	}
}
