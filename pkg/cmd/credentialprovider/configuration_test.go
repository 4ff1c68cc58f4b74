// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package credentialprovider

import (
	"os"
	"strings"
	"testing"
)

// TestConfiguration: what docs/nodes.md shows is what the files have that the end-to-end tests run, but for comments.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../../docs/nodes.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := withoutComments(string(document))
	for _, name := range []string{"credential-provider.yaml", "hosts.toml"} {
		file, err := os.ReadFile("../../../artifacts/nodes/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if want := withoutComments(string(file)); !strings.Contains(shown, want) {
			t.Errorf("%s is not in docs/nodes.md:\n%s", name, want)
		}
	}
}

// withoutComments returns the lines that have more than a comment.
func withoutComments(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimRight(line, " \n"); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
