// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// imageManifest is an Image that follows from.
func imageManifest(t *testing.T, from string, more ...string) string {
	t.Helper()
	return file(t, "apiVersion: tagger.dev/v1beta1\nkind: Image\nmetadata:\n  name: app\nspec:\n  from: "+from+"\n"+strings.Join(more, "\n")+"\n")
}

// TestKubectlApplyConflict applies one field as two managers.
func TestKubectlApplyConflict(t *testing.T) { withKubectls(t, kubectlApplyConflict) }

func kubectlApplyConflict(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	apply := func(manager, from string, flags ...string) result {
		return s.try(t, kubectl, append([]string{"-n", namespace, "apply", "--server-side", "--field-manager", manager,
			"-f", imageManifest(t, from)}, flags...)...)
	}
	steps := []struct {
		name          string
		manager, from string
		flags         []string
		refused       bool
		want          string // spec.from
	}{
		{"the first", "ci", "a", nil, false, "a"},
		{"another", "cd", "b", nil, true, "a"},
		{"another that agrees", "cd", "a", nil, false, "a"},
		{"another that insists", "cd", "b", []string{"--force-conflicts"}, false, "b"},
		{"the first again", "ci", "a", nil, true, "b"},
	}
	for _, step := range steps {
		r := apply(step.manager, step.from, step.flags...)
		if refused := r.code != 0; refused != step.refused {
			t.Fatalf("%s: refused: %t, want %t: %+v", step.name, refused, step.refused, r)
		}
		if other := map[string]string{"ci": "cd", "cd": "ci"}[step.manager]; step.refused && (!strings.Contains(r.stderr, `conflict with "`+other+`"`) || !strings.Contains(r.stderr, ".spec.from")) {
			t.Errorf("%s: kubectl does not say who owns which field: %s", step.name, r.stderr)
		}
		if got := s.image(t, namespace, "app").Spec.From; got != step.want {
			t.Errorf("%s: spec.from is %q, want %q", step.name, got, step.want)
		}
	}
}

// TestKubectlDryRun does with --dry-run=server all that kubectl can do, and with kubectl diff. Nothing is stored, and no network
// is reached.
func TestKubectlDryRun(t *testing.T) { withKubectls(t, kubectlDryRun) }

func kubectlDryRun(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	from := out.Reference("app")
	s.run(t, kubectl, "-n", namespace, "apply", "-f", imageManifest(t, from, "  mirror: true"))
	s.settledImport(t, namespace, "app", v1beta1.ImageImportSpec{})
	unchanged, changed := imageManifest(t, from, "  mirror: true"), imageManifest(t, from, "  mirror: true", "  suspend: true")
	imageImport := file(t, "apiVersion: tagger.dev/v1beta1\nkind: ImageImport\nmetadata:\n  name: new\nspec:\n  targetImage: new\n  from: "+from+"\n")
	out.Requests()
	before := s.everything(t, namespace)
	tests := []struct {
		name string
		args []string
		code int
		want string // part of what is printed
	}{
		{"create", []string{"create", "-f", imageImport, "--dry-run=server"}, 0, "created (server dry run)"},
		{"apply", []string{"apply", "-f", changed, "--dry-run=server"}, 0, "configured (server dry run)"},
		{"apply on the server", []string{"apply", "--server-side", "--force-conflicts", "-f", changed, "--dry-run=server", "-o", "jsonpath={.spec.suspend}"}, 0, "true"},
		{"replace", []string{"replace", "-f", changed, "--dry-run=server"}, 0, "replaced (server dry run)"},
		{"patch", []string{"patch", "image/app", "--type=merge", "-p", `{"spec":{"suspend":true}}`, "--dry-run=server"}, 0, "patched"},
		{"label", []string{"label", "image/app", "team=x", "--dry-run=server"}, 0, "labeled (server dry run)"},
		{"annotate", []string{"annotate", "image/app", "team=x", "--dry-run=server"}, 0, "annotated (server dry run)"},
		{"delete", []string{"delete", "image/app", "--dry-run=server"}, 0, "deleted"},
		{"delete all", []string{"delete", "images,imageimports", "--all", "--dry-run=server"}, 0, "deleted"},
		{"diff of no difference", []string{"diff", "-f", unchanged}, 0, ""},
		{"diff", []string{"diff", "-f", changed}, 1, "+  suspend: true"},
		{"diff on the server", []string{"diff", "--server-side", "--force-conflicts", "-f", changed}, 1, "+  suspend: true"},
		{"diff of what is new", []string{"diff", "-f", imageImport}, 1, "+  targetImage: new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := s.try(t, kubectl, append([]string{"-n", namespace}, tt.args...)...)
			if r.code != tt.code || !strings.Contains(r.stdout, tt.want) {
				t.Errorf("exit code %d, want %d, and %q in what is printed: %+v", r.code, tt.code, tt.want, r)
			}
			if diff := cmp.Diff(before, s.everything(t, namespace)); diff != "" {
				t.Errorf("stored (-before +after):\n%s", diff)
			}
		})
	}
	if asked := out.Requests(); len(asked) != 0 {
		t.Errorf("the source was asked for %v", asked)
	}
}

