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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestRefresh has Images imported on the shortest schedule there is, without being asked: at once, and again after a minute. What
// the tag means stays as it is, or changes, or the schedule is suspended meanwhile.
func TestRefresh(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(t *testing.T, s *server, namespace string, out *lab.Source)
		// refreshes says whether there is a second one, and what it asks the source for.
		refreshes bool
		want      map[string]int
		entries   int
	}{
		{
			name: "unchanged", change: func(*testing.T, *server, string, *lab.Source) {},
			refreshes: true, want: map[string]int{"HEAD manifests": 1}, entries: 1,
		},
		{
			name: "the tag moves",
			change: func(t *testing.T, _ *server, _ string, out *lab.Source) {
				t.Helper()
				out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			},
			refreshes: true, want: map[string]int{"HEAD manifests": 1, "GET manifests": 1 + referrerTags, "GET blobs": layers + 1}, entries: 2,
		},
		{
			name: "suspended",
			change: func(t *testing.T, s *server, namespace string, _ *lab.Source) {
				t.Helper()
				if _, err := s.api.TaggerV1beta1().Images(namespace).Patch(t.Context(), "app", types.MergePatchType,
					[]byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: map[string]int{}, entries: 1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			image := s.createImage(t, namespace, "app", v1beta1.ImageSpec{
				From: out.Reference("app"), Mirror: true, RefreshInterval: &metav1.Duration{Duration: time.Minute}})
			eventually(t, "the Image is imported", func(context.Context) (bool, error) {
				return s.image(t, namespace, "app").Status.LastAttemptTime != nil, nil
			})
			refreshes := s.refreshes(t, namespace)
			if len(refreshes) != 1 {
				t.Fatalf("%d refreshes, want one", len(refreshes))
			}
			first := s.finished(t, namespace, refreshes[0].Name)
			if want := fmt.Sprintf("app-refresh-%08x", image.CreationTimestamp.Unix()); first.Name != want || !metav1.IsControlledBy(first, image) {
				t.Errorf("the refresh is %s, owned by %+v; want %s of the Image", first.Name, first.OwnerReferences, want)
			}
			before := s.image(t, namespace, "app").Status.LastAttemptTime
			out.Requests()
			tt.change(t, s, namespace, out)
			within := patience
			if !tt.refreshes {
				within = 80 * time.Second // until the next one is certainly due
			}
			err := wait.PollUntilContextTimeout(t.Context(), time.Second, within, false, func(context.Context) (bool, error) {
				return !s.image(t, namespace, "app").Status.LastAttemptTime.Equal(before), nil
			})
			if refreshed := err == nil; refreshed != tt.refreshes {
				t.Fatalf("refreshed again: %t, %v", refreshed, err)
			}
			if tt.refreshes {
				after := s.image(t, namespace, "app").Status.LastAttemptTime
				if passed := after.Sub(before.Time); passed < time.Minute {
					t.Errorf("refreshed again after %s, want a minute at least", passed)
				}
			}
			if diff := cmp.Diff(tt.want, out.Requests()); diff != "" {
				t.Errorf("requests at the source (-want +got):\n%s", diff)
			}
			if history := s.history(t, namespace, "app"); len(history) != tt.entries {
				t.Errorf("history %q, want %d entries", history, tt.entries)
			}
			// Those that have finished are there for a minute.
			if n := len(s.refreshes(t, namespace)); n > 1 {
				t.Errorf("there are %d refreshes", n)
			}
		})
	}
}

// refreshes returns the imports of a namespace that schedules asked for.
func (s *server) refreshes(t *testing.T, namespace string) []v1beta1.ImageImport {
	t.Helper()
	list, err := s.api.TaggerV1beta1().ImageImports(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: v1beta1.LabelRefresh})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}
