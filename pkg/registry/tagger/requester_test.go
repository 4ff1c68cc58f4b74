// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// theImage is what the writers of these tests write.
var theImage = requester.Target{
	Resource: v1beta1.SchemeGroupVersion.WithResource("images"), Kind: v1beta1.SchemeGroupVersion.WithKind("Image"),
	Namespace: namespace, Name: "myapp",
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		decision authorizer.Decision
		reason   string
		err      error
		want     metav1.StatusReason
		says     string
	}{
		{name: "allowed", decision: authorizer.DecisionAllow},
		{name: "allowed in spite of an error", decision: authorizer.DecisionAllow, err: errors.New("one of two authorizers failed")},
		{
			name: "no opinion", decision: authorizer.DecisionNoOpinion, want: metav1.StatusReasonForbidden,
			says: "the test asks, which needs the right to update images",
		},
		{
			name: "denied", decision: authorizer.DecisionDeny, reason: "not on Sundays", want: metav1.StatusReasonForbidden,
			says: "which needs the right to update images: not on Sundays",
		},
		{
			name: "failed", decision: authorizer.DecisionNoOpinion, err: errors.New("out of reach"), want: metav1.StatusReasonInternalError,
			says: "authorising update images: out of reach",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked authorizer.Attributes
			writer := requester.NewWriter(authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				asked = a
				return tt.decision, tt.reason, tt.err
			}), plugin{}, noManagers, runtime.NewScheme())
			ctx := as(t, alice, "create", "imageimports", "")
			err := writer.Authorize(ctx, "update", theImage, "the test asks")
			if got := apierrors.ReasonForError(err); err == nil && tt.want != "" || err != nil && got != tt.want {
				t.Fatalf("error %v, want reason %q", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one that says %q", err, tt.says)
			}
			who, _ := request.UserFrom(ctx)
			want := authorizer.AttributesRecord{
				User: who, Verb: "update", APIGroup: "tagger.dev", APIVersion: "v1beta1", Resource: "images",
				Namespace: namespace, Name: "myapp", ResourceRequest: true,
			}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAuthorizeNobody(t *testing.T) {
	t.Parallel()
	writer := requester.NewWriter(deny(), plugin{}, noManagers, runtime.NewScheme())
	if err := writer.Authorize(t.Context(), "update", theImage, "the test asks"); !apierrors.IsInternalError(err) {
		t.Errorf("error %v: a request without a user has no rights", err)
	}
}

// seen is what admission is told.
type seen struct {
	Phase, User, Operation, Resource, Kind, Name, Namespace string
	DryRun                                                  bool
	From, OldFrom                                           string
}

// recorder returns a plugin that records what it sees, changes what it may change, and refuses in the phase that is named.
func recorder(into *[]seen, refuseIn string) plugin {
	phase := func(name string) func(context.Context, admission.Attributes) error {
		return func(_ context.Context, a admission.Attributes) error {
			what := seen{
				Phase: name, User: a.GetUserInfo().GetName(), Operation: string(a.GetOperation()), Resource: a.GetResource().String(),
				Kind: a.GetKind().String(), Name: a.GetName(), Namespace: a.GetNamespace(), DryRun: a.IsDryRun(),
				From: a.GetObject().(*tagger.Image).Spec.From,
			}
			if old, ok := a.GetOldObject().(*tagger.Image); ok {
				what.OldFrom = old.Spec.From
			}
			*into = append(*into, what)
			if name == refuseIn {
				return admission.NewForbidden(a, errors.New("a policy says no"))
			}
			if name == "admit" {
				a.GetObject().(*tagger.Image).Labels = map[string]string{"admitted": "yes"}
			}
			return nil
		}
	}
	return plugin{admit: phase("admit"), validate: phase("validate")}
}

func TestWriterIsAdmitted(t *testing.T) {
	t.Parallel()
	create := func(ctx context.Context, s *stores, dryRun []string) (runtime.Object, error) {
		image := validImage()
		image.Spec.From = "new"
		return s.writer.Create(ctx, s.images, image, theImage, &metav1.CreateOptions{DryRun: dryRun})
	}
	update := func(ctx context.Context, s *stores, dryRun []string) (runtime.Object, error) {
		return s.writer.Update(ctx, s.images, theImage, func(obj runtime.Object) error {
			obj.(*tagger.Image).Spec.From = "new"
			return nil
		}, dryRun)
	}
	tests := []struct {
		name     string
		write    func(ctx context.Context, s *stores, dryRun []string) (runtime.Object, error)
		exists   bool
		dryRun   []string
		refuseIn string
		// stored is the source of the stored Image afterwards; empty when there is none.
		stored string
	}{
		{name: "create", write: create, stored: "new"},
		{name: "create, dry run", write: create, dryRun: []string{metav1.DryRunAll}},
		{name: "create refused by mutation", write: create, refuseIn: "admit"},
		{name: "create refused by validation", write: create, refuseIn: "validate"},
		{name: "update", write: update, exists: true, stored: "new"},
		{name: "update, dry run", write: update, exists: true, dryRun: []string{metav1.DryRunAll}, stored: "old"},
		{name: "update refused by mutation", write: update, exists: true, refuseIn: "admit", stored: "old"},
		{name: "update refused by validation", write: update, exists: true, refuseIn: "validate", stored: "old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []seen
			s := newStores(t, setup{admission: recorder(&got, tt.refuseIn)})
			want := seen{
				User: alice, Operation: "CREATE", Resource: theImage.Resource.String(), Kind: theImage.Kind.String(),
				Name: "myapp", Namespace: namespace, DryRun: tt.dryRun != nil, From: "new",
			}
			if tt.exists {
				image := validImage()
				image.Spec.From = "old"
				s.createImage(t, image)
				want.Operation, want.OldFrom = "UPDATE", "old"
			}
			obj, err := tt.write(as(t, alice, "create", "imageimports", ""), s, tt.dryRun)
			if (err != nil) != (tt.refuseIn != "") || err != nil && !apierrors.IsForbidden(err) {
				t.Fatalf("error %v", err)
			}
			wanted := []seen{want}
			wanted[0].Phase = "admit"
			if tt.refuseIn != "admit" {
				wanted = append(wanted, want)
				wanted[1].Phase = "validate"
			}
			if diff := cmp.Diff(wanted, got); diff != "" {
				t.Errorf("admission saw (-want +got):\n%s", diff)
			}
			if err == nil && obj.(*tagger.Image).Labels["admitted"] != "yes" {
				t.Error("what admission changed is not written")
			}
			stored := ""
			if image := s.image(t, "myapp"); image != nil {
				stored = image.Spec.From
			}
			if stored != tt.stored {
				t.Errorf("stored: %q, want %q", stored, tt.stored)
			}
		})
	}
}

