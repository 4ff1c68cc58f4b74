// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned/fake"
	typed "tagger.dev/tagger/pkg/generated/clientset/versioned/typed/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

const interval = time.Hour

// scheduled returns an Image that is refreshed every hour and was imported at the start.
func scheduled(name string) *v1beta1.Image {
	image := newImage(name, "uid-"+name)
	image.Spec.RefreshInterval = &metav1.Duration{Duration: interval}
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestA, 0)}
	return image
}

// later is by how much the refreshes of an Image of that interval come later than that says.
func later(uid types.UID, interval time.Duration) time.Duration {
	return time.Duration(float64(interval) * refreshJitter * fraction(uid))
}

// refreshes returns the refreshes of an Image that were created so far.
func (c *cluster) refreshes(image string) []*v1beta1.ImageImport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refreshesLocked(image)
}

// refreshesLocked is refreshes; mu is held.
func (c *cluster) refreshesLocked(image string) []*v1beta1.ImageImport {
	var created []*v1beta1.ImageImport
	for _, imp := range c.created {
		if imp.Spec.TargetImage == image {
			created = append(created, imp)
		}
	}
	return created
}

// refreshed waits until an Image had that many refreshes and all have ended, and returns when the last one was created.
func (c *cluster) refreshed(image string, n int) time.Time {
	c.Helper()
	c.until(fmt.Sprintf("%s is not refreshed %d times", image, n), func() bool { return len(c.refreshes(image)) >= n })
	created := c.refreshes(image)
	if len(created) != n {
		c.Fatalf("%s was refreshed %d times, want %d", image, len(created), n)
	}
	c.finished(created[n-1].Name)
	return created[n-1].CreationTimestamp.Time
}

// settle is barrier, also for the schedules: the refresh of an Image whose clock was ahead is due at once.
func (c *cluster) settle() {
	c.Helper()
	c.barrier()
	image := newImage(fmt.Sprintf("settle-%d", c.barriers), fmt.Sprintf("uid-settle-%d", c.barriers))
	image.Spec.From, image.Spec.RefreshInterval = barrierFrom, &metav1.Duration{Duration: 1000 * time.Hour}
	image.Status.LastAttemptTime = ptr.To(metav1.NewTime(c.clock.Now().Add(2000 * time.Hour)))
	c.put(image)
	c.refreshed(image.Name, 1)
}

func TestRefreshDue(t *testing.T) {
	t.Parallel()
	const uid = "uid-app"
	hour := later(uid, time.Hour)
	for _, tc := range []struct {
		name     string
		interval time.Duration
		created  time.Duration // times are from when the server started
		last     time.Duration
		never    bool
		now      time.Duration
		want     time.Duration
	}{
		{name: "after the last attempt", interval: time.Hour, created: -time.Minute, last: time.Minute, now: 2 * time.Minute, want: time.Minute + time.Hour + hour},
		{name: "long ago", interval: time.Hour, last: time.Minute, now: 5 * time.Hour, want: time.Minute + time.Hour + hour},
		{name: "before the server started", interval: time.Hour, last: -time.Minute, want: -time.Minute + time.Hour + hour},
		{name: "missed", interval: time.Hour, last: -10 * time.Hour, want: hour},
		{name: "missed, and seldom", interval: 1000 * time.Hour, last: -2000 * time.Hour, want: later(uid, 10*missedRefresh)},
		{name: "never", interval: time.Hour, never: true, created: time.Second, want: time.Second + later(uid, 10*firstRefresh)},
		{name: "never, and soon again", interval: time.Minute, never: true, created: time.Second, want: time.Second + later(uid, time.Minute)},
		{name: "never, before the server started", interval: time.Hour, never: true, created: -time.Hour, want: later(uid, 10*firstRefresh)},
		{name: "by a clock that was a little ahead", interval: time.Hour, last: 2 * time.Minute, now: time.Minute, want: 2*time.Minute + time.Hour + hour},
		{name: "by a clock that was far ahead", interval: time.Hour, last: 5 * time.Hour, now: time.Minute, want: time.Minute},
		{name: "missed, by a clock that was ahead at the start", interval: time.Hour, last: -20 * time.Hour, now: -10 * time.Hour, want: -19*time.Hour + hour},
		{name: "never, by a clock that was ahead at the start", interval: time.Minute, never: true, created: -10 * time.Hour, now: -9 * time.Hour,
			want: -10*time.Hour + later(uid, time.Minute)},
		{name: "as seldom as can be said", interval: 1<<63 - 1, last: time.Minute, now: time.Minute, want: 1<<63 - 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			controller := c.idle()
			controller.started = start
			c.clock.SetTime(start.Add(tc.now))
			image := newImage("app", uid)
			image.CreationTimestamp = metav1.NewTime(start.Add(tc.created))
			image.Spec.RefreshInterval = &metav1.Duration{Duration: tc.interval}
			if !tc.never {
				image.Status.LastAttemptTime = ptr.To(metav1.NewTime(start.Add(tc.last)))
			}
			if got := controller.refreshDue(image).Sub(start); got != tc.want {
				t.Errorf("due %s after the start, want %s", got, tc.want)
			}
		})
	}
	if hour < time.Minute || hour > 6*time.Minute {
		t.Errorf("it comes later by %s, which shows nothing", hour)
	}
}

