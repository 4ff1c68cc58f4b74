// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

func TestRollback(t *testing.T) {
	t.Parallel()
	answer := func(change func(*v1beta1.ImageRollbackStatus)) *v1beta1.ImageRollback {
		rollback := &v1beta1.ImageRollback{
			TypeMeta:   metav1.TypeMeta{Kind: "ImageRollback", APIVersion: "tagger.dev/v1beta1"},
			ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "ns"},
			Status: v1beta1.ImageRollbackStatus{HashReference: &v1beta1.HashReference{
				ImageReference: "mirror.example/ns/myapp@" + digest, ImportedAt: metav1.NewTime(now),
			}},
		}
		if change != nil {
			change(&rollback.Status)
		}
		return rollback
	}
	suspends := func(s *v1beta1.ImageRollbackStatus) { s.RefreshSuspended = true }
	const (
		success = "image.tagger.dev/myapp rolled back to " + digest
		resume  = "; its refresh is suspended, resume it with: kubectl patch image myapp --namespace ns --type merge --patch '{\"spec\":{\"suspend\":false}}'"
	)
	tests := []struct {
		name   string
		args   []string
		answer runtime.Object
		spec   v1beta1.ImageRollbackSpec // what is posted
		dryRun bool
		want   result
	}{
		{name: "to the previous", answer: answer(nil), want: result{Stdout: success + "\n"}},
		{
			name: "to a number", args: []string{"--to=3"}, answer: answer(nil),
			spec: v1beta1.ImageRollbackSpec{Number: ptr.To[int32](3)}, want: result{Stdout: success + "\n"},
		},
		{
			name: "to a digest", args: []string{"--to", "sha256:5a3771f19d8e"}, answer: answer(nil),
			spec: v1beta1.ImageRollbackSpec{Digest: "sha256:5a3771f19d8e"}, want: result{Stdout: success + "\n"},
		},
		{name: "the refresh is suspended", answer: answer(suspends), want: result{Stdout: success + resume + "\n"}},
		{
			name: "a dry run", args: []string{"--dry-run=server"}, answer: answer(suspends), dryRun: true,
			want: result{Stdout: success + "; its refresh is suspended (server dry run)\n"},
		},
		{
			name: "nothing changed", args: []string{"--to=1"}, spec: v1beta1.ImageRollbackSpec{Number: ptr.To[int32](1)},
			answer: answer(func(s *v1beta1.ImageRollbackStatus) { s.Unchanged = true }),
			want:   result{Stdout: "image.tagger.dev/myapp unchanged, it was already at " + digest + "\n"},
		},
		{
			name: "its name", args: []string{"-o", "name"}, answer: answer(nil),
			want: result{Stdout: "imagerollback.tagger.dev/myapp\n"},
		},
		{
			name: "a template", args: []string{"-o", "jsonpath={.kind} {.status.hashReference.imageReference}"}, answer: answer(nil),
			want: result{Stdout: "ImageRollback mirror.example/ns/myapp@" + digest},
		},
		{
			name: "refused",
			answer: &apierrors.NewConflict(v1beta1.Resource("images"), "myapp",
				errors.New("the reference cannot be pulled, and nothing was changed: it is gone (NotFound)")).ErrStatus,
			want: result{Code: 1, Stderr: "error: Operation cannot be fulfilled on images.tagger.dev \"myapp\": " +
				"the reference cannot be pulled, and nothing was changed: it is gone (NotFound)\n"},
		},
		{
			name:   "no such image",
			answer: &apierrors.NewNotFound(v1beta1.Resource("images"), "myapp").ErrStatus,
			want:   result{Code: 1, Stderr: "error: images.tagger.dev \"myapp\" not found\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, answer: tt.answer}
			server.start()
			got := server.run(t.Context(), clock.RealClock{}, nil, append([]string{"rollback", "myapp"}, tt.args...)...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			posted := v1beta1.ImageRollback{}
			if err := yaml.UnmarshalStrict([]byte(server.posted), &posted); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.spec, posted.Spec); diff != "" {
				t.Errorf("unexpected request (-want +got):\n%s", diff)
			}
			if dryRun := server.query.Get("dryRun") == metav1.DryRunAll; dryRun != tt.dryRun {
				t.Errorf("dry run: %t, want %t", dryRun, tt.dryRun)
			}
		})
	}
}
