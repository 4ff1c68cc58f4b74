// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/registry/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
)

var rolledBackAt = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// rollbacker is mirror, source and history of a test, and counts what is asked of it.
type rollbacker struct {
	checked int
	// check and record, where set, run within each call; what they return fails it.
	check, record func(ctx context.Context) error
	recorded      []string // imageReferences
}

func (r *rollbacker) Check(ctx context.Context, _ *tagger.Image, entry *tagger.HashReference) (*tagger.HashReference, error) {
	r.checked++
	if r.check != nil {
		if err := r.check(ctx); err != nil {
			return nil, err
		}
	}
	return entry, nil
}

func (r *rollbacker) Record(ctx context.Context, image *tagger.Image, entry *tagger.HashReference) (*tagger.HashReference, bool, error) {
	if r.record != nil {
		if err := r.record(ctx); err != nil {
			return nil, false, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	r.recorded = append(r.recorded, entry.ImageReference)
	entry = entry.DeepCopy()
	entry.ImportUID = "recorded"
	return entry, entry.ImageReference == image.Status.HashReferences[0].ImageReference, nil
}

const (
	newest   = "quay.io/company/myapp@sha256:aaaa"
	previous = "quay.io/company/myapp@sha256:bbbb"
	oldest   = "quay.io/company/myapp@sha256:cccc"
)

// withHistory stores an Image with three entries.
func (s *stores) withHistory(t *testing.T, differ func(*tagger.Image)) {
	t.Helper()
	image := validImage()
	if differ != nil {
		differ(image)
	}
	s.createImage(t, image)
	if _, _, err := s.imageStatus.Update(as(t, alice, "update", "images/status", "myapp"), "myapp",
		change(func(i *tagger.Image) {
			for _, reference := range []string{newest, previous, oldest} {
				i.Status.HashReferences = append(i.Status.HashReferences, tagger.HashReference{
					From: i.Spec.From, ImageReference: reference, SourceReference: reference, ImportUID: "imported",
				})
			}
		}), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// rollback is what a person sees of a rollback: its answer, and what it left.
type rollback struct {
	// Reason is the typed reason of the refusal, Field the first field that it blames.
	Reason metav1.StatusReason
	Field  string
	// Current, Unchanged and Suspended are what the answer says.
	Current              string
	Unchanged, Suspended bool
	// Recorded is what was recorded; Checked how often mirror or source was asked.
	Recorded []string
	Checked  int
	// Suspend and Generation are the stored Image's.
	Suspend    bool
	Generation int64
}

func TestRollback(t *testing.T) {
	t.Parallel()
	everyHour := func(i *tagger.Image) { i.Spec.RefreshInterval = &metav1.Duration{Duration: time.Hour} }
	suspended := func(i *tagger.Image) {
		everyHour(i)
		i.Spec.Suspend = true
	}
	gone := func(context.Context) error {
		return apierrors.NewConflict(tagger.Resource("images"), "myapp", errors.New("it is gone"))
	}
	number := func(n int32) tagger.ImageRollback {
		return tagger.ImageRollback{Spec: tagger.ImageRollbackSpec{Number: &n}}
	}
	byDigest := func(d string) tagger.ImageRollback {
		return tagger.ImageRollback{Spec: tagger.ImageRollbackSpec{Digest: d}}
	}
	no := func(context.Context, admission.Attributes) error {
		return apierrors.NewForbidden(tagger.Resource("images"), "myapp", errors.New("a policy says no"))
	}
	noUpdate := func(ctx context.Context, a admission.Attributes) error {
		if a.GetOperation() != admission.Update {
			return nil
		}
		return no(ctx, a)
	}
	// The import that the rollback stands for is the first thing that is admitted.
	noSource := func(ctx context.Context, a admission.Attributes) error {
		imp, ok := a.GetObject().(*tagger.ImageImport)
		if !ok || a.GetResource().Resource != "imageimports" || a.GetOperation() != admission.Create || !a.IsDryRun() ||
			imp.Spec.TargetImage != "myapp" || imp.Spec.From != validImage().Spec.From || *imp.Spec.Mirror {
			return nil
		}
		return no(ctx, a)
	}
	tests := []struct {
		name          string
		image         func(*tagger.Image)
		body          tagger.ImageRollback
		denied        string
		admission     plugin
		posted        rest.ValidateObjectFunc
		check, record func(context.Context) error
		dryRun        bool
		want          rollback
	}{
		{name: "to the previous", want: rollback{Current: previous, Recorded: []string{previous}, Checked: 1, Generation: 1}},
		{name: "by number", body: number(3), want: rollback{Current: oldest, Recorded: []string{oldest}, Checked: 1, Generation: 1}},
		{
			name: "by digest", body: byDigest("sha256:cccc"),
			want: rollback{Current: oldest, Recorded: []string{oldest}, Checked: 1, Generation: 1},
		},
		{
			name: "the path said again", body: tagger.ImageRollback{ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace}},
			want: rollback{Current: previous, Recorded: []string{previous}, Checked: 1, Generation: 1},
		},
		{
			name: "without a schedule it needs no other right", denied: "update images",
			want: rollback{Current: previous, Recorded: []string{previous}, Checked: 1, Generation: 1},
		},
		{
			name: "a schedule is suspended", image: everyHour,
			want: rollback{Current: previous, Suspended: true, Recorded: []string{previous}, Checked: 1, Suspend: true, Generation: 2},
		},
		{
			name: "a suspended schedule is left alone", image: suspended, denied: "update images",
			want: rollback{Current: previous, Recorded: []string{previous}, Checked: 1, Suspend: true, Generation: 1},
		},
		{
			name: "without the right to suspend", image: everyHour, denied: "update images",
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "a policy refuses to suspend", image: everyHour, admission: plugin{validate: noUpdate},
			want: rollback{Reason: metav1.StatusReasonForbidden, Checked: 1, Generation: 1},
		},
		{
			name: "a policy forbids the source", admission: plugin{validate: noSource},
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "a webhook forbids the source", admission: plugin{admit: noSource},
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "a webhook has imports come from elsewhere", admission: plugin{admit: func(_ context.Context, a admission.Attributes) error {
				a.GetObject().(*tagger.ImageImport).Spec.From = "proxy.example/myapp"
				return nil
			}},
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "a policy looks at all that an import has", admission: plugin{validate: func(_ context.Context, a admission.Attributes) error {
				imp := a.GetObject().(*tagger.ImageImport)
				if owner := metav1.GetControllerOf(imp); owner == nil || owner.Name != "myapp" || imp.UID == "" || *imp.Spec.TTLSecondsAfterFinished == 0 {
					return no(context.Background(), a)
				}
				return nil
			}},
			want: rollback{Current: previous, Recorded: []string{previous}, Checked: 1, Generation: 1},
		},
		{
			name: "a policy forbids the source, in a dry run", dryRun: true, admission: plugin{validate: noSource},
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "a policy forbids the source of what is the current one already", body: number(1), admission: plugin{validate: noSource},
			want: rollback{Current: newest, Unchanged: true, Generation: 1, Recorded: []string{newest}},
		},
		{
			name: "a policy refuses what was posted", image: everyHour,
			posted: func(context.Context, runtime.Object) error { return no(context.Background(), nil) },
			want:   rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "what cannot be pulled", image: everyHour, check: gone,
			want: rollback{Reason: metav1.StatusReasonConflict, Checked: 1, Generation: 1},
		},
		{
			name: "a schedule goes on when nothing was recorded", image: everyHour, record: gone,
			want: rollback{Reason: metav1.StatusReasonConflict, Checked: 1, Generation: 3},
		},
		{
			name: "to the current", body: number(1),
			want: rollback{Current: newest, Unchanged: true, Generation: 1, Recorded: []string{newest}},
		},
		{
			name: "to the current, which no schedule may undo either", image: everyHour, body: byDigest("sha256:aaaa"),
			want: rollback{Current: newest, Unchanged: true, Suspended: true, Suspend: true, Generation: 2, Recorded: []string{newest}},
		},
		{
			name: "dry run", image: everyHour, dryRun: true,
			want: rollback{Current: previous, Suspended: true, Generation: 1},
		},
		{
			name: "dry run without the right to suspend", image: everyHour, dryRun: true, denied: "update images",
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "dry run whose suspension a policy refuses", image: everyHour, dryRun: true, admission: plugin{validate: noUpdate},
			want: rollback{Reason: metav1.StatusReasonForbidden, Generation: 1},
		},
		{
			name: "dry run to the current", dryRun: true, body: number(1),
			want: rollback{Current: newest, Unchanged: true, Generation: 1},
		},
		{
			name: "no such entry", image: everyHour, body: number(4),
			want: rollback{Reason: metav1.StatusReasonInvalid, Field: "spec.number", Generation: 1},
		},
		{
			name: "not a digest", body: byDigest("cccc"),
			want: rollback{Reason: metav1.StatusReasonInvalid, Field: "spec.digest", Generation: 1},
		},
		{
			name: "of another Image", body: tagger.ImageRollback{ObjectMeta: metav1.ObjectMeta{Name: "other"}},
			want: rollback{Reason: metav1.StatusReasonInvalid, Field: "metadata.name", Generation: 1},
		},
		{
			name: "of another namespace", body: tagger.ImageRollback{ObjectMeta: metav1.ObjectMeta{Namespace: "other"}},
			want: rollback{Reason: metav1.StatusReasonInvalid, Field: "metadata.namespace", Generation: 1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{authorizer: deny(tt.denied), admission: tt.admission})
			s.withHistory(t, tt.image)
			r := &rollbacker{check: tt.check, record: tt.record}
			var dryRun []string
			if tt.dryRun {
				dryRun = []string{metav1.DryRunAll}
			}
			obj, err := imagestorage.NewRollbackREST(s.images, s.writer, r, clocktesting.NewFakePassiveClock(rolledBackAt)).Create(
				as(t, alice, "create", "images/rollback", "myapp"), "myapp", &tt.body, tt.posted, &metav1.CreateOptions{DryRun: dryRun})
			image := s.image(t, "myapp")
			got := rollback{Recorded: r.recorded, Checked: r.checked, Suspend: image.Spec.Suspend, Generation: image.Generation}
			if err != nil {
				got.Reason = apierrors.ReasonForError(err)
				if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Details != nil && len(status.Status().Details.Causes) > 0 {
					got.Field = status.Status().Details.Causes[0].Field
				}
			} else {
				answer := obj.(*tagger.ImageRollback)
				got.Current = answer.Status.HashReference.ImageReference
				got.Unchanged, got.Suspended = answer.Status.Unchanged, answer.Status.RefreshSuspended
				if answer.Name != "myapp" || answer.Namespace != namespace || !cmp.Equal(answer.Spec, tt.body.Spec) {
					t.Errorf("the answer is about %s/%s and %+v", answer.Namespace, answer.Name, answer.Spec)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("outcome %v (-want +got):\n%s", err, diff)
			}
			if len(image.Status.HashReferences) != 3 {
				t.Errorf("the history was written by another than its recorder: %+v", image.Status.HashReferences)
			}
		})
	}
}

// TestRollbackDryRunAnswer says what would be recorded, as of now.
func TestRollbackDryRunAnswer(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.withHistory(t, nil)
	obj, err := imagestorage.NewRollbackREST(s.images, s.writer, &rollbacker{}, clocktesting.NewFakePassiveClock(rolledBackAt)).Create(
		as(t, alice, "create", "images/rollback", "myapp"), "myapp", &tagger.ImageRollback{}, nil,
		&metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		t.Fatal(err)
	}
	want := &tagger.HashReference{
		From: "quay.io/company/myapp:latest", ImageReference: previous, SourceReference: previous,
		ImportedAt: metav1.NewTime(rolledBackAt), ResolvedAt: metav1.NewMicroTime(rolledBackAt), RolledBack: true,
	}
	if diff := cmp.Diff(want, obj.(*tagger.ImageRollback).Status.HashReference); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestRollbackOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	r := imagestorage.NewRollbackREST(s.images, s.writer, &rollbacker{}, clocktesting.NewFakePassiveClock(rolledBackAt))
	roll := func() error {
		_, err := r.Create(as(t, alice, "create", "images/rollback", "myapp"), "myapp", &tagger.ImageRollback{}, nil, &metav1.CreateOptions{})
		return err
	}
	if err := roll(); !apierrors.IsNotFound(err) {
		t.Errorf("no Image: %v, want not found", err)
	}
	s.withHistory(t, func(i *tagger.Image) { i.Finalizers = []string{"example.com/wait"} })
	if _, _, err := s.images.Delete(as(t, alice, "delete", "images", "myapp"), "myapp", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := roll(); !apierrors.IsConflict(err) {
		t.Errorf("an Image that is being deleted: %v, want a conflict", err)
	}
}

// TestRollbackKeepsTime: the check ends before the request must be answered, and what follows goes on when the client has left.
func TestRollbackKeepsTime(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.withHistory(t, func(i *tagger.Image) { i.Spec.RefreshInterval = &metav1.Duration{Duration: time.Hour} })
	ctx, leave := context.WithTimeout(as(t, alice, "create", "images/rollback", "myapp"), 10*time.Second)
	defer leave()
	deadline, _ := ctx.Deadline()
	r := &rollbacker{check: func(ctx context.Context) error {
		if got, ok := ctx.Deadline(); !ok || deadline.Sub(got) < 2*time.Second {
			t.Errorf("the check may take until %v, want two seconds before %v", got, deadline)
		}
		leave()
		return nil
	}}
	if _, err := imagestorage.NewRollbackREST(s.images, s.writer, r, clocktesting.NewFakePassiveClock(rolledBackAt)).Create(
		ctx, "myapp", &tagger.ImageRollback{}, nil, &metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if !s.image(t, "myapp").Spec.Suspend || len(r.recorded) != 1 {
		t.Errorf("suspended: %t, recorded: %v", s.image(t, "myapp").Spec.Suspend, r.recorded)
	}
}

// TestRollbackBounds how many checks of one user are under way.
func TestRollbackBounds(t *testing.T) {
	t.Parallel()
	const most = 16
	s := newStores(t, setup{})
	s.withHistory(t, nil)
	var r *imagestorage.RollbackREST
	roll := func(who string) error {
		_, err := r.Create(as(t, who, "create", "images/rollback", "myapp"), "myapp", &tagger.ImageRollback{}, nil, &metav1.CreateOptions{})
		return err
	}
	depth := 0
	var refused error
	r = imagestorage.NewRollbackREST(s.images, s.writer, &rollbacker{check: func(context.Context) error {
		if depth++; depth == most { // within all of them, one more and another user's
			refused = roll(alice)
			return roll("bob")
		}
		if depth < most {
			return roll(alice)
		}
		return nil
	}}, clocktesting.NewFakePassiveClock(rolledBackAt))
	if err := roll(alice); err != nil {
		t.Fatal(err)
	}
	if !apierrors.IsTooManyRequests(refused) || depth != most+1 {
		t.Errorf("one more: %v, want too many requests; %d checks", refused, depth)
	}
}

func TestRollbackSpeaksOfImageRollbacks(t *testing.T) {
	t.Parallel()
	r := imagestorage.NewRollbackREST(nil, nil, nil, nil)
	if got, want := r.GroupVersionKind(v1beta1.SchemeGroupVersion), v1beta1.SchemeGroupVersion.WithKind("ImageRollback"); got != want {
		t.Errorf("kind %v, want %v", got, want)
	}
	if _, ok := r.New().(*tagger.ImageRollback); !ok {
		t.Errorf("the body is a %T", r.New())
	}
}

// TestRollbackOfWhatChangesMeanwhile: while it is checked whether it can be pulled, somebody else does something to the Image.
func TestRollbackOfWhatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	scheduled := func(i *tagger.Image) { i.Spec.RefreshInterval = &metav1.Duration{Duration: time.Hour} }
	conflict := apierrors.NewConflict(tagger.Resource("images"), "myapp", errors.New("the recorder refuses"))
	tests := []struct {
		name    string
		do      func(t *testing.T, s *stores)
		record  error
		suspend bool // afterwards
	}{
		{name: "makes it again", do: func(t *testing.T, s *stores) {
			if _, _, err := s.images.Delete(as(t, "bob", "delete", "images", "myapp"), "myapp", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			s.withHistory(t, scheduled)
		}},
		{name: "nothing, and nobody knows whether it was recorded", suspend: true, record: apierrors.NewTimeoutError("late", 1),
			do: func(*testing.T, *stores) {}},
		{name: "nothing, and the rollback is refused", record: conflict, do: func(*testing.T, *stores) {}},
		{name: "suspends its schedule, and the rollback is refused", suspend: true, record: conflict, do: func(t *testing.T, s *stores) {
			if _, _, err := s.images.Update(as(t, "bob", "update", "images", "myapp"), "myapp",
				change(func(i *tagger.Image) { i.Spec.Suspend = true }), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			s.withHistory(t, scheduled)
			r := &rollbacker{
				check:  func(context.Context) error { tt.do(t, s); return nil },
				record: func(context.Context) error { return tt.record },
			}
			_, err := imagestorage.NewRollbackREST(s.images, s.writer, r, clocktesting.NewFakePassiveClock(rolledBackAt)).Create(
				as(t, alice, "create", "images/rollback", "myapp"), "myapp", &tagger.ImageRollback{}, nil, &metav1.CreateOptions{})
			if !apierrors.IsConflict(err) && !apierrors.IsTimeout(err) {
				t.Errorf("%v, want a conflict or a timeout", err)
			}
			if image := s.image(t, "myapp"); image.Spec.Suspend != tt.suspend {
				t.Errorf("suspended: %t, want %t", image.Spec.Suspend, tt.suspend)
			}
		})
	}
}