// TestImportedImageIsAdmitted: a policy that sees Images also sees those that imports create, and may change them.
func TestImportedImageIsAdmitted(t *testing.T) {
	t.Parallel()
	for way, create := range creators {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var got []seen
			s := newStores(t, setup{admission: recorder(&got, "")})
			imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = "nginx" })
			if _, err := create(as(t, alice, "create", "imageimports", ""), s, imp, nil, nil); err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 || got[0].User != alice || got[0].Operation != "CREATE" || got[0].From != "nginx" {
				t.Errorf("admission saw %+v", got)
			}
			if image := s.image(t, "myapp"); image == nil || image.Labels["admitted"] != "yes" {
				t.Errorf("the Image is %v", image)
			}

			refusing := newStores(t, setup{admission: recorder(&got, "validate")})
			if _, err := create(as(t, alice, "create", "imageimports", ""), refusing, imp.DeepCopy(), nil, nil); !apierrors.IsForbidden(err) {
				t.Errorf("error %v, want the refusal of the Image", err)
			}
			if stored := refusing.stored(t); len(stored) > 0 || refusing.image(t, "myapp") != nil {
				t.Errorf("stored: %v", stored)
			}
		})
	}
}

// TestWriterUpdatesWhatOthersWrote: a writer that comes in between loses nothing.
func TestWriterUpdatesWhatOthersWrote(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.createImage(t, validImage())
	calls := 0
	obj, err := s.writer.Update(as(t, alice, "create", "imageimports", ""), s.images, theImage, func(obj runtime.Object) error {
		if calls++; calls == 1 {
			if _, _, err := s.images.Update(as(t, "bob", "update", "images", "myapp"), "myapp",
				change(func(i *tagger.Image) { i.Spec.Insecure = true }), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
		obj.(*tagger.Image).Spec.Suspend = true
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if spec := obj.(*tagger.Image).Spec; calls != 2 || !spec.Insecure || !spec.Suspend {
		t.Errorf("after %d changes: %+v", calls, spec)
	}
}

func TestWriterUpdatesNothingThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	_, err := s.writer.Update(as(t, alice, "create", "imageimports", ""), s.images, theImage,
		func(runtime.Object) error {
			t.Error("there is nothing to change")
			return nil
		}, nil)
	status := apierrors.APIStatus(nil)
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		t.Fatalf("error %v, want not found", err)
	}
	if kind := status.Status().Details.Kind; kind != "images" {
		t.Errorf("the error speaks of %s, not of what was to be written: %v", kind, err)
	}
}
