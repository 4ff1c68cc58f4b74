// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// TestCompletion is what a shell offers when the tab key is pressed.
func TestCompletion(t *testing.T) {
	t.Parallel()
	image := &v1beta1.Image{
		TypeMeta:   metav1.TypeMeta{Kind: "Image", APIVersion: "tagger.dev/v1beta1"},
		ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "ns"}, Spec: v1beta1.ImageSpec{From: "quay.io/company/myapp"},
	}
	for i := range 2 {
		image.Status.HashReferences = append(image.Status.HashReferences, v1beta1.HashReference{
			ImageReference: "mirror.example/ns/myapp@" + digest, ImportedAt: metav1.NewTime(now.Add(-time.Duration(i) * time.Hour)),
		})
	}
	other := image.DeepCopy()
	other.Name = "other"
	server := &api{t: t, image: image, documents: map[string]any{
		"/apis/tagger.dev/v1beta1/namespaces/ns/images": v1beta1.ImageList{Items: []v1beta1.Image{*image, *other}},
		"/api/v1/namespaces": metav1.PartialObjectMetadataList{Items: []metav1.PartialObjectMetadata{
			{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, {ObjectMeta: metav1.ObjectMeta{Name: "ns"}},
		}},
	}}
	server.start()
	names := []string{"myapp\tquay.io/company/myapp", "other\tquay.io/company/myapp", ":4"}
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{name: "verbs", args: []string{""}, want: []string{
			"completion\tHave the shell complete names of images, entries of histories, and flags",
			"help\tHelp about any command",
			"history\tShow which digests an image's tag has meant, and since when",
			"import\tImport an image: record what its tag means now, and mirror it where asked",
			"login\tLet docker, podman and others into the registry port of the cluster",
			"pull\tPull an image of the cluster to this machine",
			"push\tPush an image of this machine into the cluster",
			"rollback\tGo back to an earlier digest of an image's history",
			"version\tPrint the versions of the plugin and of Tagger in the cluster", ":4",
		}},
		{name: "names for import", args: []string{"import", ""}, want: names},
		{name: "names for history", args: []string{"history", ""}, want: names},
		{name: "names for push", args: []string{"push", ""}, want: names},
		{name: "sources", args: []string{"push", "myapp", "--from", ""}, want: []string{
			"oci:", "oci-archive:", "docker-archive:", "docker-daemon:", "containers-storage:", ":2",
		}},
		{name: "files of a source", args: []string{"push", "myapp", "--from", "oci:"}, want: []string{":0"}},
		{name: "ways", args: []string{"pull", "myapp", "--via", ""}, want: []string{"auto", "registry", "apiserver", ":4"}},
		{name: "names for rollback", args: []string{"rollback", ""}, want: names},
		{name: "a name is enough", args: []string{"history", "myapp", ""}, want: []string{":4"}},
		{name: "entries", args: []string{"rollback", "myapp", "--to", ""}, want: []string{
			"1\tsha256:" + digest[7:19] + ", imported 0s ago", "2\tsha256:" + digest[7:19] + ", imported 60m ago", ":36",
		}},
		{name: "entries of an image that is not there", args: []string{"rollback", "gone", "--to", ""}, want: []string{":33"}},
		{name: "no file is a reference", args: []string{"import", "myapp", "--from", ""}, want: []string{":4"}},
		{name: "dry runs", args: []string{"import", "myapp", "--dry-run", ""}, want: []string{"none", "server", ":4"}},
		{name: "formats", args: []string{"version", "--output", ""}, want: []string{"json", "yaml", ":4"}},
		{name: "namespaces", args: []string{"history", "--namespace", ""}, want: []string{"default", "ns", ":4"}},
		{name: "contexts", args: []string{"history", "--context", ""}, want: []string{"it", ":4"}},
		{name: "shells", args: []string{"completion", ""}, want: []string{"bash", "fish", "powershell", "zsh", ":4"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := server.run(t.Context(), clocktesting.NewFakeClock(now), nil, CompletionArgs(tt.args)...)
			if diff := cmp.Diff(tt.want, strings.Split(strings.TrimSpace(got.Stdout), "\n")); diff != "" || got.Code != 0 {
				t.Errorf("unexpected completions, code %d, %s (-want +got):\n%s", got.Code, got.Stderr, diff)
			}
		})
	}
}

// TestCompletionScripts holds that there is one for each shell, for the plugin by its own name.
func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{
		"bash": "complete -o default -F __start_kubectl-image kubectl-image", "fish": "complete -c kubectl-image",
		"powershell": "Register-ArgumentCompleter -CommandName 'kubectl-image'", "zsh": "#compdef kubectl-image",
	} {
		server := &api{t: t, address: "127.0.0.1:9"}
		got := server.run(t.Context(), clocktesting.NewFakeClock(now), nil, "completion", shell)
		if got.Code != 0 || got.Stderr != "" || !strings.Contains(got.Stdout, want) || !strings.Contains(got.Stdout, cobra.ShellCompRequestCmd) {
			t.Errorf("%s: code %d, %q, want %q in:\n%s", shell, got.Code, got.Stderr, want, got.Stdout)
		}
	}
}
