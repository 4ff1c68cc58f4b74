// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

func TestProgress(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	one := newImport("one", image, true)
	one.Status.NextAttemptTime = ptr.To(metav1.NewTime(start.Add(-time.Second)))
	one.Status.ImportAttempts = []v1beta1.ImportAttempt{{When: metav1.NewTime(start.Add(-time.Minute)), Reason: "failed"}}
	c.put(one)
	gate := newGate()
	c.source.mirroring = func(ctx context.Context, _ *importer.Resolved, progress func(importer.Progress)) error {
		progress(importer.Progress{Blobs: 1, BlobsTotal: 4, Bytes: 10, BytesTotal: 40})
		return gate.pass(ctx)
	}
	c.run()
	gate.wait(t)
	c.advance(progressInterval, "no progress is written", func() bool { return c.imp("one").Status.Progress != nil })
	status := c.imp("one").Status
	if diff := cmp.Diff(&v1beta1.ImportProgress{Blobs: 1, BlobsTotal: 4, Bytes: 10, BytesTotal: 40}, status.Progress); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	got := condition(status.Conditions)
	if got.Status != metav1.ConditionUnknown || got.Reason != v1beta1.ReasonInProgress || got.Message != "attempt 2 of 10 runs" {
		t.Errorf("condition %s/%s %q, want that attempt 2 runs", got.Status, got.Reason, got.Message)
	}
	if status.NextAttemptTime != nil || status.StartTime == nil || status.CompletionTime != nil {
		t.Errorf("next attempt %v, start %v, completion %v; want only a start", status.NextAttemptTime, status.StartTime, status.CompletionTime)
	}
	close(gate.opened)
	ended := c.finished("one").Status
	if ended.Progress != nil || condition(ended.Conditions).Status != metav1.ConditionTrue || len(ended.ImportAttempts) != 2 {
		t.Errorf("ended %s with progress %+v after %d attempts", condition(ended.Conditions).Status, ended.Progress, len(ended.ImportAttempts))
	}
	if !ended.StartTime.Equal(status.StartTime) {
		t.Errorf("the start moved from %s to %s", status.StartTime, ended.StartTime)
	}
}

// TestDrain stops the controller while one attempt runs and another import waits for the only worker.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		ends     bool // the attempt ends before DrainTimeout
		want     said // the import, when Run has returned
		attempts int
		resolves int // of the running import, the next start included
	}{
		{name: "the attempt ends in time", ends: true, want: said{Status: metav1.ConditionTrue, Reason: v1beta1.ReasonImported}, attempts: 1, resolves: 1},
		{name: "the attempt takes too long", want: said{Status: metav1.ConditionUnknown, Reason: v1beta1.ReasonPending}, resolves: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
			running := c.run()
			gate.wait(t)
			waiting := newImage("waiting", "uid-waiting")
			waiting.Spec.From = "example.com/waiting:latest"
			c.source.move(waiting.Spec.From, digestB)
			c.put(waiting)
			c.put(newImport("two", waiting, false))
			c.until("the second import is not queued", func() bool { return running.queue.Len() == 1 })
			running.cancel()
			c.until("the queue is not shut down", running.queue.ShuttingDown)
			var waited time.Duration
			if tc.ends {
				close(gate.opened)
				c.until("Run does not return", running.hasEnded)
			} else {
				before := c.clock.Now()
				c.advance(time.Second, "Run does not return", running.hasEnded)
				waited = c.clock.Since(before)
				if waited < time.Minute {
					t.Errorf("the attempt was cut off after %s, want the DrainTimeout of a minute", waited)
				}
			}
			status := c.imp("one").Status
			if got := condition(status.Conditions); got.Status != tc.want.Status || got.Reason != tc.want.Reason || status.Claim != nil {
				t.Errorf("left as %s/%s, claimed by %v; want %+v, released", got.Status, got.Reason, status.Claim, tc.want)
			}
			if len(status.ImportAttempts) != tc.attempts || (status.CompletionTime != nil) != tc.ends {
				t.Errorf("left with attempts %+v, completed %v; want %d", status.ImportAttempts, status.CompletionTime, tc.attempts)
			}
			if got := condition(c.image("app").Status.Conditions).Status; (got == metav1.ConditionTrue) != tc.ends {
				t.Errorf("the Image was left as %q", got)
			}
			if got := len(c.source.times(waiting.Spec.From)); got != 0 {
				t.Errorf("an attempt began after the stop")
			}

			c.source.onResolve(nil)
			c.run()
			for _, name := range []string{"one", "two"} {
				ended := c.finished(name).Status
				if condition(ended.Conditions).Status != metav1.ConditionTrue || len(ended.ImportAttempts) != 1 {
					t.Errorf("%s ended %s after %d attempts, want True after 1", name, condition(ended.Conditions).Status, len(ended.ImportAttempts))
				}
			}
			if got := len(c.source.times(appFrom)); got != tc.resolves {
				t.Errorf("resolved %d times, want %d", got, tc.resolves)
			}
		})
	}
}

