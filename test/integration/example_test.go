// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/test/lab"
)

// TestExample builds the example program of docs/examples/client, which is a module of its own, and runs it against a server.
func TestExample(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "example")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = "../../docs/examples/client"
	if printed, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v:\n%s", err, printed)
	}
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	image := newIndex(t, ociTypes)
	out.Push(t, "app", image)
	tests := []struct {
		name, from string
		mirror     bool
		want       string
		says       string // on failure
	}{
		{"mirrored", out.Reference("app"), true, s.mirrored(namespace, "mirrored", digestOf(t, image)), ""},
		{"recorded", out.Reference("app"), false, out.Reference("app") + "@" + digestOf(t, image), ""},
		{"absent", out.Reference("absent"), false, "", "NotFound"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"-namespace", namespace, "-from", tt.from}
			if tt.mirror {
				args = append(args, "-mirror")
			}
			r := s.try(t, program, append(args, tt.name)...)
			if failed := r.code != 0; failed != (tt.says != "") || !strings.Contains(r.stderr, tt.says) {
				t.Fatalf("the example: %+v, want %q in its error", r, tt.says)
			}
			if diff := cmp.Diff(tt.want, strings.TrimSpace(r.stdout)); diff != "" {
				t.Errorf("printed (-want +got):\n%s", diff)
			}
			manager, want := s.image(t, namespace, tt.name).ManagedFields[0], "tagger-example"
			if manager.Manager != want || manager.Operation != metav1.ManagedFieldsOperationApply {
				t.Errorf("the spec is owned by %s %s, want Apply by %s", manager.Operation, manager.Manager, want)
			}
		})
	}
}
