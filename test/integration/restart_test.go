// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestInterruptedMirror stops the server in the middle of a mirror, in one way or another, and starts it again.
func TestInterruptedMirror(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		flags []string
		// interrupt ends the server while the source hangs; release lets the source go on.
		interrupt func(s *server, release func()) error
	}{
		{
			name:      "kill -9",
			interrupt: func(s *server, _ func()) error { return s.kill() },
		},
		{
			name:      "SIGTERM, the source answers too late",
			flags:     []string{"--drain-timeout", "500ms"},
			interrupt: func(s *server, _ func()) error { return s.stop() },
		},
		{
			name: "SIGTERM, the source answers in time",
			interrupt: func(s *server, release func()) error {
				draining := func() {
					_ = poll(func(context.Context) (bool, error) { return s.logged("Letting imports end"), nil })
					release()
				}
				go draining()
				return s.stop()
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, t.TempDir(), tt.flags...)
			namespace := newNamespace()
			out := lab.New(t, lab.TrustedTLS)
			index := newIndex(t, ociTypes)
			out.Push(t, "app", index)
			want := readAll(t, out.Name(t, "app"), out.Options()...)

			for i := range 5 {
				name := fmt.Sprintf("other-%d", i)
				s.mustImport(t, namespace, name, v1beta1.ImageImportSpec{From: out.Reference("app")}, v1beta1.ReasonImported)
			}
			before := s.images(t, namespace)
			gate := lab.NewGate(t)
			out.Misbehave(lab.Only(lab.Blobs, gate.Fault))
			imp := s.createImport(t, namespace, "interrupted", v1beta1.ImageImportSpec{
				TargetImage: "app", From: out.Reference("app"), Mirror: ptr.To(true)})
			gate.Await(t)
			claimed := s.awaitImport(t, namespace, imp.Name, func(*v1beta1.ImageImport) bool { return true })
			if claimed.Status.Claim == nil {
				t.Fatal("nobody has claimed an import that runs")
			}
			if err := tt.interrupt(s, gate.Open); err != nil {
				t.Fatalf("the server did not end as it should: %v", err)
			}
			gate.Open()

			s = s.again(t)
			began := time.Now()
			s.awaitImport(t, namespace, imp.Name, func(current *v1beta1.ImageImport) bool {
				return current.Status.Claim != nil && *current.Status.Claim != *claimed.Status.Claim || current.Status.CompletionTime != nil
			})
			// Nobody else can have the claim of the server that was killed: it is not waited for.
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("claimed again %s after the start", took)
			}
			finished := s.finished(t, namespace, imp.Name)
			if finished.Status.Claim != nil {
				t.Errorf("it has finished, and is claimed by %v", finished.Status.Claim)
			}
			dgst := digestOf(t, index)
			wantOutcome := outcome{metav1.ConditionTrue, v1beta1.ReasonImported, out.Reference("app") + " means " + dgst}
			if diff := cmp.Diff(wantOutcome, outcomeOf(finished.Status.Conditions)); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if finished.UID != imp.UID || len(finished.Status.ImportAttempts) != 1 {
				t.Errorf("UID %s, want %s; attempts %+v, want one: an interruption is none", finished.UID, imp.UID, finished.Status.ImportAttempts)
			}
			if diff := cmp.Diff([]string{s.mirrored(namespace, "app", dgst)}, s.history(t, namespace, "app")); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			after := s.images(t, namespace)
			delete(after, "app")
			// An answered import may still be remembered for a moment.
			if diff := cmp.Diff(before, after, cmpopts.IgnoreFields(v1beta1.ImageStatus{}, "RecordedImports"),
				cmpopts.IgnoreFields(metav1.ObjectMeta{}, "ResourceVersion", "ManagedFields")); diff != "" {
				t.Errorf("other Images (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(want, s.pull(t, s.mirrored(namespace, "app", dgst))); diff != "" {
				t.Errorf("pulled (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKilledAgainAndAgain kills the server at several points of many imports. Each is recorded once.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	const images = 8
	out := lab.New(t, lab.TrustedTLS)
	want := map[string][]string{}
	s := start(t, t.TempDir())
	namespace := newNamespace()
	for i := range images {
		name := fmt.Sprintf("app-%d", i)
		image := newImage(t, ociTypes, "amd64")
		out.Push(t, name, image)
		want[name] = []string{s.mirrored(namespace, name, digestOf(t, image))}
	}
	for name := range want {
		s.createImport(t, namespace, name+"-import", v1beta1.ImageImportSpec{TargetImage: name, From: out.Reference(name), Mirror: ptr.To(true)})
	}
	for _, more := range []int{3, 8, 12} { // requests between two kills
		seen := 0
		eventually(t, "the source is asked, or all is done", func(ctx context.Context) (bool, error) {
			for _, n := range out.Requests() {
				seen += n
			}
			list, err := s.api.TaggerV1beta1().ImageImports(namespace).List(ctx, metav1.ListOptions{})
			return seen >= more || err == nil && allFinished(list), err
		})
		if err := s.kill(); err != nil {
			t.Fatal(err)
		}
		s = s.again(t)
	}
	got := map[string][]string{}
	for name := range want {
		imp := s.finished(t, namespace, name+"-import")
		if outcome := outcomeOf(imp.Status.Conditions); outcome.Status != metav1.ConditionTrue {
			t.Errorf("%s: %+v", name, outcome)
		}
		got[name] = s.history(t, namespace, name)
		s.pull(t, s.mirrored(namespace, name, want[name][0][len(want[name][0])-len("sha256:")-64:]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("histories (-want +got):\n%s", diff)
	}
}

func allFinished(list *v1beta1.ImageImportList) bool {
	for i := range list.Items {
		if list.Items[i].Status.CompletionTime == nil {
			return false
		}
	}
	return true
}

// TestSlowImportAnswersInTime imports from a source that takes longer than the call may wait.
func TestSlowImportAnswersInTime(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, timeout string
		leave         bool // the client goes away before it is answered
	}{
		{"the client waits", "6s", false},
		{"the client goes away", "60s", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			image := newImage(t, ociTypes, "amd64")
			out.Push(t, "app", image)
			gate := lab.NewGate(t)
			out.Misbehave(lab.Only(lab.Blobs, gate.Fault))
			s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Mirror: true})

			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			if tt.leave {
				go func() { <-gate.Reached(); leave() }()
			}
			answered := &v1beta1.ImageImport{}
			began := time.Now()
			err := s.rest().Post().Namespace(namespace).Resource("images").Name("app").SubResource("import").
				Param("timeout", tt.timeout).Body(&v1beta1.ImageImport{}).Do(ctx).Into(answered)
			if took := time.Since(began); took < 3*time.Second && !tt.leave {
				t.Errorf("answered after %s, want two seconds before the deadline of six", took)
			}
			switch {
			case tt.leave && err == nil:
				t.Error("the client was answered although it went away")
			case !tt.leave && err != nil:
				t.Fatal(err)
			case !tt.leave && (answered.Status.CompletionTime != nil || outcomeOf(answered.Status.Conditions).Status != metav1.ConditionUnknown):
				t.Errorf("answer %+v, want it in progress", answered.Status)
			}
			list, err := s.api.TaggerV1beta1().ImageImports(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 1 {
				t.Fatalf("%d ImageImports, %v; want the one that was asked for", len(list.Items), err)
			}
			gate.Open()
			finished := s.finished(t, namespace, list.Items[0].Name)
			if diff := cmp.Diff(metav1.ConditionTrue, outcomeOf(finished.Status.Conditions).Status); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{s.mirrored(namespace, "app", digestOf(t, image))}, s.history(t, namespace, "app")); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
		})
	}
}

// images returns the Images of a namespace by name.
func (s *server) images(t *testing.T, namespace string) map[string]v1beta1.Image {
	t.Helper()
	list, err := s.api.TaggerV1beta1().Images(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]v1beta1.Image{}
	for _, image := range list.Items {
		images[image.Name] = image
	}
	return images
}

// TestStoppedAtOnce asks a server to end as soon as it says that it serves. That is no failure.
func TestStoppedAtOnce(t *testing.T) {
	t.Parallel()
	s, err := spawn(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.kill() })
	eventually(t, "the server serves", func(context.Context) (bool, error) { return s.logged(`"Serving"`), nil })
	if err := s.stop(); err != nil {
		t.Errorf("stopping the server: %v; its log:\n%s", err, s.log)
	}
}