// TestLookAgain: a schedule is looked at now and then, in case that the clock is set, or the Image is gone.
func TestLookAgain(t *testing.T) {
	c := newCluster(t)
	controller := c.idle()
	image := scheduled("app")
	image.Spec.RefreshInterval.Duration = 1000 * interval
	if err := controller.images.GetIndexer().Add(image); err != nil {
		t.Fatal(err)
	}
	key := cache.NewObjectName(namespace, "app")
	if after, err := controller.syncRefresh(t.Context(), key); err != nil || after != lookAgain {
		t.Errorf("looked at again after %s, %v; want %s", after, err, lookAgain)
	}
	c.clock.SetTime(start.Add(1000*interval + later(image.UID, 1000*interval) - time.Second))
	if after, err := controller.syncRefresh(t.Context(), key); err != nil || after != time.Second {
		t.Errorf("looked at again after %s, %v; want when it is due", after, err)
	}
}

func TestFraction(t *testing.T) {
	t.Parallel()
	tenths := [10]int{}
	for i := range 1000 {
		got := fraction(types.UID(fmt.Sprintf("0e7cf8b6-32cf-4d29-8e8c-%012d", i)))
		if got < 0 || got > 1 {
			t.Fatalf("%f is not from 0 to 1", got)
		}
		tenths[min(int(got*10), 9)]++
	}
	for tenth, n := range tenths {
		if n < 50 || n > 200 {
			t.Errorf("%d of 1000 UIDs in tenth %d: %v", n, tenth, tenths)
		}
	}
}

// TestRefresh lets two replicas refresh an Image three times.
func TestRefresh(t *testing.T) {
	c := newCluster(t)
	image := scheduled("app")
	image.Spec.Mirror = true
	c.mirror.content[digestA] = true
	image.Status.HashReferences[0] = generationOf(mirrorRepo, digestA, 0)
	image.Status.HashReferences[0].ReferrersCheckedAt = ptr.To(metav1.NewTime(start))
	c.put(image)
	replicas := []*running{c.run(), c.run()}
	last := start
	for n := 1; n <= 3; n++ {
		due := last.Add(interval + later(image.UID, interval)).Truncate(time.Second)
		c.clock.SetTime(due.Add(-time.Second))
		c.settle()
		if got := len(c.refreshes("app")); got != n-1 {
			t.Fatalf("refreshed at %s already, %s too early", c.clock.Now(), due.Sub(c.clock.Now()))
		}
		before := len(c.writes())
		c.clock.SetTime(due.Add(time.Second))
		c.refreshed("app", n)
		imp := c.refreshes("app")[n-1]
		writes := 0
		for _, write := range c.writes()[before:] {
			if strings.HasSuffix(write, "/app") || strings.HasSuffix(write, "/"+imp.Name) {
				writes++
			}
		}
		if writes != 4 {
			t.Errorf("%d writes, want four: the claim, the record, the end, and that the record is not needed any more", writes)
		}
		if got := condition(c.imp(imp.Name).Status.Conditions).Reason; got != v1beta1.ReasonUnchanged {
			t.Errorf("it ended %s, want Unchanged", got)
		}
		want := &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("app-refresh-%08x", last.Unix()), Namespace: namespace, Labels: map[string]string{"tagger.dev/refresh": "true"},
		}, Spec: v1beta1.ImageImportSpec{TargetImage: "app", TTLSecondsAfterFinished: ptr.To[int32](300)}}
		got := &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: imp.Name, Namespace: imp.Namespace, Labels: imp.Labels},
			Spec: v1beta1.ImageImportSpec{TargetImage: imp.Spec.TargetImage, TTLSecondsAfterFinished: imp.Spec.TTLSecondsAfterFinished}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("refresh (-want +got):\n%s", diff)
		}
		now := c.image("app").Status
		if diff := cmp.Diff([]generation{{Image: at(mirrorRepo, digestA), Import: string(imp.UID), At: int(c.clock.Since(start).Seconds()),
			Size: mirroredSize, Platforms: mirroredPlatforms}}, generations(now.HashReferences)); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
		if last = now.LastAttemptTime.Time; !last.Equal(c.clock.Now()) {
			t.Errorf("last tried at %s, want %s", last, c.clock.Now())
		}
		for _, replica := range replicas { // neither is about to create a refresh: hours go by faster than they do here
			replica.refreshes.Add(cache.NewObjectName(namespace, "nothing"))
			c.until("the schedules are not looked at", func() bool { return replica.refreshes.Len() == 0 })
		}
	}
	if got := len(c.source.times(appFrom)); got != 3 || c.source.mirrorings() > 0 {
		t.Errorf("resolved %d times and copied %d times, want 3 and none", got, c.source.mirrorings())
	}
}

