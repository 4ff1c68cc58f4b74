// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
)

// TestUsage holds that what is typed wrongly is refused in two lines, before anything is sent.
func TestUsage(t *testing.T) {
	t.Parallel()
	const (
		seeRoot    = "See 'kubectl image --help' for usage.\n"
		seeImport  = "See 'kubectl image import --help' for usage.\n"
		seeHistory = "See 'kubectl image history --help' for usage.\n"
		seeBack    = "See 'kubectl image rollback --help' for usage.\n"
	)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{name: "no such verb", args: []string{"frobnicate"}, want: "error: unknown command \"frobnicate\"\n" + seeRoot},
		{name: "a mistyped verb", args: []string{"imprt"}, want: "error: unknown command \"imprt\", did you mean \"import\"?\n" + seeRoot},
		{name: "no name", args: []string{"import"}, want: "error: the NAME of an image is required\n" + seeImport},
		{name: "two names", args: []string{"history", "a", "b"}, want: "error: one NAME is expected, not 2 arguments: [\"a\" \"b\"]\n" + seeHistory},
		{name: "an empty name", args: []string{"history", ""}, want: "error: the NAME of an image must not be empty\n" + seeHistory},
		{name: "no such flag", args: []string{"import", "myapp", "--form=x"}, want: "error: unknown flag: --form\n" + seeImport},
		{name: "an empty reference", args: []string{"import", "myapp", "--from="}, want: "error: --from must not be empty\n" + seeImport},
		{
			name: "no such dry run", args: []string{"import", "myapp", "--dry-run=client"},
			want: "error: --dry-run must be \"none\" or \"server\", not \"client\"\n" + seeImport,
		},
		{name: "nothing to roll back to", args: []string{"rollback", "myapp", "--to="}, want: "error: --to must not be empty\n" + seeBack},
		{
			name: "neither digest nor number", args: []string{"rollback", "myapp", "--to=latest"},
			want: "error: --to must be a digest, such as sha256:5a3771f19d8e, or a number, not \"latest\"\n" + seeBack,
		},
		{
			name: "no number that there could be", args: []string{"rollback", "myapp", "--to=99999999999"},
			want: "error: --to must be a digest, such as sha256:5a3771f19d8e, or a number, not \"99999999999\"\n" + seeBack,
		},
		{
			name: "no such dry run of a rollback", args: []string{"rollback", "myapp", "--dry-run=client"},
			want: "error: --dry-run must be \"none\" or \"server\", not \"client\"\n" + seeBack,
		},
		{
			name: "no such format", args: []string{"history", "myapp", "-o", "wiide"},
			want: "error: unable to match a printer suitable for the output format \"wiide\", allowed formats are: " +
				"go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,yaml\n" + seeHistory,
		},
		{
			name: "no shell", args: []string{"completion"},
			want: "error: one SHELL is expected: bash, fish, powershell or zsh\nSee 'kubectl image completion --help' for usage.\n",
		},
		{
			name: "no such shell", args: []string{"completion", "csh"},
			want: "error: there is no completion for the shell \"csh\", but for bash, fish, powershell and zsh\nSee 'kubectl image completion --help' for usage.\n",
		},
		{
			name: "no such context", args: []string{"history", "myapp", "--context=gone"},
			want: "error: invalid configuration: context was not found for specified context: gone\n",
		},
		{
			name: "nobody listens", args: []string{"history", "myapp", "--server=http://127.0.0.1:1"},
			want: "error: The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, address: "127.0.0.1:9"} // nothing is sent there
			got := server.run(t.Context(), clock.RealClock{}, nil, tt.args...)
			if diff := cmp.Diff(result{Stderr: tt.want, Code: 1}, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
		})
	}
}

// TestServesNoAPI holds that a server without Tagger is told apart from an Image that does not exist.
func TestServesNoAPI(t *testing.T) {
	t.Parallel()
	server := &api{t: t}
	server.start()
	got := server.run(t.Context(), clock.RealClock{}, nil, "history", "myapp", "--namespace=other")
	want := result{Code: 1, Stderr: "error: the server does not serve tagger.dev/v1beta1\n" +
		"Is Tagger installed there? See: kubectl get apiservice v1beta1.tagger.dev\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected result (-want +got):\n%s", diff)
	}
}

// TestHelp holds that help goes to standard output, and that kubectl's own flags are apart from a command's.
func TestHelp(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		args          []string
		want, wantNot []string
	}{
		{
			name: "no arguments", want: []string{"\n  history ", "\n  import ", "\n  rollback ", "kubectl image COMMAND [options]"},
			wantNot: []string{"--kubeconfig", "kubectl-image"},
		},
		{
			name: "a verb", args: []string{"import", "--help"},
			want:    []string{"\nExamples:\n", "kubectl image import NAME", "--insecure-source", `Use "kubectl image options"`},
			wantNot: []string{"--kubeconfig", "kubectl-image"},
		},
		{
			name: "going back", args: []string{"rollback", "--help"},
			want:    []string{"\nExamples:\n", "kubectl image rollback NAME [--to=DIGEST|N]", "--dry-run", "--output", "suspended"},
			wantNot: []string{"--kubeconfig", "kubectl-image"},
		},
		{name: "the options of all verbs", args: []string{"options"}, want: []string{"--kubeconfig", "--context", "--namespace", "--token"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, address: "127.0.0.1:9"}
			args := tt.args
			got := server.run(t.Context(), clock.RealClock{}, nil, args...)
			if got.Code != 0 || got.Stderr != "" {
				t.Errorf("unexpected exit code %d, and on standard error %q", got.Code, got.Stderr)
			}
			for _, text := range tt.want {
				if !strings.Contains(got.Stdout, text) {
					t.Errorf("%q is missing in:\n%s", text, got.Stdout)
				}
			}
			for _, text := range tt.wantNot {
				if strings.Contains(got.Stdout, text) {
					t.Errorf("%q is unexpected in:\n%s", text, got.Stdout)
				}
			}
		})
	}
}