func TestRunEndsBeforeTheCachesFill(t *testing.T) {
	c := newCluster(t)
	c.client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errNotWritten })
	running := c.run()
	running.cancel()
	<-running.ended
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		seconds *int32
		fails   bool
		want    time.Duration
	}{
		{name: "default", want: time.Hour},
		{name: "given", seconds: ptr.To[int32](60), want: time.Minute},
		{name: "of a failed one", seconds: ptr.To[int32](60), fails: true, want: time.Minute},
		{name: "none", seconds: ptr.To[int32](0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			one := newImport("one", image, false)
			one.Spec.TTLSecondsAfterFinished = tc.seconds
			c.put(one)
			if tc.fails {
				c.source.fails(&importer.Error{Kind: importer.Blocked, Err: errors.New("blocked")})
			}
			c.run()
			if tc.want > 0 {
				c.finished("one")
				c.clock.SetTime(start.Add(tc.want - time.Second))
				c.barrier()
				if !c.exists("one") {
					t.Fatal("deleted a second too early")
				}
			}
			c.advance(time.Second, "it is not deleted", func() bool { return !c.exists("one") })
			if len(c.source.times(appFrom)) != 1 {
				t.Error("the import did not run")
			}
		})
	}
}

// TestLongestTimeToLive is not lived through: stepping the clock that far takes long.
func TestLongestTimeToLive(t *testing.T) {
	c := newCluster(t)
	running := c.run()
	one := newImport("one", newImage("app", "uid-app"), false)
	one.Spec.TTLSecondsAfterFinished = ptr.To[int32](1<<31 - 1)
	one.Status.CompletionTime = ptr.To(metav1.NewTime(start))
	left, err := running.collectFinished(t.Context(), one)
	if want := (1<<31 - 1) * time.Second; err != nil || left != want {
		t.Errorf("%s left, %v; want %s", left, err, want)
	}
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		collect  bool
		again    bool // the Image was made again
		keep     bool // the Image was not deleted
		detached bool // the import has no owner
		running  bool // the server runs when the Image is deleted
		want     bool // the import is there in the end
	}{
		{name: "found at the start", collect: true},
		{name: "when the Image is deleted", collect: true, running: true},
		{name: "when the Image is made again", collect: true, running: true, again: true},
		{name: "made again before the start", collect: true, again: true},
		{name: "the Image is there", collect: true, keep: true, want: true},
		{name: "nobody's", collect: true, detached: true, want: true},
		{name: "a garbage collector does it", running: true, want: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			one := newImport("one", image, false)
			one.Status.CompletionTime = ptr.To(metav1.NewTime(start))
			if tc.detached {
				one.OwnerReferences = nil
			}
			c.put(one)
			change := func() {
				if !tc.keep {
					c.remove("app")
				}
				if tc.again {
					c.put(newImage("app", "uid-again"))
				}
			}
			if !tc.running {
				change()
			}
			c.run(func(config *Config) { config.CollectOrphans = tc.collect })
			c.barrier()
			if tc.running {
				change()
			}
			if !tc.want {
				c.until("it is not deleted", func() bool { return !c.exists("one") })
			}
			c.barrier()
			if got := c.exists("one"); got != tc.want {
				t.Errorf("the import is there: %t, want %t", got, tc.want)
			}
		})
	}
}

// TestPerHost has two imports from one host wait for the only place there, while other hosts have theirs.
func TestPerHost(t *testing.T) {
	c := newCluster(t)
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
	for _, name := range []string{"one", "two"} {
		image := newImage(name, "uid-"+name)
		image.Spec.From = "example.com/" + name + ":latest"
		c.source.move(image.Spec.From, digest.FromString(name))
		c.put(image)
		c.put(newImport(name, image, false))
	}
	c.run(workers(3), func(config *Config) { config.PerHost = 1 })
	gate.wait(t)
	c.barrier()
	if got := len(c.source.times("example.com/one:latest")) + len(c.source.times("example.com/two:latest")); got != 1 {
		t.Errorf("%d attempts at one host, want 1", got)
	}
	close(gate.opened)
	c.until("the imports do not end", func() bool {
		return c.imp("one").Status.CompletionTime != nil && c.imp("two").Status.CompletionTime != nil
	})
	for _, name := range []string{"one", "two"} {
		if got := c.imp(name).Status; condition(got.Conditions).Status != metav1.ConditionTrue || len(got.ImportAttempts) != 1 {
			t.Errorf("%s ended %s after %d attempts, want True after 1", name, condition(got.Conditions).Status, len(got.ImportAttempts))
		}
	}
}

