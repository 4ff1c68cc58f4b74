// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// results is where reports are kept that people read.
func results(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("TAGGER_RESULTS") //nolint:forbidigo // this is where the tests are told
	if dir == "" {
		dir = t.TempDir()
	}
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestConformance runs the conformance suite of the OCI distribution specification: of its release, and of what comes next.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			program := require(t, "conformance")
			s, namespace := shared(t)
			cmd := s.command(t, program)
			cmd.Dir = t.TempDir()
			cmd.Env = append(cmd.Env, "OCI_REGISTRY="+s.registry, "OCI_USERNAME=anybody", "OCI_PASSWORD="+s.token, "OCI_VERSION="+version,
				"OCI_REPO1="+namespace+"/conformance", "OCI_REPO2="+namespace+"/other", "OCI_RESULTS_DIR="+results(t, "standalone-"+version))
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Pass") {
				t.Fatalf("%v\n%s", err, out)
			}
			if failed := regexp.MustCompile(`(?m)^.*: +(FAIL|Error)$|^ *(FAIL|Error)\.+: +[1-9].*$`).FindAllString(string(out), -1); failed != nil {
				t.Errorf("failed:\n%s", strings.Join(failed, "\n"))
			}
		})
	}
}
