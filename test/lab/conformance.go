// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Conformance runs the conformance suite of the OCI Distribution Specification, which env tells what to try, and returns the names of
// the tests that have failed. Its report is kept by a name in the folder that TAGGER_RESULTS says, where people read it.
func Conformance(t *testing.T, program, name string, env ...string) []string {
	t.Helper()
	dir := os.Getenv("TAGGER_RESULTS") //nolint:forbidigo // this is where the tests are told
	if dir == "" {
		dir = t.TempDir()
	}
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil { //nolint:gosec // who runs the tests says where
		t.Fatal(err)
	}
	report := filepath.Join(dir, "junit.xml")
	if err := os.RemoveAll(report); err != nil { //nolint:gosec // ours, of an earlier run
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = t.TempDir()
	cmd.Env = append(append(cmd.Environ(), env...), "OCI_RESULTS_DIR="+dir)
	out, failure := cmd.CombinedOutput()
	if !strings.Contains(string(out), "Pass") {
		t.Fatalf("%v\n%s", failure, out)
	}
	raw, err := os.ReadFile(report) //nolint:gosec // of our own program
	if err != nil {
		t.Fatal(err)
	}
	var results struct {
		Suites []struct {
			Tests []struct {
				Name   string `xml:"name,attr"`
				Status string `xml:"status,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(raw, &results); err != nil { //nolint:gosec // of our own program
		t.Fatal(err)
	}
	var failed []string
	count := 0
	for _, suite := range results.Suites {
		for _, test := range suite.Tests {
			count++
			if test.Status == "failure" || test.Status == "error" {
				failed = append(failed, strings.TrimPrefix(test.Name, "OCI Conformance Test/"))
			}
		}
	}
	if count < 100 {
		t.Fatalf("the report has %d tests", count)
	}
	if failure != nil && len(failed) == 0 { // which is of no test
		t.Fatalf("%v\n%s", failure, out)
	}
	return failed
}