// TestPerNamespace has the imports of one namespace come from sources that hang: another namespace has a worker all the same, and a
// place at the same host.
func TestPerNamespace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		from   func(name string) string
		limits func(*Config)
	}{
		{"from many hosts", func(name string) string { return name + ".example.com/app:latest" }, func(config *Config) { config.PerNamespace = 1 }},
		{"from one host", func(name string) string { return "example.com/" + name + ":latest" }, func(config *Config) { config.PerHost = 2 }},
	} {
		t.Run(tt.name, func(t *testing.T) { perNamespace(t, tt.from, tt.limits) })
	}
}

func perNamespace(t *testing.T, from func(name string) string, limits func(*Config)) {
	c := newCluster(t)
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, src importer.Source) error {
		if src.Scope != namespace {
			return nil
		}
		return gate.pass(ctx)
	})
	names := []string{"one", "two", "three"}
	for _, name := range names {
		image := newImage(name, "uid-"+name)
		image.Spec.From = from(name)
		c.source.move(image.Spec.From, digest.FromString(name))
		c.put(image)
		c.put(newImport(name, image, false))
	}
	c.run(workers(2), limits)
	gate.wait(t)
	image := newImage("app", "uid-app")
	image.Namespace, image.Spec.From = "other", from("four")
	c.source.move(image.Spec.From, digest.FromString("four"))
	imp := newImport("four", image, false)
	imp.Namespace = "other"
	c.put(image)
	c.put(imp)
	c.until("the import of the other namespace does not end", func() bool {
		obj, err := c.client.Tracker().Get(importsGVR, "other", "four")
		return err == nil && obj.(*v1beta1.ImageImport).Status.CompletionTime != nil
	})
	close(gate.opened)
	for _, name := range names {
		c.finished(name)
		if got := len(c.imp(name).Status.ImportAttempts); got != 1 {
			t.Errorf("%d attempts of %s, want 1", got, name)
		}
	}
}

