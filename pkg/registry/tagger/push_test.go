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
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"tagger.dev/tagger/pkg/apis/tagger"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
)

// push is what a push leaves of its Image, before it is recorded.
type push struct {
	Reason metav1.StatusReason
	// Exists, Suspend and From are the stored Image's.
	Exists, Suspend bool
	From            string
	// Resumed: the schedule goes on after the push was not recorded.
	Resumed bool
}

func TestPreparePush(t *testing.T) {
	t.Parallel()
	everyHour := func(i *tagger.Image) { i.Spec.RefreshInterval = &metav1.Duration{Duration: time.Hour} }
	from := validImage().Spec.From
	forbid := func(operation admission.Operation) plugin {
		return plugin{validate: func(_ context.Context, a admission.Attributes) error {
			if user := a.GetUserInfo(); user == nil || user.GetName() != alice {
				return errors.New("not as the requester")
			}
			if a.GetOperation() == operation && a.GetResource().Resource == "images" {
				return apierrors.NewForbidden(tagger.Resource("images"), "myapp", errors.New("a policy says no"))
			}
			return nil
		}}
	}
	tests := []struct {
		name      string
		image     func(*tagger.Image) // nil: there is none
		denied    string
		admission plugin
		want      push
	}{
		{name: "absent", want: push{Exists: true}},
		{name: "absent, and it may not be created", denied: "create images", want: push{Reason: metav1.StatusReasonForbidden}},
		{name: "absent, and a policy forbids it", admission: forbid(admission.Create), want: push{Reason: metav1.StatusReasonForbidden}},
		{name: "without a schedule it needs no other right", image: func(*tagger.Image) {}, denied: "update images", want: push{Exists: true, From: from}},
		{name: "a schedule is suspended", image: everyHour, want: push{Exists: true, From: from, Suspend: true, Resumed: true}},
		{
			name: "without the right to suspend", image: everyHour, denied: "update images",
			want: push{Reason: metav1.StatusReasonForbidden, Exists: true, From: from},
		},
		{
			name: "a policy refuses to suspend", image: everyHour, admission: forbid(admission.Update),
			want: push{Reason: metav1.StatusReasonForbidden, Exists: true, From: from},
		},
		{
			name: "a suspended schedule is left alone", denied: "update images",
			image: func(i *tagger.Image) { everyHour(i); i.Spec.Suspend = true },
			want:  push{Exists: true, From: from, Suspend: true},
		},
		{
			name: "being deleted", image: func(i *tagger.Image) { i.Finalizers = []string{"example.com/hold"} },
			want: push{Reason: metav1.StatusReasonConflict, Exists: true, From: from},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{authorizer: deny(tt.denied), admission: tt.admission})
			if tt.image != nil {
				plain := newStores(t, setup{prefix: s.prefix})
				image := validImage()
				tt.image(image)
				plain.createImage(t, image)
				if len(image.Finalizers) > 0 {
					if _, _, err := plain.images.Delete(as(t, alice, "delete", "images", "myapp"), "myapp", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			// The request is one of the registry endpoint, and so about no resource.
			ctx := request.WithNamespace(context.WithoutCancel(t.Context()), namespace)
			ctx = request.WithUser(ctx, &user.DefaultInfo{Name: alice})
			image, undo, err := imagestorage.NewPushes(s.images, s.writer).Prepare(ctx, "myapp")
			got := push{Reason: apierrors.ReasonForError(err)}
			if err == nil && image.UID == "" {
				t.Error("it returns no Image")
			}
			stored := s.image(t, "myapp")
			if stored != nil {
				got.Exists, got.Suspend, got.From = true, stored.Spec.Suspend, stored.Spec.From
			}
			undo(ctx)
			if got.Suspend {
				got.Resumed = !s.image(t, "myapp").Spec.Suspend
			}
			if err == nil {
				got.Reason = ""
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