// TestNoRefresh looks at Images that nothing is to be done for.
func TestNoRefresh(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*v1beta1.Image)
	}{
		{name: "no interval", change: func(i *v1beta1.Image) { i.Spec.RefreshInterval = nil }},
		{name: "suspended", change: func(i *v1beta1.Image) { i.Spec.Suspend = true }},
		{name: "no source", change: func(i *v1beta1.Image) { i.Spec.From = "" }},
		{name: "being deleted", change: func(i *v1beta1.Image) { i.DeletionTimestamp = ptr.To(metav1.NewTime(start)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := scheduled("app")
			tc.change(image)
			c.put(image)
			c.run()
			c.settle()
			c.clock.Step(3 * interval)
			c.settle()
			if got := len(c.refreshes("app")); got != 0 {
				t.Errorf("refreshed %d times", got)
			}
		})
	}
}

// TestLabelOfSomebodyElse has an import that bears the label of refreshes and stays for years: the schedule does not wait for that.
func TestLabelOfSomebodyElse(t *testing.T) {
	c := newCluster(t)
	image := scheduled("app")
	c.put(image)
	imp := newImport("theirs", image, false)
	imp.Labels = map[string]string{v1beta1.LabelRefresh: "true"}
	imp.Spec.TTLSecondsAfterFinished = ptr.To[int32](1<<31 - 1)
	imp.Status.CompletionTime = ptr.To(metav1.NewTime(start))
	c.put(imp)
	c.run()
	c.settle()
	c.clock.SetTime(start.Add(refreshTTL))
	c.settle()
	c.clock.SetTime(start.Add(2 * interval))
	c.refreshed("app", 1)
}

// TestScheduleChanges changes the schedule an hour and a half after the start, when nothing was due yet or all was suspended.
func TestScheduleChanges(t *testing.T) {
	t.Parallel()
	every := func(d time.Duration) func(*v1beta1.Image) {
		return func(i *v1beta1.Image) { i.Spec.RefreshInterval = &metav1.Duration{Duration: d} }
	}
	for _, tc := range []struct {
		name          string
		before, after func(*v1beta1.Image)
		want          time.Duration // when it is refreshed, after the start
	}{
		{name: "to what is due already", before: every(24 * time.Hour), after: every(time.Hour), want: 90 * time.Minute},
		{name: "to less", before: every(24 * time.Hour), after: every(2 * time.Hour), want: 2*time.Hour + later("uid-app", 2*time.Hour)},
		{name: "to more", before: every(100 * time.Minute), after: every(2 * time.Hour), want: 2*time.Hour + later("uid-app", 2*time.Hour)},
		{name: "it goes on", before: func(i *v1beta1.Image) { i.Spec.Suspend = true }, after: func(i *v1beta1.Image) { i.Spec.Suspend = false },
			want: 90 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := scheduled("app")
			tc.before(image)
			c.put(image)
			c.run()
			c.settle()
			c.clock.SetTime(start.Add(90 * time.Minute))
			c.settle()
			changed := c.image("app")
			tc.after(changed)
			c.put(changed)
			if tc.want > 90*time.Minute {
				c.settle()
				c.clock.SetTime(start.Add(tc.want - time.Second))
				c.settle()
				if got := len(c.refreshes("app")); got != 0 {
					t.Fatalf("refreshed %d times too early", got)
				}
				c.clock.SetTime(start.Add(tc.want))
			}
			c.refreshed("app", 1)
		})
	}
}

