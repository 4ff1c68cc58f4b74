// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

const pushedFrom = "tagger.example/ns/app:v1"

// place is what a history has at one place, and when that was resolved, in seconds.
type place struct {
	Image string
	At    int
}

func places(history []v1beta1.HashReference) []place {
	all := []place{}
	for _, ref := range history {
		all = append(all, place{ref.ImageReference, int(ref.ResolvedAt.Sub(start).Seconds())})
	}
	return all
}

// TestRecordPush pushes to an Image that has some history, or gets some meanwhile.
func TestRecordPush(t *testing.T) {
	t.Parallel()
	imported := generationOf(sourceRepo, digestB, 5)
	tests := []struct {
		name   string
		limit  *int32
		before []v1beta1.HashReference
		// meanwhile runs before the n-th attempt to write the status is stored.
		meanwhile func(c *cluster, n int) error
		want      []place
		released  int
	}{
		{name: "the first", want: []place{{Image: at(mirrorRepo, digestA), At: 10}}},
		{
			name: "before an import", before: []v1beta1.HashReference{imported},
			want: []place{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(sourceRepo, digestB), At: 5}},
		},
		{
			name: "the same digest again adds none", before: []v1beta1.HashReference{generationOf(mirrorRepo, digestA, 5)},
			want: []place{{Image: at(mirrorRepo, digestA), At: 10}},
		},
		{
			name: "the history is trimmed, and the mirror released of it", limit: ptr.To[int32](1), before: []v1beta1.HashReference{generationOf(mirrorRepo, digestB, 5)},
			want: []place{{Image: at(mirrorRepo, digestA), At: 10}}, released: 1,
		},
		{
			name: "the clock of another server is ahead", before: []v1beta1.HashReference{generationOf(sourceRepo, digestB, 20)},
			want: []place{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(sourceRepo, digestB), At: 10}},
		},
		{
			name: "an import was recorded meanwhile", before: []v1beta1.HashReference{imported},
			meanwhile: func(c *cluster, n int) error {
				if n > 1 {
					return nil
				}
				image := c.image("app")
				image.Status.HashReferences = addToHistory(image.Status.HashReferences, generationOf(sourceRepo, digest.FromString("c"), 10), 25)
				return c.store(image)
			},
			want: []place{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(sourceRepo, digest.FromString("c")), At: 10}, {Image: at(sourceRepo, digestB), At: 5}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Spec.HistoryLimit, image.Status.HashReferences = tt.limit, tt.before
			c.put(image)
			c.mirror.content[digestA] = true
			writes := 0
			c.beforeWrite(func(resource string, _ metav1.Object) error {
				if resource != "images" || tt.meanwhile == nil {
					return nil
				}
				writes++
				return tt.meanwhile(c, writes)
			})
			controller := c.idle()
			c.clock.SetTime(start.Add(10 * time.Second))
			pending, tagged := 0, 0
			if err := controller.RecordPush(t.Context(), image, Pushed{
				From: pushedFrom, Digest: digestA, MediaType: mediaType, Size: 7, Platforms: []string{"linux/amd64"},
			}, func(context.Context) error {
				pending = len(c.mirrorReleases())
				tagged++
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if tagged != 1 {
				t.Errorf("tagged %d times", tagged)
			}
			// What is tagged at the mirror is let go of where this process ends before the push is recorded.
			if known := keeps(tt.before, digestA, mirrorRepo); known != (pending == 0) {
				t.Errorf("%d releases while it was tagged, with it in the history before: %t", pending, known)
			}
			status := c.image("app").Status
			if diff := cmp.Diff(tt.want, places(status.HashReferences)); diff != "" {
				t.Fatalf("history (-want +got):\n%s", diff)
			}
			front := status.HashReferences[0]
			if front.ImportUID == "" {
				t.Error("the entry has no importUID")
			}
			front.ImportUID, front.ImportedAt, front.ResolvedAt = "", metav1.Time{}, metav1.MicroTime{}
			if diff := cmp.Diff(v1beta1.HashReference{
				From: pushedFrom, ImageReference: at(mirrorRepo, digestA), SourceReference: at(mirrorRepo, digestA),
				MediaType: mediaType, Size: 7, Platforms: []string{"linux/amd64"},
			}, front); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
			if got := condition(status.Conditions); got.Status != metav1.ConditionTrue || got.Reason != v1beta1.ReasonPushed {
				t.Errorf("condition %+v, want True and Pushed", got)
			}
			if latest := c.mirror.tagged()["latest"]; latest != digestA {
				t.Errorf("latest at the mirror is %s, want what was pushed", latest)
			}
			if released := len(c.mirrorReleases()); released != tt.released {
				t.Errorf("%d releases, want %d", released, tt.released)
			}
		})
	}
}

// TestRecordPushToWhatIsGone records nothing.
func TestRecordPushToWhatIsGone(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(newImage("app", "uid-other"))
	err := c.idle().RecordPush(t.Context(), image, Pushed{From: pushedFrom, Digest: digestA}, func(context.Context) error {
		t.Error("it is tagged")
		return nil
	})
	if !apierrors.IsConflict(err) {
		t.Errorf("%v, want a conflict", err)
	}
	if writes := c.writes(); len(writes) > 0 {
		t.Errorf("written: %v", writes)
	}
	if releases := len(c.mirrorReleases()); releases != 1 {
		t.Errorf("%d releases of what may have been tagged, want 1", releases)
	}
}

