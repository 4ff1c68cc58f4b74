// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func TestFindEntry(t *testing.T) {
	t.Parallel()
	digests := func(digests ...string) []tagger.HashReference {
		var history []tagger.HashReference
		for _, digest := range digests {
			history = append(history, tagger.HashReference{ImageReference: "mirror.example/ns/myapp@" + digest})
		}
		return history
	}
	full := "sha256:5a3771f1" + strings.Repeat("0", 56)
	history := digests("sha256:aaaa00", full, "sha256:aaaa11", "sha512:5a3771f1", full)
	tests := []struct {
		name    string
		history []tagger.HashReference
		spec    tagger.ImageRollbackSpec
		want    int
		// reason, field and message are those of a refusal; of the message a part.
		reason         metav1.StatusReason
		field, message string
	}{
		{name: "the previous", history: history, want: 1},
		{name: "a number", history: history, spec: tagger.ImageRollbackSpec{Number: ptr.To[int32](4)}, want: 3},
		{name: "the current", history: history, spec: tagger.ImageRollbackSpec{Number: ptr.To[int32](1)}, want: 0},
		{name: "the last", history: history, spec: tagger.ImageRollbackSpec{Number: ptr.To[int32](5)}, want: 4},
		{name: "a digest, the newest entry of it", history: history, spec: tagger.ImageRollbackSpec{Digest: full}, want: 1},
		{name: "the beginning of a digest", history: history, spec: tagger.ImageRollbackSpec{Digest: "sha256:5a37"}, want: 1},
		{name: "of another algorithm", history: history, spec: tagger.ImageRollbackSpec{Digest: "sha512:5a37"}, want: 3},
		{
			name: "no such number", history: history, spec: tagger.ImageRollbackSpec{Number: ptr.To[int32](6)},
			reason: metav1.StatusReasonInvalid, field: "spec.number", message: "Invalid value: 6: the history has 5 entries; see kubectl image history myapp",
		},
		{
			name: "no such digest", history: history, spec: tagger.ImageRollbackSpec{Digest: "sha256:bbbb"},
			reason: metav1.StatusReasonInvalid, field: "spec.digest",
			message: `Invalid value: "sha256:bbbb": no digest of the history begins so; see kubectl image history myapp`,
		},
		{
			name: "several such digests", history: history, spec: tagger.ImageRollbackSpec{Digest: "sha256:aaaa"},
			reason: metav1.StatusReasonInvalid, field: "spec.digest", message: "several digests of the history begin so; write more digits",
		},
		{
			name: "nothing earlier", history: history[:1], reason: metav1.StatusReasonConflict,
			message: "the history has one entry, so that there is nothing earlier to go back to",
		},
		{name: "the only one", history: history[:1], spec: tagger.ImageRollbackSpec{Number: ptr.To[int32](1)}, want: 0},
		{
			name: "nothing at all", reason: metav1.StatusReasonConflict,
			message: "the history has no entries, so that there is nothing earlier to go back to",
		},
		{
			name: "no such number, as there are none", spec: tagger.ImageRollbackSpec{Number: ptr.To[int32](1)},
			reason: metav1.StatusReasonInvalid, field: "spec.number", message: "the history has no entries",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := FindEntry(object(func(i *tagger.Image) { i.Status.HashReferences = tt.history }), &tt.spec)
			if reason := apierrors.ReasonForError(err); err != nil && reason != tt.reason || err == nil && tt.reason != "" {
				t.Fatalf("error %v, want the reason %q", err, tt.reason)
			}
			switch {
			case err == nil && got != tt.want:
				t.Errorf("entry %d, want %d", got, tt.want)
			case err != nil && !strings.Contains(err.Error(), tt.message):
				t.Errorf("error %v, want it with %q", err, tt.message)
			case err != nil && tt.field != "" && !apierrors.HasStatusCause(err, metav1.CauseTypeFieldValueInvalid):
				t.Errorf("error %v has no cause", err)
			case err != nil && tt.field != "" && !strings.Contains(err.Error(), tt.field+": "):
				t.Errorf("error %v, want it to name %s", err, tt.field)
			}
		})
	}
}