// TestRefreshWhenAnotherImportEnds: the schedule is looked at again also when that says nothing in the Image.
func TestRefreshWhenAnotherImportEnds(t *testing.T) {
	c := newCluster(t)
	image := scheduled("app")
	c.put(image)
	other := newImport("other", image, false)
	other.Status.NextAttemptTime = ptr.To(metav1.NewTime(start.Add(10 * interval)))
	c.put(other)
	c.run()
	c.settle()
	c.clock.SetTime(start.Add(2 * interval))
	c.settle()
	if got := len(c.refreshes("app")); got != 0 {
		t.Fatalf("refreshed %d times beside another import", got)
	}
	other.Status.NextAttemptTime, other.Status.CompletionTime = nil, ptr.To(metav1.NewTime(c.clock.Now()))
	c.put(other)
	c.refreshed("app", 1)
}

// TestRefreshAndOthers: the schedule waits for an import that somebody asked for, and goes by that.
func TestRefreshAndOthers(t *testing.T) {
	c := newCluster(t)
	image := scheduled("app")
	c.put(image)
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, src importer.Source) error {
		if len(c.source.times(appFrom)) > 1 {
			return nil
		}
		return gate.pass(ctx)
	})
	c.run(workers(2))
	c.settle()
	c.clock.SetTime(start.Add(30 * time.Minute))
	c.put(newImport("asked-for", image, false))
	gate.wait(t)
	c.clock.SetTime(start.Add(2 * interval))
	c.settle()
	if got := len(c.refreshes("app")); got != 0 {
		t.Fatalf("refreshed %d times while it is imported", got)
	}
	close(gate.opened)
	c.finished("asked-for")
	due := start.Add(3*interval + later(image.UID, interval))
	c.clock.SetTime(due.Add(-time.Second))
	c.settle()
	if got := len(c.refreshes("app")); got != 0 {
		t.Fatalf("refreshed %d times within an interval after an import", got)
	}
	c.clock.SetTime(due)
	c.refreshed("app", 1)
}

// TestFailingRefresh has the source fail until there were six refreshes: there is one at a time, and no more than the interval says.
func TestFailingRefresh(t *testing.T) {
	t.Parallel()
	for _, kind := range []importer.Kind{importer.Unavailable, importer.Blocked} {
		t.Run(string(kind), func(t *testing.T) {
			c := newCluster(t)
			c.put(scheduled("app"))
			c.source.fails(&importer.Error{Kind: kind, Err: errors.New("no")})
			c.run()
			c.advance(time.Minute, "there are no six refreshes", func() bool {
				list, err := c.client.Tracker().List(importsGVR, v1beta1.SchemeGroupVersion.WithKind("ImageImport"), namespace)
				if n := len(list.(*v1beta1.ImageImportList).Items); err != nil || n > 1 {
					t.Errorf("there are %d refreshes at once, %v", n, err)
				}
				return len(c.refreshes("app")) >= 6
			})
			if passed := c.clock.Since(start); passed < 5*interval {
				t.Errorf("refreshed six times in %s", passed)
			}
		})
	}
}

// TestRefreshAfterDowntime starts a server after Images have missed many refreshes: each has one, and not all at once.
func TestRefreshAfterDowntime(t *testing.T) {
	const images = 20
	c := newCluster(t)
	for i := range images {
		image := scheduled(fmt.Sprintf("app-%d", i))
		image.Status.HashReferences[0].ResolvedAt = metav1.NewMicroTime(start.Add(-100 * interval))
		c.put(image)
	}
	c.run(workers(4))
	c.settle()
	atOnce := 0
	for i := range images {
		atOnce += len(c.refreshes(fmt.Sprintf("app-%d", i)))
	}
	c.clock.SetTime(start.Add(interval / 10))
	minutes := map[time.Time]int{}
	for i := range images {
		name := fmt.Sprintf("app-%d", i)
		c.refreshed(name, 1)
		minutes[start.Add(later(types.UID("uid-"+name), interval)).Truncate(time.Minute)]++
	}
	if atOnce > images/4 || len(minutes) < 4 {
		t.Errorf("%d of %d at once, by minute: %v", atOnce, images, minutes)
	}
	c.clock.SetTime(start.Add(interval - time.Second))
	c.settle()
	for i := range images {
		if n := len(c.refreshes(fmt.Sprintf("app-%d", i))); n != 1 {
			t.Errorf("app-%d was refreshed %d times within an interval, want once", i, n)
		}
	}
}

