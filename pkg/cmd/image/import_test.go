// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

const digest = "sha256:5a3771f19d8e0ffaf3dd1ea010fdbae67d49864c2b8c75830b1d996132e3af22"

// anImport returns an import as the server would.
func anImport(reason string, change ...func(*v1beta1.ImageImport)) *v1beta1.ImageImport {
	imp := &v1beta1.ImageImport{
		TypeMeta:   metav1.TypeMeta{Kind: "ImageImport", APIVersion: "tagger.dev/v1beta1"},
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0a1b2c3d", Namespace: "ns", UID: "1", ResourceVersion: "7"},
		Spec: v1beta1.ImageImportSpec{TargetImage: "myapp", From: "quay.io/company/myapp:latest",
			Mirror: ptr.To(false), Insecure: ptr.To(false)},
		Status: v1beta1.ImageImportStatus{Conditions: []metav1.Condition{
			{Type: v1beta1.ConditionImported, Status: metav1.ConditionUnknown, Reason: reason},
		}},
	}
	for _, f := range change {
		f(imp)
	}
	return imp
}

// failed adds failed attempts, of which another one follows in no time.
func failed(messages ...string) func(*v1beta1.ImageImport) {
	return func(imp *v1beta1.ImageImport) {
		for _, message := range messages {
			imp.Status.ImportAttempts = append(imp.Status.ImportAttempts, v1beta1.ImportAttempt{When: metav1.NewTime(now), Reason: message})
		}
		imp.Status.NextAttemptTime = ptr.To(metav1.NewTime(now.AddDate(-10, 0, 0)))
	}
}

// running adds failed attempts, of which another one follows that runs.
func running(messages ...string) func(*v1beta1.ImageImport) {
	return func(imp *v1beta1.ImageImport) {
		failed(messages...)(imp)
		imp.Status.NextAttemptTime = nil
	}
}

// over ends an import that succeeded, if ok, or failed.
func over(ok bool) func(*v1beta1.ImageImport) {
	return func(imp *v1beta1.ImageImport) {
		imp.Status.NextAttemptTime, imp.Status.Progress = nil, nil
		imp.Status.CompletionTime = ptr.To(metav1.NewTime(now))
		imp.Status.Conditions[0].Status = metav1.ConditionFalse
		if ok {
			imp.Status.Conditions[0].Status = metav1.ConditionTrue
			imp.Status.ImportAttempts = append(imp.Status.ImportAttempts, v1beta1.ImportAttempt{When: metav1.NewTime(now), Succeed: true})
			imp.Status.HashReference = &v1beta1.HashReference{
				From: imp.Spec.From, ImageReference: "mirror.example/ns/myapp@" + digest, ImportedAt: metav1.NewTime(now),
			}
		}
	}
}

func mirrored(imp *v1beta1.ImageImport) { imp.Spec.Mirror = ptr.To(true) }

func progressed(imp *v1beta1.ImageImport) {
	imp.Status.Progress = &v1beta1.ImportProgress{Blobs: 3, BlobsTotal: 7, Bytes: 12<<20 + 300<<10, BytesTotal: 40 << 20}
}

