// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// marker is what hostile registries say. Nobody may hear it.
const marker = "a-marker-that-must-not-be-repeated"

// errorBody is a registry's error with the marker wherever there is a place for it.
func errorBody(code string) string {
	return `{"errors":[{"code":"` + code + `","message":"` + marker + `","detail":{"` + marker + `":"` + marker + `"}}]}`
}

func flip(body []byte) []byte {
	changed := bytes.Clone(body)
	changed[len(changed)/2] ^= 1
	return changed
}

func half(body []byte) []byte { return body[:len(body)/2] }

// placeholders stand in messages for what differs from run to run.
func placeholders(message string, s *source) string {
	message = strings.ReplaceAll(message, s.reference(""), "SOURCE/")
	message = strings.ReplaceAll(message, s.host, "HOST")
	message = regexp.MustCompile(`sha256:[0-9a-f]{64}`).ReplaceAllString(message, "DIGEST")
	return regexp.MustCompile(`[0-9]+ of [0-9]+ bytes`).ReplaceAllString(message, "N of M bytes")
}

// TestFailedImport imports from a source that fails into an Image with two entries, which stay as they are.
func TestFailedImport(t *testing.T) {
	t.Parallel()
	const (
		place   = "(they are kept in the file of --registry-auth-file, which is not set)"
		changed = "something on the way changes content: look for a broken proxy or cache, or tell the registry"
	)
	tests := []struct {
		name   string
		kind   transportKind
		closed bool
		fault  fault
		tag    string
		want   outcome // of the attempt, as the Image tells it
		ends   bool    // no other attempt is made
	}{
		{
			name: "the registry is down", closed: true, tag: "latest",
			want: failed(v1beta1.ReasonUnavailable, "SOURCE/app:latest: HOST: connection refused"),
		},
		{
			name: "401", fault: answering(http.StatusUnauthorized, "application/json", errorBody("UNAUTHORIZED")), tag: "latest",
			want: failed(v1beta1.ReasonUnauthorized,
				"SOURCE/app:latest: manifest latest: HOST refused access (401); it does not exist or needs credentials that may read it "+place),
		},
		{
			name: "403 with a code of its own", fault: answering(http.StatusForbidden, "application/json", errorBody(marker)), tag: "latest",
			want: failed(v1beta1.ReasonUnauthorized,
				"SOURCE/app:latest: manifest latest: HOST refused access (403); it does not exist or needs credentials that may read it "+place),
		},
		{
			name: "404", tag: "absent",
			want: failed(v1beta1.ReasonNotFound,
				"SOURCE/app:absent: manifest absent: not found at HOST (404); check the repository and the tag"),
		},
		{
			name: "429", fault: answering(http.StatusTooManyRequests, "application/json", errorBody("TOOMANYREQUESTS")), tag: "latest",
			want: failed(v1beta1.ReasonRateLimited,
				"SOURCE/app:latest: HOST limits how often it may be asked (429); credentials often raise the limit "+place),
		},
		{
			name: "500", fault: answering(http.StatusInternalServerError, "text/plain", marker), tag: "latest",
			want: failed(v1beta1.ReasonUnavailable, "SOURCE/app:latest: manifest latest: HOST answered 500"),
		},
		{
			name: "500 where the manifest is fetched", tag: "latest",
			fault: only("manifests", answering(http.StatusInternalServerError, "application/json", errorBody(marker))),
			want:  failed(v1beta1.ReasonUnavailable, "SOURCE/app:latest: manifest DIGEST: HOST answered 500"),
		},
		{
			name: "a web page", fault: answering(http.StatusOK, "text/html", "<title>"+marker+"</title>"), tag: "latest",
			want: failed(v1beta1.ReasonUnsupportedManifest,
				"SOURCE/app:latest: the registry answered with a web page; check that the host is a registry"),
			ends: true,
		},
		{
			name: "a manifest of no known kind", fault: answering(http.StatusOK, marker+"/"+marker, `{"`+marker+`":1}`), tag: "latest",
			want: failed(v1beta1.ReasonUnsupportedManifest, "SOURCE/app:latest: it is neither an OCI nor a docker image"),
			ends: true,
		},
		{
			name: "a manifest of another digest", fault: only("manifests", altering(flip)), tag: "latest",
			want: failed(v1beta1.ReasonDigestMismatch, "SOURCE/app:latest: the registry served DIGEST as DIGEST; "+changed),
		},
		{
			name: "a blob of another digest", fault: only("blobs", altering(flip)), tag: "latest",
			want: failed(v1beta1.ReasonDigestMismatch, "SOURCE/app:latest: blob DIGEST: HOST sent other content; "+changed),
		},
		{
			name: "a truncated blob", fault: only("blobs", altering(half)), tag: "latest",
			want: failed(v1beta1.ReasonUnavailable, "SOURCE/app:latest: blob DIGEST: HOST closed the connection after N of M bytes"),
		},
		{
			name: "a blob that is not there", tag: "latest",
			fault: only("blobs", answering(http.StatusNotFound, "application/json", errorBody("BLOB_UNKNOWN"))),
			want: failed(v1beta1.ReasonNotFound,
				"SOURCE/app:latest: blob DIGEST: not found at HOST (404 BLOB_UNKNOWN); the image is incomplete there, or was deleted meanwhile; push it there again"),
		},
		{
			name: "plain HTTP", kind: plainHTTP, tag: "latest",
			want: failed(v1beta1.ReasonTLS, "SOURCE/app:latest: HOST does not speak TLS; if plain HTTP is meant, set insecure: true"),
		},
		{
			name: "a certificate of an unknown CA", kind: unknownTLS, tag: "latest",
			want: failed(v1beta1.ReasonTLS, "SOURCE/app:latest: the certificate of HOST is signed by an unknown authority; "+
				"have the administrator add its CA, or set insecure: true"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			good := newSource(t, trustedTLS)
			s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: good.reference("app"), Mirror: true})
			for range 2 {
				good.push(t, "app", newImage(t, ociTypes, "amd64"))
				s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
			}
			before := s.image(t, namespace, "app")
			if n := len(before.Status.HashReferences); n != 2 {
				t.Fatalf("%d entries, want two", n)
			}

			bad := newSource(t, tt.kind)
			bad.push(t, "app", newArtifact(t))
			bad.misbehave(tt.fault)
			if tt.closed {
				bad.close()
			}
			s.createImport(t, namespace, "failing", v1beta1.ImageImportSpec{TargetImage: "app", From: bad.reference("app:" + tt.tag)})
			s.awaitImport(t, namespace, "failing", func(imp *v1beta1.ImageImport) bool { return len(imp.Status.ImportAttempts) > 0 })
			var after *v1beta1.Image
			eventually(t, "the Image says that the import failed", func(context.Context) (bool, error) {
				after = s.image(t, namespace, "app")
				return outcomeOf(after.Status.Conditions).Status == metav1.ConditionFalse, nil
			})
			got := outcomeOf(after.Status.Conditions)
			got.Message = placeholders(got.Message, bad)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("the Image's condition (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before.Status.HashReferences, after.Status.HashReferences); diff != "" {
				t.Errorf("the Image's history (-before +after):\n%s", diff)
			}

			imp, err := s.api.TaggerV1beta1().ImageImports(namespace).Get(t.Context(), "failing", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got = outcomeOf(imp.Status.Conditions)
			want := tt.want
			if !tt.ends {
				want.Status = metav1.ConditionUnknown
				want.Message = fmt.Sprintf("attempt %d of 10 failed: %s", len(imp.Status.ImportAttempts), want.Message)
			}
			got.Message = placeholders(got.Message, bad)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the ImageImport's condition (-want +got):\n%s", diff)
			}
			if ended := imp.Status.CompletionTime != nil; ended != tt.ends {
				t.Errorf("ended: %t, want %t", ended, tt.ends)
			}
			s.mustNotRepeat(t, namespace)

			s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonUnchanged)
			if diff := cmp.Diff(metav1.ConditionTrue, outcomeOf(s.image(t, namespace, "app").Status.Conditions).Status); diff != "" {
				t.Errorf("the Image's condition after another import (-want +got):\n%s", diff)
			}
		})
	}
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
	out := newSource(t, trustedTLS)
	image := newImage(t, ociTypes, "amd64")
	out.push(t, "app", image)
	out.misbehave(answering(http.StatusServiceUnavailable, "text/plain", marker))
	s.createImport(t, namespace, "patient", v1beta1.ImageImportSpec{TargetImage: "app", From: out.reference("app"), Mirror: ptr.To(true)})
	s.awaitImport(t, namespace, "patient", func(imp *v1beta1.ImageImport) bool { return len(imp.Status.ImportAttempts) > 0 })
	out.misbehave(nil)
	imp := s.finished(t, namespace, "patient")
	var got []bool
	for _, attempt := range imp.Status.ImportAttempts {
		got = append(got, attempt.Succeed)
	}
	if diff := cmp.Diff([]bool{false, true}, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
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
			out := newSource(t, trustedTLS)
			s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.reference("app")})
			s.createImage(t, namespace, "pushed", v1beta1.ImageSpec{})
			for range 2 {
				out.push(t, "app", newImage(t, ociTypes, "amd64"))
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
