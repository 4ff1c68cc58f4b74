// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"encoding/xml"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/front"
)

// anybody lets everybody do everything.
type anybody struct{}

func (anybody) Authorize(ctx context.Context, _ distribution.Credentials, _ distribution.Repository, _ distribution.Action) (context.Context, error) {
	return ctx, nil
}

// serveFront serves the registry endpoint in front of mirrors, in plain HTTP, and returns its address.
func serveFront(t *testing.T, mirrors front.Mirrors) string {
	t.Helper()
	backend := front.New(front.Config{Mirrors: mirrors, Keys: func(context.Context) ([][]byte, error) { return [][]byte{make([]byte, front.KeyBytes)}, nil }, Clock: clock.RealClock{}})
	server := httptest.NewServer(distribution.New(backend, anybody{}, distribution.Options{}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// beyondDistribution is what the registry of the distribution project cannot do itself, by the beginning of what the suite calls it.
var beyondDistribution = map[string]string{
	"sha512/":                   "it keeps manifests by sha256 alone",
	"tag-param-sha512/":         "it keeps manifests by sha256 alone", // of the next version
	"non-distributable-layers/": "it answers 500 to a manifest that names layers to be had elsewhere",
}

// TestConformanceInFrontOfDistribution runs the conformance suite of the OCI distribution specification against the endpoint in front of
// a registry that people run. Of what that registry lets nobody do, delete tags, the suite says that it is skipped.
func TestConformanceInFrontOfDistribution(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			program := require(t, "conformance")
			host := serveFront(t, startDistribution(t).locator())
			dir := results(t, "distribution-"+version)
			cmd := exec.CommandContext(t.Context(), program)
			cmd.Dir = t.TempDir()
			cmd.Env = append(cmd.Environ(), "OCI_REGISTRY="+host, "OCI_TLS=disabled", "OCI_VERSION="+version,
				"OCI_REPO1=ns/conformance", "OCI_REPO2=ns/other", "OCI_RESULTS_DIR="+dir)
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), "Pass") {
				t.Fatalf("%v\n%s", err, out)
			}
			failed, missed := failures(t, filepath.Join(dir, "junit.xml")), map[string]bool{}
			for _, name := range failed {
				beyond := false
				for beginning := range beyondDistribution {
					if strings.HasPrefix(name, beginning) {
						beyond, missed[beginning] = true, true
					}
				}
				if !beyond {
					t.Errorf("failed: %s", name)
				}
			}
			for beginning, why := range beyondDistribution {
				if version == "dev" && !missed[beginning] {
					t.Errorf("%s passes now, where %s", beginning, why)
				}
			}
		})
	}
}

// failures returns the names of the tests that a report says have failed.
func failures(t *testing.T, path string) []string {
	t.Helper()
	var report struct {
		Suites []struct {
			Tests []struct {
				Name   string `xml:"name,attr"`
				Status string `xml:"status,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(must(os.ReadFile(path))(t), &report); err != nil {
		t.Fatal(err)
	}
	var failed []string
	count := 0
	for _, suite := range report.Suites {
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
	return failed
}