func TestImport(t *testing.T) {
	t.Parallel()
	const (
		success = "image.tagger.dev/myapp imported from quay.io/company/myapp:latest\n  mirror.example/ns/myapp@" + digest + "\n"
		began   = "importing quay.io/company/myapp:latest by imageimport.tagger.dev/myapp-0a1b2c3d\n"
		toEnd   = "Ctrl-C ends the waiting and not the import; what ends that is: kubectl delete imageimport myapp-0a1b2c3d --namespace ns\n"
		notOver = "The cluster goes on trying, ten times in all, until the ImageImport is deleted; look at it with: kubectl describe imageimport myapp-0a1b2c3d --namespace ns\n"
	)
	done := anImport(v1beta1.ReasonImported, over(true))
	invalid := apierrors.NewInvalid(schema.GroupKind{Group: v1beta1.GroupName, Kind: "ImageImport"}, "myapp-0a1b2c3d",
		field.ErrorList{field.Invalid(field.NewPath("spec", "from"), "A:b", "must be lower case")})
	forbidden := func(resource, name, why string) *apierrors.StatusError {
		return apierrors.NewForbidden(v1beta1.Resource(resource), name, errors.New(why))
	}
	tests := []struct {
		name   string
		args   []string
		answer runtime.Object
		steps  []step
		want   result
	}{
		{
			name:   "imported before the hand-off",
			answer: done,
			want:   result{Stdout: success},
		},
		{
			name:   "mirrored",
			answer: anImport(v1beta1.ReasonImported, mirrored, over(true)),
			want:   result{Stdout: strings.Replace(success, "imported", "imported and mirrored", 1)},
		},
		{
			name:   "unchanged",
			answer: anImport(v1beta1.ReasonUnchanged, mirrored, over(true)),
			want:   result{Stdout: strings.Replace(success, "imported from", "unchanged at", 1)},
		},
		{
			name:   "followed to its end",
			answer: anImport(v1beta1.ReasonPending),
			steps: []step{
				{state: anImport(v1beta1.ReasonUnavailable, failed("no route"))},
				{state: anImport(v1beta1.ReasonInProgress, failed("no route"), progressed)},
				{state: anImport(v1beta1.ReasonImported, failed("no route"), over(true))},
			},
			want: result{Stdout: success, Stderr: began +
				"attempt 1 of 10 failed: no route (Unavailable); the next one begins in 0s\n" + toEnd +
				"mirroring 3/7 blobs, 12.29MiB/40MiB\n"},
		},
		{
			name:   "an attempt that was missed, and each that fails, and how to end that once",
			answer: anImport(v1beta1.ReasonInProgress, running("no route")),
			steps: []step{
				{state: anImport(v1beta1.ReasonUnavailable, failed("no route", "no route"))},
				{state: anImport(v1beta1.ReasonImported, failed("no route", "no route"), over(true))},
			},
			want: result{Stdout: success, Stderr: began + "attempt 1 of 10 failed: no route; the next one has begun\n" + toEnd +
				"attempt 2 of 10 failed: no route (Unavailable); the next one begins in 0s\n"},
		},
		{
			name:   "cannot be done",
			answer: anImport(v1beta1.ReasonBlocked, failed("registry is blocked"), over(false)),
			want:   result{Stderr: "error: importing myapp: registry is blocked (Blocked)\n", Code: 1},
		},
		{
			name:   "not found, while the cluster goes on",
			answer: anImport(v1beta1.ReasonNotFound, failed("no such tag")),
			want:   result{Stderr: "error: importing myapp: no such tag (NotFound, attempt 1 of 10)\n" + notOver, Code: 1},
		},
		{
			name:   "no TLS, where insecure: true is advised",
			answer: anImport(v1beta1.ReasonTLS, failed("no TLS; set insecure: true")),
			want: result{Stderr: "error: importing myapp: no TLS; set insecure: true (TLS, attempt 1 of 10)\n" +
				"Import with --insecure-source if the source is meant to be reached so.\n" + notOver, Code: 1},
		},
		{
			name:   "no TLS, where insecure sources are not allowed",
			answer: anImport(v1beta1.ReasonTLS, failed("no TLS; ask the administrator")),
			want:   result{Stderr: "error: importing myapp: no TLS; ask the administrator (TLS, attempt 1 of 10)\n" + notOver, Code: 1},
		},
		{
			name:   "not found after the hand-off",
			answer: anImport(v1beta1.ReasonInProgress),
			steps:  []step{{state: anImport(v1beta1.ReasonNotFound, failed("no such tag"))}},
			want:   result{Stderr: began + "error: importing myapp: no such tag (NotFound, attempt 1 of 10)\n" + notOver, Code: 1},
		},
		{
			name:   "not found, waited for until it was",
			args:   []string{"--wait"},
			answer: anImport(v1beta1.ReasonNotFound, failed("no such tag")),
			steps:  []step{{state: anImport(v1beta1.ReasonImported, failed("no such tag"), over(true))}},
			want: result{Stdout: success,
				Stderr: began + "attempt 1 of 10 failed: no such tag (NotFound); the next one begins in 0s\n" + toEnd},
		},
		{
			name:   "not found, waited for until the cluster gave up",
			args:   []string{"--wait=true"},
			answer: anImport(v1beta1.ReasonNotFound, failed("no such tag")),
			steps:  []step{{state: anImport(v1beta1.ReasonNotFound, failed("no such tag", "no such repository"), over(false))}},
			want: result{Code: 1, Stderr: began + "attempt 1 of 10 failed: no such tag (NotFound); the next one begins in 0s\n" + toEnd +
				"error: importing myapp: no such repository (NotFound, after 2 attempts)\n"},
		},
		{
			name:   "not waited for",
			args:   []string{"--wait=false"},
			answer: anImport(v1beta1.ReasonInProgress),
			want:   result{Stdout: "imageimport.tagger.dev/myapp-0a1b2c3d created\n"},
		},
		{
			name:   "not waited for, not found so far",
			args:   []string{"--wait=false"},
			answer: anImport(v1beta1.ReasonNotFound, failed("no such tag")),
			want: result{Stdout: "imageimport.tagger.dev/myapp-0a1b2c3d created\n",
				Stderr: "attempt 1 of 10 failed: no such tag (NotFound); the next one begins in 0s\n"},
		},
		{
			name:   "not waited for, failed for good",
			args:   []string{"--wait=false"},
			answer: anImport(v1beta1.ReasonInvalid, failed("malformed"), over(false)),
			want:   result{Stderr: "error: importing myapp: malformed (Invalid)\n", Code: 1},
		},
		{
			name:   "the watch ends, and fails, before the import",
			answer: anImport(v1beta1.ReasonInProgress),
			steps: []step{{}, {failure: apierrors.NewResourceExpired("too old")},
				{refuse: apierrors.NewUnauthorized("expired")}, {state: done}},
			want: result{Stdout: success, Stderr: began},
		},
		{
			name:   "the server restarts",
			answer: anImport(v1beta1.ReasonInProgress),
			steps:  []step{{down: true}, {state: done}},
			want: result{Stdout: success, Stderr: began + "lost the server: The connection to the server SERVER was refused - " +
				"did you specify the right host or port?; trying to reach it again\n"},
		},
		{
			name:   "access is taken away",
			answer: anImport(v1beta1.ReasonInProgress),
			steps:  []step{{refuse: forbidden("imageimports", "myapp-0a1b2c3d", "no longer yours"), times: 2}},
			want: result{Code: 1, Stderr: began + "error: could not follow the import of myapp: " +
				"imageimports.tagger.dev \"myapp-0a1b2c3d\" is forbidden: no longer yours\n" +
				"What became of it is shown by: kubectl describe imageimport myapp-0a1b2c3d --namespace ns\n"},
		},
		{
			name:   "deleted",
			answer: anImport(v1beta1.ReasonInProgress),
			steps:  []step{{deleted: true}},
			want: result{Stderr: began + "error: importing myapp: the ImageImport was deleted before it ended: myapp-0a1b2c3d\n",
				Code: 1},
		},
		{
			name:   "invalid",
			answer: &invalid.ErrStatus,
			want: result{Code: 1, Stderr: `error: ImageImport.tagger.dev "myapp-0a1b2c3d" is invalid: ` +
				"spec.from: Invalid value: \"A:b\": must be lower case\n"},
		},
		{
			name:   "forbidden",
			answer: &forbidden("images/import", "myapp", "ask somebody").ErrStatus,
			want:   result{Code: 1, Stderr: "error: images/import.tagger.dev \"myapp\" is forbidden: ask somebody\n"},
		},
		{
			name:   "not logged in",
			answer: &apierrors.NewUnauthorized("Unauthorized").ErrStatus,
			want:   result{Code: 1, Stderr: "error: You must be logged in to the server (Unauthorized)\n"},
		},
		{
			name:   "as JSON path",
			args:   []string{"-o", "jsonpath={.kind} {.status.hashReference.imageReference}"},
			answer: done,
			want:   result{Stdout: "ImageImport mirror.example/ns/myapp@" + digest},
		},
		{
			name:   "its name, although it failed",
			args:   []string{"-o", "name"},
			answer: anImport(v1beta1.ReasonBlocked, failed("registry is blocked"), over(false)),
			want: result{Stdout: "imageimport.tagger.dev/myapp-0a1b2c3d\n",
				Stderr: "error: importing myapp: registry is blocked (Blocked)\n", Code: 1},
		},
		{
			name:   "a dry run",
			args:   []string{"--dry-run=server"},
			answer: anImport(v1beta1.ReasonImported, mirrored, over(true)),
			want:   result{Stdout: strings.Replace(success, ":latest", ":latest (server dry run)", 1)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, answer: tt.answer, steps: tt.steps}
			server.start()
			on := map[string]func(){"lost the server": func() { server.up(server.address) }}
			got := server.run(t.Context(), clock.RealClock{}, on, append([]string{"import", "myapp"}, tt.args...)...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
		})
	}
}