// TestPushThatIsNotTagged: what the mirror does not tag is not recorded.
func TestPushThatIsNotTagged(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	refused := errors.New("refused")
	if err := c.idle().RecordPush(t.Context(), image, Pushed{From: pushedFrom, Digest: digestA}, func(context.Context) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("%v, want what the mirror says", err)
	}
	if history := c.image("app").Status.HashReferences; len(history) > 0 {
		t.Errorf("recorded: %v", places(history))
	}
}

// tagged is a push that got its tags.
func tagged(context.Context) error { return nil }

// TestPushWithoutLatest records pushes and deletions, and says so, where latest at the mirror cannot follow. To repeat them is to try
// that again.
func TestPushWithoutLatest(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(mirrorRepo, digestB, 5)}
	c.put(image)
	c.mirror.content[digestA], c.mirror.content[digestB] = true, true
	controller := c.idle()
	c.clock.SetTime(start.Add(10 * time.Second))
	push := func() error {
		return controller.RecordPush(t.Context(), image, Pushed{From: pushedFrom, Digest: digestA, MediaType: mediaType}, tagged)
	}
	remove := func() error {
		_, err := controller.RecordDeletion(t.Context(), "ns", "app", digestA, start.Add(20*time.Second))
		return err
	}
	for _, tt := range []struct {
		name   string
		do     func() error
		want   []place
		latest digest.Digest
	}{
		{"a push", push, []place{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(mirrorRepo, digestB), At: 5}}, digestA},
		{"a deletion", remove, []place{{Image: at(mirrorRepo, digestB), At: 5}}, digestB},
	} {
		refused := true
		c.mirror.committing = func(string) error {
			if refused {
				return errors.New("refused")
			}
			return nil
		}
		for range 2 {
			if err := tt.do(); apierrors.IsServiceUnavailable(err) != refused || !refused && err != nil {
				t.Errorf("%s: %v, with the mirror refusing: %t", tt.name, err, refused)
			}
			if diff := cmp.Diff(tt.want, places(c.image("app").Status.HashReferences)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.name, diff)
			}
			refused = false
		}
		if latest := c.mirror.tagged()["latest"]; latest != tt.latest {
			t.Errorf("%s: latest at the mirror is %q, want %q", tt.name, latest, tt.latest)
		}
	}
}

// TestRecordDeletion deletes what a history names, or does not.
func TestRecordDeletion(t *testing.T) {
	t.Parallel()
	pushed, imported := generationOf(mirrorRepo, digestA, 5), generationOf(sourceRepo, digestA, 3)
	older := generationOf(mirrorRepo, digestB, 0)
	tests := []struct {
		name   string
		before []v1beta1.HashReference
		there  bool // at the mirror, again
		want   []place
		status metav1.ConditionStatus // empty: untouched
		latest digest.Digest
	}{
		{
			name: "what was pushed again since", before: []v1beta1.HashReference{generationOf(mirrorRepo, digestA, 30)}, there: true,
			want: []place{{Image: at(mirrorRepo, digestA), At: 30}}, latest: digestA,
		},
		{
			name: "what was pushed before, and recorded since", before: []v1beta1.HashReference{generationOf(mirrorRepo, digestA, 30)},
			status: metav1.ConditionUnknown, want: []place{},
		},
		{
			name: "the current one", before: []v1beta1.HashReference{pushed, older}, status: metav1.ConditionTrue,
			want: []place{{Image: at(mirrorRepo, digestB)}}, latest: digestB,
		},
		{
			name: "an earlier one, twice", before: []v1beta1.HashReference{older, pushed, older, pushed},
			want: []place{{Image: at(mirrorRepo, digestB)}, {Image: at(mirrorRepo, digestB)}}, latest: digestB,
		},
		{name: "the only one", before: []v1beta1.HashReference{pushed}, status: metav1.ConditionUnknown, want: []place{}},
		{
			name: "what is at the source only", before: []v1beta1.HashReference{imported},
			want: []place{{Image: at(sourceRepo, digestA), At: 3}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Status.HashReferences = tt.before
			c.put(image)
			c.mirror.content[digestA] = tt.there
			changed, err := c.idle().RecordDeletion(t.Context(), "ns", "app", digestA, start.Add(20*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			status := c.image("app").Status
			if diff := cmp.Diff(tt.want, places(status.HashReferences)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if removed := len(tt.want) < len(tt.before); removed != (changed != nil) {
				t.Errorf("returned %v, want an Image: %v", changed, removed)
			}
			if got := condition(status.Conditions).Status; got != tt.status {
				t.Errorf("condition %q, want %q", got, tt.status)
			}
			if latest := c.mirror.tagged()["latest"]; latest != tt.latest {
				t.Errorf("latest at the mirror is %q, want %q", latest, tt.latest)
			}
		})
	}
	t.Run("at a mirror that lets no tag be deleted", func(t *testing.T) {
		c := newCluster(t)
		image := newImage("app", "uid-app")
		image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, 6), pushed}
		c.put(image)
		c.mirror.untagging = func() error { return errdefs.ErrNotImplemented }
		if changed, err := c.idle().RecordDeletion(t.Context(), "ns", "app", digestA, start.Add(20*time.Second)); err != nil || changed == nil {
			t.Errorf("%v, %v, want the entry gone", changed, err)
		}
	})
	t.Run("of no Image", func(t *testing.T) {
		c := newCluster(t)
		if changed, err := c.idle().RecordDeletion(t.Context(), "ns", "app", digestA, start); err != nil || changed != nil {
			t.Errorf("%v, %v, want nothing", changed, err)
		}
	})
}