// TestKubectlEdit edits objects with an editor that replaces a text.
func TestKubectlEdit(t *testing.T) { withKubectls(t, kubectlEdit) }

func kubectlEdit(t *testing.T, kubectl string) {
	tests := []struct {
		name      string
		flags     []string
		old, new  string
		want      v1beta1.ImageSpec
		condition string // the reason of Imported
		// fails and says are about kubectl.
		fails bool
		says  string
	}{
		{"spec", nil, "suspend: true", "suspend: false", v1beta1.ImageSpec{}, v1beta1.ReasonImported, false, "edited"},
		{"nothing", nil, "absent", "", v1beta1.ImageSpec{Suspend: true}, v1beta1.ReasonImported, false, "Edit cancelled, no changes made."},
		{"status", nil, "reason: Imported", "reason: Forged", v1beta1.ImageSpec{Suspend: true}, v1beta1.ReasonImported, false, ""},
		{"status, by its subresource", []string{"--subresource=status"}, "reason: Imported", "reason: Corrected",
			v1beta1.ImageSpec{Suspend: true}, "Corrected", false, "edited"},
		{"invalid", nil, "historyLimit: 25", "historyLimit: 26", v1beta1.ImageSpec{Suspend: true}, v1beta1.ReasonImported, true, "is invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Suspend: true})
			s.settledImport(t, namespace, "app", v1beta1.ImageImportSpec{})

			// What is refused is shown to the editor again, which leaves it then.
			editor := filepath.Join(t.TempDir(), "editor")
			script := "#!/bin/sh\nsed 's/" + tt.old + "/" + tt.new + "/' \"$1\" >\"$1.new\" && cat \"$1.new\" >\"$1\" && rm \"$1.new\"\n"
			if err := os.WriteFile(editor, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := s.command(t, kubectl, append([]string{"-n", namespace, "edit", "image", "app"}, tt.flags...)...)
			cmd.Env = append(cmd.Env, "KUBE_EDITOR="+editor, "TMPDIR="+t.TempDir())
			printed, err := cmd.CombinedOutput()
			if failed := err != nil; failed != tt.fails || !strings.Contains(string(printed), tt.says) {
				t.Errorf("failed: %t (%v), want %t, and %q in:\n%s", failed, err, tt.fails, tt.says, printed)
			}
			tt.want.From, tt.want.HistoryLimit = out.Reference("app"), ptr.To(v1beta1.DefaultHistoryLimit)
			image := s.image(t, namespace, "app")
			if diff := cmp.Diff(tt.want, image.Spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.condition, outcomeOf(image.Status.Conditions).Reason); diff != "" {
				t.Errorf("reason (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKubectlLists lists by chunks and labels, and deletes by labels.
func TestKubectlLists(t *testing.T) { withKubectls(t, kubectlLists) }

func kubectlLists(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	s.createImages(t, namespace, "a", "b", "c", "d", "e")
	steps := []struct {
		args []string
		want string
	}{
		{[]string{"get", "images", "--chunk-size=2", "-o", "name"}, "a b c d e"},
		{[]string{"get", "img", "-l", "name in (b,d)", "-o", "name"}, "b d"},
		{[]string{"delete", "images", "-l", "name in (b,d)", "-o", "name"}, "b d"},
		{[]string{"get", "images", "--sort-by=.spec.from", "-o", "name"}, "a c e"},
		{[]string{"delete", "images", "--field-selector=spec.from=quay.io/company/c", "-o", "name"}, "c"},
		{[]string{"delete", "images", "a", "--cascade=foreground", "-o", "name"}, "a"},
		{[]string{"delete", "images", "--all", "--cascade=orphan", "-o", "name"}, "e"},
		{[]string{"get", "images", "-o", "name"}, ""},
	}
	for _, step := range steps {
		printed := s.run(t, kubectl, append([]string{"-n", namespace}, step.args...)...)
		got := strings.Join(strings.Fields(strings.ReplaceAll(printed, "image.tagger.dev/", "")), " ")
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("kubectl %s (-want +got):\n%s", strings.Join(step.args, " "), diff)
		}
	}
}

// TestKubectlWaits waits for what happens while kubectl waits.
func TestKubectlWaits(t *testing.T) { withKubectls(t, kubectlWaits) }

func kubectlWaits(t *testing.T, kubectl string) {
	tests := []struct {
		name, object, condition string
		happens                 func(t *testing.T, s *server, namespace string, open func())
	}{
		{"a condition", "imageimport/slow", "condition=Imported", func(_ *testing.T, _ *server, _ string, open func()) { open() }},
		{"a field", "image/app", "jsonpath={.status.conditions[0].reason}=Imported", func(_ *testing.T, _ *server, _ string, open func()) { open() }},
		{"the end", "image/app", "delete", func(t *testing.T, s *server, namespace string, _ func()) { s.deleteImage(t, namespace, "app") }},
		{"the end of what the Image owns", "imageimport/slow", "delete", func(t *testing.T, s *server, namespace string, _ func()) { s.deleteImage(t, namespace, "app") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			gate := lab.NewGate(t)
			out.Misbehave(gate.Fault)
			s.createImport(t, namespace, "slow", v1beta1.ImageImportSpec{TargetImage: "app", From: out.Reference("app")})
			gate.Await(t)

			var printed logBuffer
			cmd := s.command(t, kubectl, "-n", namespace, "wait", "--for="+tt.condition, tt.object, "--timeout=1m", "--v=6")
			cmd.Stdout, cmd.Stderr = &printed, &printed
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "kubectl watches", func(context.Context) (bool, error) { return strings.Contains(printed.String(), "watch=true"), nil })
			tt.happens(t, s, namespace, gate.Open)
			if err := cmd.Wait(); err != nil {
				t.Errorf("kubectl wait: %v:\n%s", err, printed.String())
			}
		})
	}
}

// TestKubectlWaitForFailure waits for imports that fail.
func TestKubectlWaitForFailure(t *testing.T) { withKubectls(t, kubectlWaitForFailure) }

func kubectlWaitForFailure(t *testing.T, kubectl string) {
	tests := []struct {
		name, condition string
		fault           lab.Fault
		want            int
	}{
		{"for success that does not come", "condition=Imported", lab.Answering(http.StatusNotFound, "text/plain", ""), 1},
		{"for failure that lasts", "condition=Imported=False", lab.Answering(http.StatusOK, "text/html", ""), 0},
		{"for failure that may heal", "condition=Imported=Unknown", lab.Answering(http.StatusNotFound, "text/plain", ""), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Misbehave(tt.fault)
			s.createImport(t, namespace, "failing", v1beta1.ImageImportSpec{TargetImage: "app", From: out.Reference("app")})
			timeout := "--timeout=1m"
			if tt.want != 0 {
				timeout = "--timeout=2s"
			}
			if r := s.try(t, kubectl, "-n", namespace, "wait", "--for="+tt.condition, "imageimport/failing", timeout); r.code != tt.want {
				t.Errorf("exit code %d, want %d: %+v", r.code, tt.want, r)
			}
		})
	}
}