// TestImportSends holds that what is not given is not sent, and what is false is.
func TestImportSends(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		args  []string
		want  string
		query url.Values
	}{
		{
			name:  "nothing but the name",
			want:  `{"targetImage":"myapp"}`,
			query: url.Values{"timeout": {"4s"}},
		},
		{
			name:  "all flags",
			args:  []string{"--from=quay.io/company/myapp:latest", "--mirror", "--insecure-source"},
			want:  `{"targetImage":"myapp","from":"quay.io/company/myapp:latest","mirror":true,"insecure":true}`,
			query: url.Values{"timeout": {"4s"}},
		},
		{
			name:  "false",
			args:  []string{"--mirror=false", "--insecure-source=false", "--request-timeout=3s"},
			want:  `{"targetImage":"myapp","mirror":false,"insecure":false}`,
			query: url.Values{"timeout": {"3s"}},
		},
		{
			name:  "a dry run takes the time that it needs",
			args:  []string{"--dry-run=server"},
			want:  `{"targetImage":"myapp"}`,
			query: url.Values{"dryRun": {"All"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, answer: anImport(v1beta1.ReasonImported, over(true))}
			server.start()
			if got := server.run(t.Context(), clock.RealClock{}, nil, append([]string{"import", "myapp"}, tt.args...)...); got.Code != 0 {
				t.Fatalf("unexpected result: %+v", got)
			}
			want := `{"kind":"ImageImport","apiVersion":"tagger.dev/v1beta1","metadata":{},"spec":` + tt.want + `,"status":{}}`
			if diff := cmp.Diff(want, server.posted); diff != "" {
				t.Errorf("unexpected body (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.query, server.query); diff != "" {
				t.Errorf("unexpected query (-want +got):\n%s", diff)
			}
		})
	}
}

func TestImportIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	server := &api{t: t, answer: anImport(v1beta1.ReasonInProgress)}
	server.start()
	got := server.run(ctx, clock.RealClock{}, map[string]func(){"importing": interrupt}, "import", "myapp")
	want := result{Code: 130, Stderr: "importing quay.io/company/myapp:latest by imageimport.tagger.dev/myapp-0a1b2c3d\n" +
		"interrupted: the import goes on in the cluster; look at it with: kubectl describe imageimport myapp-0a1b2c3d --namespace ns; " +
		"end it with: kubectl delete imageimport myapp-0a1b2c3d --namespace ns\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected result (-want +got):\n%s", diff)
	}
}

func TestImportPrintsObjects(t *testing.T) {
	t.Parallel()
	want := anImport(v1beta1.ReasonImported, over(true))
	for _, format := range []string{"json", "yaml"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, answer: want}
			server.start()
			got := &v1beta1.ImageImport{}
			if err := yaml.UnmarshalStrict([]byte(server.run(t.Context(), clock.RealClock{}, nil, "import", "myapp", "-o", format).Stdout), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("unexpected object (-want +got):\n%s", diff)
			}
		})
	}
}
