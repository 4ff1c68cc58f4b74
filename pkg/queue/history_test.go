// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// entry returns a generation whose digest is named by a letter and that was resolved at a second.
func entry(digest string, second int) v1beta1.HashReference {
	return v1beta1.HashReference{
		From:           "example.com/app:latest",
		ImageReference: "example.com/app@sha256:" + digest,
		ResolvedAt:     metav1.NewMicroTime(time.Unix(int64(second), 0)),
	}
}

func mirrored(ref v1beta1.HashReference) v1beta1.HashReference {
	ref.ImageReference = "mirror.example/ns/" + ref.ImageReference
	return ref
}

func TestAddToHistory(t *testing.T) {
	t.Parallel()
	type history = []v1beta1.HashReference
	for _, tc := range []struct {
		name    string
		history history
		ref     v1beta1.HashReference
		limit   int
		want    history
	}{
		{name: "first", ref: entry("a", 1), limit: 25, want: history{entry("a", 1)}},
		{name: "another digest lies in front", history: history{entry("a", 1)}, ref: entry("b", 2), limit: 25,
			want: history{entry("b", 2), entry("a", 1)}},
		{name: "the same digest refreshes the first entry", history: history{entry("b", 2), entry("a", 1)}, ref: entry("b", 3), limit: 25,
			want: history{entry("b", 3), entry("a", 1)}},
		{name: "the same digest, mirrored now", history: history{entry("a", 1)}, ref: mirrored(entry("a", 2)), limit: 25,
			want: history{mirrored(entry("a", 2))}},
		{name: "a tag moved back is a new entry", history: history{entry("b", 2), entry("a", 1)}, ref: entry("a", 3), limit: 25,
			want: history{entry("a", 3), entry("b", 2), entry("a", 1)}},
		{name: "resolved earlier lies behind", history: history{entry("c", 5), entry("a", 1)}, ref: entry("b", 3), limit: 25,
			want: history{entry("c", 5), entry("b", 3), entry("a", 1)}},
		{name: "resolved earlier than all", history: history{entry("c", 5)}, ref: entry("b", 3), limit: 25,
			want: history{entry("c", 5), entry("b", 3)}},
		{name: "an earlier sighting of the newest digest adds none", history: history{entry("c", 5), entry("a", 1)}, ref: entry("c", 3), limit: 25,
			want: history{entry("c", 5), entry("a", 1)}},
		{name: "an earlier sighting of an older digest refreshes that", history: history{entry("c", 5), entry("a", 1)}, ref: entry("a", 3), limit: 25,
			want: history{entry("c", 5), entry("a", 3)}},
		{name: "the oldest goes at the limit", history: history{entry("b", 2), entry("a", 1)}, ref: entry("c", 3), limit: 2,
			want: history{entry("c", 3), entry("b", 2)}},
		{name: "a lowered limit", history: history{entry("c", 3), entry("b", 2), entry("a", 1)}, ref: entry("c", 4), limit: 1,
			want: history{entry("c", 4)}},
		{name: "older than all that are kept", history: history{entry("c", 3), entry("b", 2)}, ref: entry("a", 1), limit: 2,
			want: history{entry("c", 3), entry("b", 2)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			before := append(history(nil), tc.history...)
			got := addToHistory(tc.history, tc.ref, tc.limit)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, tc.history); diff != "" {
				t.Errorf("the argument was changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		failed     int
		retryAfter time.Duration
		min, max   time.Duration
	}{
		{name: "first", failed: 1, min: 2 * time.Second, max: 2400 * time.Millisecond},
		{name: "doubles", failed: 3, min: 8 * time.Second, max: 9600 * time.Millisecond},
		{name: "is bounded", failed: 9, min: 5 * time.Minute, max: 6 * time.Minute},
		{name: "as the upstream asks", failed: 1, retryAfter: time.Minute, min: time.Minute, max: time.Minute},
		{name: "but not for ever", failed: 1, retryAfter: 24 * time.Hour, min: time.Hour, max: time.Hour},
		{name: "never less than its own", failed: 9, retryAfter: time.Second, min: 5 * time.Minute, max: 6 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := pause(tc.failed, tc.retryAfter); got < tc.min || got > tc.max {
				t.Errorf("pause(%d, %s) = %s, want between %s and %s", tc.failed, tc.retryAfter, got, tc.min, tc.max)
			}
		})
	}
}