// TestRefreshOfNewImage: what was never imported is, within a minute.
func TestRefreshOfNewImage(t *testing.T) {
	c := newCluster(t)
	c.run()
	c.settle()
	image := scheduled("app")
	image.Status = v1beta1.ImageStatus{}
	c.put(image)
	c.settle()
	c.clock.SetTime(start.Add(firstRefresh))
	c.refreshed("app", 1)
	if got := c.image("app").Status.HashReferences; len(got) != 1 {
		t.Errorf("history %+v, want one entry", generations(got))
	}
}

// TestRefreshIsNotCreated fails the creation: it is tried again.
func TestRefreshIsNotCreated(t *testing.T) {
	t.Parallel()
	resource := v1beta1.Resource("imageimports")
	for _, tc := range []struct {
		name string
		err  error
		// said is what the Image says of it.
		said string
	}{
		{name: "the storage cannot be reached", err: apierrors.NewServiceUnavailable("down")},
		{
			name: "the quota is used up", err: apierrors.NewForbidden(resource, "app-refresh-0", errors.New("exceeded quota")),
			said: `imageimports.tagger.dev "app-refresh-0" is forbidden: exceeded quota`,
		},
		{
			name: "a policy calls it invalid, and is changed", err: apierrors.NewInvalid(v1beta1.Kind("ImageImport"), "app-refresh-0", nil),
			said: `ImageImport.tagger.dev "app-refresh-0" is invalid`,
		},
		{
			name: "a webhook says no more than that",
			err:  &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 400, Message: "admission webhook denied the request: no"}},
			said: "admission webhook denied the request: no",
		},
		{name: "a conflict", err: apierrors.NewConflict(resource, "app-refresh-0", errors.New("no"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			c.put(scheduled("app"))
			failed := 0
			c.client.PrependReactor("create", "imageimports", func(action clienttesting.Action) (bool, runtime.Object, error) {
				imp := action.(clienttesting.CreateAction).GetObject().(*v1beta1.ImageImport)
				if imp.Spec.TargetImage != "app" || failed == 3 {
					return false, nil, nil
				}
				failed++
				return true, nil, tc.err
			})
			said := map[string]bool{}
			c.beforeWrite(func(_ string, obj metav1.Object) error {
				if image, ok := obj.(*v1beta1.Image); ok && image.Name == "app" && len(c.refreshesLocked("app")) == 0 {
					condition := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionImported)
					if condition.Reason != v1beta1.ReasonBlocked || said[condition.Message] {
						t.Errorf("said again: %v", condition)
					}
					said[condition.Message] = true
				}
				return nil
			})
			c.run()
			c.settle()
			c.clock.Step(2 * interval)
			c.advance(time.Second, "it is not tried again", func() bool { return len(c.refreshes("app")) > 0 })
			c.settle()
			if got := len(c.refreshes("app")); got != 1 || failed != 3 {
				t.Errorf("refreshed %d times, want once", got)
			}
			c.beforeWrite(nil)
			want := map[string]bool{}
			if tc.said != "" {
				want["the cluster refuses the refresh: "+tc.said] = true
			}
			if diff := cmp.Diff(want, said); diff != "" {
				t.Errorf("what the Image says (-want +got):\n%s", diff)
			}
			if got := meta.FindStatusCondition(c.image("app").Status.Conditions, v1beta1.ConditionImported); got.Status != metav1.ConditionTrue {
				t.Errorf("after the refresh the Image says %v", got)
			}
		})
	}
}

