// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// marker is what hostile registries say. Nobody may hear it.
const marker = "a-marker-that-must-not-be-repeated"

// errorBody is a registry's error with the marker wherever there is a place for it.
func errorBody(code string) string {
	return `{"errors":[{"code":"` + code + `","message":"` + marker + `","detail":{"` + marker + `":"` + marker + `"}}]}`
}

// failed is the outcome of a failed attempt.
func failed(reason, message string) outcome { return outcome{metav1.ConditionFalse, reason, message} }

// mustNotRepeat fails the test where the marker is in an object of the namespace or in the server's log.
func (s *server) mustNotRepeat(t *testing.T, namespace string) {
	t.Helper()
	images, err := s.api.TaggerV1beta1().Images(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	imports, err := s.api.TaggerV1beta1().ImageImports(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := json.Marshal([]any{images, imports})
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"an object": string(objects), "the log": s.log.String()} {
		if strings.Contains(text, marker) {
			t.Errorf("%s repeats what the registry said", where)
		}
	}
}

// TestHealedSource lets a source fail first and work then, which no one has to ask for again.
func TestHealedSource(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	image := newImage(t, ociTypes, "amd64")
	out.Push(t, "app", image)
	out.Misbehave(lab.Answering(http.StatusServiceUnavailable, "text/plain", marker))
	s.createImport(t, namespace, "patient", v1beta1.ImageImportSpec{TargetImage: "app", From: out.Reference("app"), Mirror: ptr.To(true)})
	s.awaitImport(t, namespace, "patient", func(imp *v1beta1.ImageImport) bool { return len(imp.Status.ImportAttempts) > 0 })
	out.Misbehave(nil)
	imp := s.finished(t, namespace, "patient")
	for i, attempt := range imp.Status.ImportAttempts { // the source may have worked too late for the second
		if last := i == len(imp.Status.ImportAttempts)-1; attempt.Succeed != last || last && i == 0 {
			t.Errorf("attempt %d succeeded: %t", i+1, attempt.Succeed)
		}
	}
	if diff := cmp.Diff([]string{s.mirrored(namespace, "app", digestOf(t, image))}, s.history(t, namespace, "app")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	s.mustNotRepeat(t, namespace)
}

// TestRefusedImport posts what cannot be imported to images/import. Nothing is stored.
func TestRefusedImport(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		image string
		body  v1beta1.ImageImport
		want  refusal
	}{
		{
			name: "unknown Image without from", image: "unknown",
			want: invalidField(metav1.CauseTypeFieldValueRequired, "spec.from",
				`Required value: there is no Image "unknown" in this namespace; say where to import it from to have it created`),
		},
		{
			name: "malformed reference", image: "app",
			body: v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{From: "Quay.io/Team/APP"}},
			want: invalidField(metav1.CauseTypeFieldValueInvalid, "spec.from",
				`Invalid value: "Quay.io/Team/APP": the repository "Team/APP" has upper-case letters, which repositories cannot have; write "team/app"`),
		},
		{
			name: "malformed digest", image: "app",
			body: v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{From: "quay.io/team/app@sha256:1234"}},
			want: invalidField(metav1.CauseTypeFieldValueInvalid, "spec.from",
				`Invalid value: "quay.io/team/app@sha256:1234": "sha256:1234" is not a digest; write sha256: and 64 hexadecimal digits in lower case, or sha512: and 128`),
		},
		{
			name: "body of another name", image: "app",
			body: v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: "other"}},
			want: invalidField(metav1.CauseTypeFieldValueInvalid, "metadata.name",
				`Invalid value: "other": must be absent or the name of the Image, "app"; the server names the ImageImport`),
		},
		{
			name: "body of another namespace", image: "app",
			body: v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{Namespace: "other"}},
			want: refusal{Code: http.StatusBadRequest, Message: "the namespace of the provided object does not match the namespace sent on the request"},
		},
		{
			name: "body for another Image", image: "app",
			body: v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{TargetImage: "other"}},
			want: invalidField(metav1.CauseTypeFieldValueInvalid, "spec.targetImage",
				`Invalid value: "other": must be absent or the Image that is imported, "app"`),
		},
		{
			name: "negative time to live", image: "app",
			body: v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{TTLSecondsAfterFinished: ptr.To[int32](-1)}},
			want: invalidField(metav1.CauseTypeFieldValueInvalid, "spec.ttlSecondsAfterFinished",
				"Invalid value: -1: must be at least 0"),
		},
		{
			name: "Image without a source", image: "pushed",
			want: invalidField(metav1.CauseTypeFieldValueRequired, "spec.from",
				`Required value: the Image "pushed" names no source either; it is fed by pushes, or say where to import from`),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app")})
			s.createImage(t, namespace, "pushed", v1beta1.ImageSpec{})
			for range 2 {
				out.Push(t, "app", newImage(t, ociTypes, "amd64"))
				s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
			}
			eventually(t, "the two imports are forgotten", func(context.Context) (bool, error) {
				return len(s.image(t, namespace, "app").Status.RecordedImports) == 0, nil
			})
			before := s.images(t, namespace)

			_, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), tt.image, &tt.body, metav1.CreateOptions{})
			if diff := cmp.Diff(tt.want, refusalOf(err)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if diff := cmp.Diff(before, s.images(t, namespace)); diff != "" {
				t.Errorf("Images (-before +after):\n%s", diff)
			}
			list, err := s.api.TaggerV1beta1().ImageImports(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 2 {
				t.Errorf("%d ImageImports, %v; want the two of before", len(list.Items), err)
			}
		})
	}
}

// refusal is what an API error says: the fields that are wrong, or else its message.
type refusal struct {
	Code    int32
	Causes  []metav1.StatusCause
	Message string
}

func refusalOf(err error) refusal {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return refusal{}
	}
	r := refusal{Code: status.Status().Code, Message: status.Status().Message}
	if details := status.Status().Details; details != nil && len(details.Causes) > 0 {
		r.Causes, r.Message = details.Causes, ""
	}
	return r
}

func invalidField(kind metav1.CauseType, field, message string) refusal {
	return refusal{Code: http.StatusUnprocessableEntity, Causes: []metav1.StatusCause{{Type: kind, Field: field, Message: message}}}
}