// TestPausedHost has one host asked to be left alone: its imports wait, without an attempt and without the only worker, and
// others go on.
func TestPausedHost(t *testing.T) {
	c := newCluster(t)
	image, other := newImage("app", "uid-app"), newImage("other", "uid-other")
	other.Spec.From = barrierFrom
	c.put(image)
	c.put(other)
	until := start.Add(10 * time.Minute)
	c.source.mu.Lock()
	c.source.paused["example.com"] = until
	c.source.mu.Unlock()
	c.put(newImport("one", image, false))
	c.put(newImport("two", image, false))
	c.run(workers(1))
	c.put(newImport("three", other, false))
	c.finished("three")
	for _, name := range []string{"one", "two"} {
		c.until(name+" does not say that it waits", func() bool { return c.imp(name).Status.NextAttemptTime != nil })
		status := c.imp(name).Status
		if next := status.NextAttemptTime; next.Time.Before(until) || next.Sub(until) > maxSpread {
			t.Errorf("%s waits until %s, want the end of the pause, %s, or a little later", name, next, until)
		}
		want := metav1.Condition{Type: "Imported", Status: metav1.ConditionUnknown, Reason: "RateLimited", ObservedGeneration: 1,
			LastTransitionTime: metav1.NewTime(start), Message: "attempt 1 of 10 waits: leave me alone"}
		if diff := cmp.Diff(want, condition(status.Conditions)); diff != "" {
			t.Errorf("condition of %s (-want +got):\n%s", name, diff)
		}
	}
	c.clock.SetTime(until.Add(-time.Second))
	c.barrier()
	if got := c.source.times(appFrom); len(got) != 0 {
		t.Errorf("asked at %s, during the pause", got)
	}
	c.advance(time.Second, "the imports do not end", func() bool {
		return c.imp("one").Status.CompletionTime != nil && c.imp("two").Status.CompletionTime != nil
	})
	for _, name := range []string{"one", "two"} {
		if diff := cmp.Diff(1, len(c.imp(name).Status.ImportAttempts)); diff != "" {
			t.Errorf("attempts of %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWorkers(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
	names := []string{"one", "two", "three", "four"}
	for _, name := range names {
		c.put(newImport(name, image, false))
	}
	running := c.run(workers(2))
	gate.wait(t)
	gate.wait(t)
	c.until("the others are not queued", func() bool { return running.queue.Len() == 2 })
	close(gate.opened)
	for _, name := range names {
		c.finished(name)
	}
	if c.source.top != 2 {
		t.Errorf("%d attempts at once, want 2", c.source.top)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(start)
	failed := func(reason, message string) v1beta1.ImageImportStatus {
		return v1beta1.ImageImportStatus{
			ImportAttempts: []v1beta1.ImportAttempt{{When: now, Reason: message}}, StartTime: &now, CompletionTime: &now,
			Conditions: []metav1.Condition{{Type: "Imported", Status: metav1.ConditionFalse, Reason: reason, ObservedGeneration: 1,
				LastTransitionTime: now, Message: message}},
		}
	}
	for _, tc := range []struct {
		name string
		from string
		err  error
		want v1beta1.ImageImportStatus
	}{
		{name: "resolved", from: appFrom, want: v1beta1.ImageImportStatus{
			ImportAttempts: []v1beta1.ImportAttempt{{When: now, Succeed: true}}, StartTime: &now, CompletionTime: &now,
			HashReference: &v1beta1.HashReference{From: appFrom, ImageReference: at("mirror.example/ns/app", digestA), SourceReference: at("example.com/app", digestA),
				ImportedAt: now, ResolvedAt: metav1.NewMicroTime(start), ImportUID: "uid-one", MediaType: mediaType, Platforms: resolvedPlatforms},
			Conditions: []metav1.Condition{{Type: "Imported", Status: metav1.ConditionTrue, Reason: "Imported", ObservedGeneration: 1,
				LastTransitionTime: now, Message: appFrom + " means " + string(digestA)}},
		}},
		{name: "failed", from: appFrom, err: &importer.Error{Kind: importer.NotFound, Err: errors.New("no such tag")}, want: failed("NotFound", "no such tag")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			imp := newImport("one", image, true)
			imp.Spec.From = tc.from
			before := imp.DeepCopy()
			c.source.fails(tc.err)
			running := c.run()
			c.barrier()
			c.client.ClearActions()
			got := running.Verify(t.Context(), imp)
			if diff := cmp.Diff(tc.want, got.Status); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, imp); diff != "" {
				t.Errorf("the argument was changed (-before +after):\n%s", diff)
			}
			for _, action := range c.client.Actions() {
				if verb := action.GetVerb(); verb != "get" && verb != "list" && verb != "watch" {
					t.Errorf("it wrote: %s %s", verb, action.GetResource().Resource)
				}
			}
			if c.source.mirrorings() > 0 || len(c.mirror.tagged()) > 0 {
				t.Error("it wrote to the mirror")
			}
		})
	}
}

func TestAnchor(t *testing.T) {
	t.Parallel()
	long := digest.SHA512.FromString("a")
	for _, tc := range []struct {
		name string
		of   digest.Digest
		want string
	}{
		{name: "sha256", of: digestA, want: "anchor-" + digestA.Encoded()},
		{name: "sha512", of: long, want: "anchor-" + digest.FromString(long.String()).Encoded()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := anchor(tc.of); got != tc.want || len(got) > 128 {
				t.Errorf("anchor(%s) = %s, want %s", tc.of, got, tc.want)
			}
		})
	}
}

// TestVerifyWaitsForPlaces: as many dry runs are under way at once as attempts may be, and of one namespace fewer.
func TestVerifyWaitsForPlaces(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, second string // the namespace of the second one
		limits       func(*Config)
		busy         bool
	}{
		{name: "as many as attempts", second: "other", limits: func(config *Config) { config.Workers = 1 }, busy: true},
		{name: "of one namespace", second: namespace, limits: func(config *Config) { config.Workers, config.PerNamespace = 2, 1 }, busy: true},
		{name: "of two", second: "other", limits: func(config *Config) { config.Workers, config.PerNamespace = 2, 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, src importer.Source) error {
				if src.Reference.Repository() == "slow" {
					return gate.pass(ctx)
				}
				return nil
			})
			controller := c.idle(tt.limits)
			verify := func(ctx context.Context, namespace, from string) string {
				imp := newImport("app-0", newImage("app", "uid-app"), false)
				imp.Namespace, imp.Spec.From = namespace, from
				return condition(controller.Verify(ctx, imp).Status.Conditions).Message
			}
			c.source.move("slow.example/slow:latest", digestA)
			var first sync.WaitGroup
			first.Go(func() { verify(t.Context(), namespace, "slow.example/slow:latest") })
			gate.wait(t)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if tt.busy {
				cancel()
			}
			defer cancel()
			if got := verify(ctx, tt.second, appFrom); strings.Contains(got, "busy with other dry runs") != tt.busy {
				t.Errorf("the second one says %q", got)
			}
			close(gate.opened)
			first.Wait()
		})
	}
}