// TestRefreshIsRefusedInOtherWords: a refusal that never says the same is tried no more often than another.
func TestRefreshIsRefusedInOtherWords(t *testing.T) {
	c := newCluster(t)
	c.put(scheduled("app"))
	var refused atomic.Int32
	c.client.PrependReactor("create", "imageimports", func(action clienttesting.Action) (bool, runtime.Object, error) {
		imp := action.(clienttesting.CreateAction).GetObject().(*v1beta1.ImageImport)
		if imp.Spec.TargetImage != "app" {
			return false, nil, nil
		}
		n := refused.Add(1)
		return true, nil, apierrors.NewForbidden(v1beta1.Resource("imageimports"), imp.Name, fmt.Errorf("this is refusal %d", n))
	})
	c.run()
	c.settle()
	c.clock.Step(2 * interval)
	c.until("the Image does not say so", func() bool {
		condition := meta.FindStatusCondition(c.image("app").Status.Conditions, v1beta1.ConditionImported)
		return condition != nil && condition.Reason == v1beta1.ReasonBlocked
	})
	c.settle()
	c.settle()
	if got := refused.Load(); got != 1 {
		t.Errorf("it was tried %d times while the clock stood still", got)
	}
}

// TestRefreshOfDeletedImage: where the Image has gone before its refresh is created, that is not tried for ever.
func TestRefreshOfDeletedImage(t *testing.T) {
	c := newCluster(t)
	c.put(scheduled("app"))
	removed := false
	c.client.PrependReactor("create", "imageimports", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.(clienttesting.CreateAction).GetObject().(*v1beta1.ImageImport).Spec.TargetImage == "app" && !removed {
			removed = true
			c.remove("app")
		}
		return false, nil, nil
	})
	replica := c.run()
	c.settle()
	c.clock.Step(2 * interval)
	c.settle()
	c.clock.Step(interval)
	c.settle()
	if key := cache.NewObjectName(namespace, "app"); replica.refreshes.NumRequeues(key) > 0 || !removed {
		t.Error("the refresh of an Image that is gone is tried again")
	}
}

// TestNameOfRefreshIsTaken: somebody has given the name of a refresh to an import of another Image. The schedule goes on when that
// is gone.
func TestNameOfRefreshIsTaken(t *testing.T) {
	c := newCluster(t)
	c.put(scheduled("app"))
	other := newImage("other", "uid-other")
	c.put(other)
	taken := newImport(fmt.Sprintf("app-refresh-%08x", start.Unix()), other, false)
	taken.Status.CompletionTime = ptr.To(metav1.NewTime(start.Add(10 * interval)))
	c.put(taken)
	c.run()
	c.settle()
	c.clock.Step(2 * interval)
	c.settle()
	if err := c.client.Tracker().Delete(importsGVR, namespace, taken.Name); err != nil {
		t.Fatal(err)
	}
	c.settle()
	c.clock.Step(refreshTaken)
	c.refreshed("app", 1)
}

// slowClient is a client for which the creation of the imports of an Image lasts, as where a webhook does not answer.
type slowClient struct {
	*fake.Clientset
	image string
	gate  *gate
}

func (s slowClient) TaggerV1beta1() typed.TaggerV1beta1Interface {
	return slowGroup{s.Clientset.TaggerV1beta1(), s}
}

type slowGroup struct {
	typed.TaggerV1beta1Interface
	client slowClient
}

func (s slowGroup) ImageImports(namespace string) typed.ImageImportInterface {
	return slowImports{s.TaggerV1beta1Interface.ImageImports(namespace), s.client}
}

type slowImports struct {
	typed.ImageImportInterface
	client slowClient
}

func (s slowImports) Create(ctx context.Context, imp *v1beta1.ImageImport, options metav1.CreateOptions) (*v1beta1.ImageImport, error) {
	if imp.Spec.TargetImage == s.client.image {
		if err := s.client.gate.pass(ctx); err != nil {
			return nil, err
		}
	}
	return s.ImageImportInterface.Create(ctx, imp, options)
}

// TestSlowRefresh: the schedules of other Images do not wait for one whose refresh cannot be created.
func TestSlowRefresh(t *testing.T) {
	c := newCluster(t)
	gate := newGate()
	c.run(workers(2), func(config *Config) { config.Client = slowClient{c.client, "slow", gate} })
	c.settle()
	c.put(scheduled("slow"))
	c.settle()
	c.clock.Step(2 * interval)
	gate.wait(t)
	c.settle()
	close(gate.opened)
	c.refreshed("slow", 1)
}
