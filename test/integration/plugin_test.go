// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tagger.dev/tagger/test/lab"
)

// TestPlugin runs kubectl image as kubectl finds it: an import, another one after the tag has moved, and the history.
func TestPlugin(t *testing.T) { withKubectls(t, plugin) }

func plugin(t *testing.T, kubectl string) {
	require(t, "kubectl-image")
	s, namespace := shared(t)
	out := lab.New(t, lab.PlainHTTP)
	run := func(args ...string) string {
		return strings.TrimSpace(s.run(t, kubectl, append([]string{"image", "-n", namespace}, args...)...))
	}
	const reference = "jsonpath={.status.hashReference.imageReference}"

	first, second := newIndex(t, ociTypes), newIndex(t, ociTypes)
	firstWant, secondWant := s.mirrored(namespace, "app", digestOf(t, first)), s.mirrored(namespace, "app", digestOf(t, second))
	out.Push(t, "app", first)
	if diff := cmp.Diff(firstWant, run("import", "app", "--from", out.Reference("app"), "--mirror", "--insecure-source", "-o", reference)); diff != "" {
		t.Errorf("first import (-want +got):\n%s", diff)
	}
	// Flags that are absent are as the Image says.
	out.Push(t, "app", second)
	if diff := cmp.Diff(secondWant, run("import", "app", "-o", reference)); diff != "" {
		t.Errorf("second import (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{secondWant, firstWant}, s.history(t, namespace, "app")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	history := run("history", "app")
	newer, older := strings.Index(history, digestOf(t, second)[:len("sha256:")+12]), strings.Index(history, digestOf(t, first)[:len("sha256:")+12])
	if newer < 0 || older < newer {
		t.Errorf("kubectl image history shows not both digests, newest first:\n%s", history)
	}
	client, server, _ := strings.Cut(run("version"), "\n")
	if version := strings.TrimPrefix(client, "Client Version: "); version == client || server != "Server Version: "+version {
		t.Errorf("kubectl image version prints %q and %q, want one version", client, server)
	}
	names := s.run(t, kubectl, "__complete", "image", "--namespace", namespace, "history", "")
	if want := "app\t" + out.Reference("app") + "\n:4\n"; names != want {
		t.Errorf("kubectl completes %q, want %q", names, want)
	}
}

// TestPluginFails runs imports that fail: a line says why, and the exit code is 1.
func TestPluginFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		want string // a part of the line
	}{
		{"unknown Image", []string{"unknown"}, "say where to import it from"},
		{"malformed reference", []string{"app", "--from", "quay.io/Team/App"}, "upper-case"},
		{"unknown tag", []string{"app", "--from", "REFERENCE"}, "not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require(t, "kubectl")
			require(t, "kubectl-image")
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Misbehave(lab.Answering(http.StatusNotFound, "application/json", errorBody("MANIFEST_UNKNOWN")))
			args := []string{"image", "-n", namespace, "import"}
			for _, arg := range tt.args {
				args = append(args, strings.ReplaceAll(arg, "REFERENCE", out.Reference("app")))
			}
			r := s.try(t, "kubectl", args...)
			line, _, _ := strings.Cut(r.stderr, "\n") // what may follow is how to look at the attempts that go on
			if r.code != 1 || r.stdout != "" || !strings.HasPrefix(line, "error: ") || !strings.Contains(line, tt.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and a line with %q", r.code, r.stdout, r.stderr, tt.want)
			}
			if strings.Contains(r.stderr, marker) {
				t.Errorf("it repeats what the registry said: %q", r.stderr)
			}
		})
	}
}
