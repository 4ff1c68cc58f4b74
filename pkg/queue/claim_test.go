// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// named sets the identity of a controller.
func named(identity string) func(*Config) {
	return func(config *Config) { config.Identity = identity }
}

// claimed returns an import that a server holds which does not run.
func claimed(imp *v1beta1.ImageImport, holder string, renewed time.Time) *v1beta1.ImageImport {
	imp.Status.Claim = &v1beta1.ImportClaim{Holder: holder, RenewTime: ptr.To(metav1.NewMicroTime(renewed))}
	return imp
}

// claims returns the claims of an import as they were written, each once.
func (c *cluster) claims(name string) []v1beta1.ImportClaim {
	c.mu.Lock()
	defer c.mu.Unlock()
	var claims []v1beta1.ImportClaim
	for _, written := range c.imports {
		if claim := written.Status.Claim; written.Name == name && claim != nil {
			short := v1beta1.ImportClaim{Holder: claim.Holder, Transitions: claim.Transitions}
			if len(claims) == 0 || claims[len(claims)-1] != short {
				claims = append(claims, short)
			}
		}
	}
	return claims
}

func TestNoIdentity(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("a controller without an identity was made")
	}
}

// TestClaim looks at the claim while an attempt runs: it is written before anything is fetched, again after heartbeatInterval or
// when there is progress to tell, and is gone in the end.
func TestClaim(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, true))
	gate := newGate()
	progressed := make(chan func(importer.Progress), 1)
	c.source.onResolve(func(context.Context, importer.Source) error {
		if c.imp("one").Status.Claim == nil {
			t.Error("the source is asked for an import that nobody has claimed")
		}
		return nil
	})
	c.source.mirroring = func(ctx context.Context, _ *importer.Resolved, progress func(importer.Progress)) error {
		progressed <- progress
		return gate.pass(ctx)
	}
	c.run(named("me"))
	gate.wait(t)
	look := func(what string, renewed time.Duration, writes int) {
		t.Helper()
		status := c.imp("one").Status
		want := &v1beta1.ImportClaim{Holder: "me", RenewTime: ptr.To(metav1.NewMicroTime(start.Add(renewed)))}
		if diff := cmp.Diff(want, status.Claim); diff != "" {
			t.Errorf("claim %s (-want +got):\n%s", what, diff)
		}
		if got := condition(status.Conditions); got.Reason != v1beta1.ReasonInProgress || got.Message != "attempt 1 of 10 runs" {
			t.Errorf("%s it says %s: %s", what, got.Reason, got.Message)
		}
		if !ptr.To(metav1.NewTime(start)).Equal(status.StartTime) {
			t.Errorf("%s it says that it began at %v", what, status.StartTime)
		}
		if got := len(c.writes()); got != writes {
			t.Errorf("%d writes %s, want %d", got, what, writes)
		}
	}
	look("at first", 0, 1)
	c.clock.Step(progressInterval)
	(<-progressed)(importer.Progress{Blobs: 1, BlobsTotal: 4})
	c.clock.Step(progressInterval)
	c.until("no progress is written", func() bool { return len(c.writes()) > 1 })
	look("with progress", 2*progressInterval, 2)
	for range heartbeatInterval / progressInterval {
		c.clock.Step(progressInterval)
	}
	c.until("there is no heartbeat", func() bool { return len(c.writes()) > 2 })
	look("after a while", 2*progressInterval+heartbeatInterval, 3)
	close(gate.opened)
	if claim := c.finished("one").Status.Claim; claim != nil {
		t.Errorf("claimed by %s in the end", claim.Holder)
	}
}

// TestClaimOfAnother has an import held by a server that is not there, from before the controller starts.
func TestClaimOfAnother(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		renewed time.Time
		options []func(*Config)
		// alive is when the holder writes for the last time, after the start; it does so every 20 seconds.
		alive time.Duration
		want  time.Duration // until the takeover
		same  bool          // the holder is this server
	}{
		{name: "that died", renewed: start, want: claimDuration},
		{name: "that died long ago", renewed: start.Add(-time.Hour), want: claimDuration},
		{name: "whose clock was ahead", renewed: start.Add(time.Hour), want: claimDuration},
		{name: "that dies after a while", renewed: start, alive: 2 * time.Minute, want: 2*time.Minute + claimDuration},
		{name: "that was the only one, as this is", renewed: start, options: []func(*Config){sole}},
		{name: "that is this one: the answer to its write was lost", renewed: start, options: []func(*Config){named("other")}, same: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(claimed(newImport("one", image, false), "other", tc.renewed))
			c.run(append([]func(*Config){named("me")}, tc.options...)...)
			c.barrier()
			for passed := time.Duration(0); passed < tc.alive; {
				passed += 20 * time.Second
				c.clock.SetTime(start.Add(passed))
				c.put(c.imp("one"))
				c.barrier()
			}
			if tc.want > 0 {
				c.clock.SetTime(start.Add(tc.want - time.Second))
				c.barrier()
				if got := c.source.times(appFrom); len(got) > 0 {
					t.Fatalf("taken over after %s, want %s", got[0].Sub(start), tc.want)
				}
				c.clock.SetTime(start.Add(tc.want))
			}
			c.finished("one")
			want := []v1beta1.ImportClaim{{Holder: "me", Transitions: 1}}
			if tc.same {
				want = []v1beta1.ImportClaim{{Holder: "other"}}
			}
			var got []v1beta1.ImportClaim
			for _, claim := range c.claims("one") {
				if claim.Transitions > 0 || tc.same { // not as it was put there
					got = append(got, claim)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLostRace: while a controller claims an import, somebody else does.
func TestLostRace(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, false))
	raced := false
	c.beforeWrite(func(_ string, obj metav1.Object) error {
		if obj.GetName() == "one" && !raced {
			raced = true
			return c.store(claimed(c.imp("one"), "faster", start))
		}
		return nil
	})
	c.run(named("me"))
	c.barrier()
	if got := len(c.source.times(appFrom)); got != 0 {
		t.Fatalf("resolved %d times without the claim", got)
	}
	c.clock.Step(claimDuration)
	c.finished("one")
	if diff := cmp.Diff([]v1beta1.ImportClaim{{Holder: "me", Transitions: 1}}, c.claims("one")); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

// TestClaimSurvivesOtherWrites: somebody changes the import while its attempt runs.
func TestClaimSurvivesOtherWrites(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, false))
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
	c.run()
	gate.wait(t)
	changed := c.imp("one")
	changed.Labels = map[string]string{"changed": "true"}
	c.put(changed)
	c.clock.Step(heartbeatInterval)
	c.until("there is no heartbeat", func() bool { return c.imp("one").Status.Claim.RenewTime.After(start) })
	close(gate.opened)
	if got := c.finished("one").Status; condition(got.Conditions).Status != metav1.ConditionTrue || len(c.source.times(appFrom)) != 1 {
		t.Errorf("ended %+v after %d resolves", condition(got.Conditions), len(c.source.times(appFrom)))
	}
}

// TestReleaseBetweenAttempts has one replica make the first attempt, or be told to wait, and end; another makes the next one when
// that is due, and not later.
func TestReleaseBetweenAttempts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		err      error
		attempts int
	}{
		{name: "failed", err: &importer.Error{Kind: importer.Unavailable, Err: errors.New("down")}, attempts: 2},
		{name: "put off", err: &importer.Error{Kind: importer.RateLimited, Paused: true, RetryAfter: 5 * time.Second, Err: errors.New("later")}, attempts: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			c.source.fails(tc.err)
			first := c.run(named("first"))
			c.until("it does not wait", func() bool { return c.imp("one").Status.NextAttemptTime != nil })
			c.stop(first)
			status := c.imp("one").Status
			if began := status.StartTime != nil; began != (tc.attempts == 2) {
				t.Errorf("it began: %t", began)
			}
			c.source.onResolve(nil)
			c.run(named("second"))
			c.barrier()
			c.clock.SetTime(status.NextAttemptTime.Time)
			if got := c.finished("one").Status; len(got.ImportAttempts) != tc.attempts {
				t.Errorf("%d attempts, want %d", len(got.ImportAttempts), tc.attempts)
			}
			if diff := cmp.Diff([]v1beta1.ImportClaim{{Holder: "first"}, {Holder: "second"}}, c.claims("one")); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReleaseAtShutdown: another replica begins again at once what a stopping one has cut off.
func TestReleaseAtShutdown(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, true))
	gate := newGate()
	c.source.mirroring = func(ctx context.Context, _ *importer.Resolved, progress func(importer.Progress)) error {
		progress(importer.Progress{Blobs: 1})
		return gate.pass(ctx)
	}
	stopping := c.run(named("stopping"), func(config *Config) { config.DrainTimeout = time.Second })
	gate.wait(t)
	c.run(named("staying"))
	c.barrier()
	stopping.cancel()
	c.until("the queue is not shut down", stopping.queue.ShuttingDown)
	stepped := time.Now()
	c.until("it does not drain", func() bool {
		if time.Since(stepped) > time.Second/2 { // to write that it is released takes time too
			c.clock.Step(time.Second)
			stepped = time.Now()
		}
		return stopping.hasEnded()
	})
	gate.wait(t)
	if passed := c.clock.Since(start); passed >= claimDuration {
		t.Errorf("begun again after %s", passed)
	}
	close(gate.opened)
	if got := c.finished("one").Status.ImportAttempts; len(got) != 1 {
		t.Errorf("attempts %+v, want one: what was cut off is none", got)
	}
	if diff := cmp.Diff([]v1beta1.ImportClaim{{Holder: "stopping"}, {Holder: "staying"}}, c.claims("one")); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

// TestDeletedElsewhere deletes an import, or its Image, while one of two replicas works at it.
func TestDeletedElsewhere(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, deleted string
		of            schema.GroupVersionResource
	}{
		{name: "the import", deleted: "one", of: importsGVR},
		{name: "the Image", deleted: "app", of: imagesGVR},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			gate, ended := newGate(), make(chan error, 1)
			c.source.onResolve(func(ctx context.Context, _ importer.Source) error {
				err := gate.pass(ctx)
				ended <- err
				return err
			})
			c.run()
			c.run()
			gate.wait(t)
			if err := c.client.Tracker().Delete(tc.of, namespace, tc.deleted); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the attempt ended with %v, want it cancelled", err)
			}
			c.source.onResolve(nil)
			c.clock.Step(claimDuration)
			c.barrier()
			if got := len(c.source.times(appFrom)); got != 1 {
				t.Errorf("resolved %d times, want once", got)
			}
			if tc.deleted == "app" {
				if got := condition(c.finished("one").Status.Conditions); got.Reason != v1beta1.ReasonInvalid {
					t.Errorf("ended %s, want Invalid", got.Reason)
				}
			} else if diff := cmp.Diff(v1beta1.ImageStatus{}, c.image("app").Status); diff != "" {
				t.Errorf("the Image has something of the deleted import (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPauseAfterRelease: what could not be done for an import is not tried again at once, though claim and release are events.
func TestPauseAfterRelease(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, verb, resource string // the request that fails
		unwanted             bool
	}{
		{name: "the Image cannot be read", verb: "get", resource: "images"},
		{name: "an unwanted refresh cannot be deleted", verb: "delete", resource: "imageimports", unwanted: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			imp := newImport("one", image, false)
			if tc.unwanted {
				imp.Labels = map[string]string{v1beta1.LabelRefresh: "true"}
			}
			c.put(image)
			c.put(imp)
			var failing atomic.Bool
			failing.Store(true)
			c.client.PrependReactor(tc.verb, tc.resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
				name := action.(interface{ GetName() string }).GetName()
				if failing.Load() && (name == "app" || name == "one") {
					return true, nil, apierrors.NewInternalError(errors.New("down"))
				}
				return false, nil, nil
			})
			c.run()
			c.until("it is not released", func() bool { return c.imp("one").Status.NextAttemptTime != nil })
			c.barrier()
			writes := 0
			for _, write := range c.writes() {
				if write == "imageimports/one" {
					writes++
				}
			}
			if writes != 2 {
				t.Errorf("%d writes, want the claim and its release", writes)
			}
			failing.Store(false)
			c.clock.Step(releasePause)
			if tc.unwanted {
				c.until("it is not deleted", func() bool { return !c.exists("one") })
				return
			}
			if got := c.finished("one").Status.ImportAttempts; len(got) != 1 {
				t.Errorf("attempts %+v, want one", got)
			}
		})
	}
}

// TestTakenOverTooOften: an import that ends every server that works at it ends in turn.
func TestTakenOverTooOften(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		takeovers int32 // before this one
		want      string
		resolves  int
	}{
		{takeovers: maxTakeovers - 2, want: v1beta1.ReasonImported, resolves: 1},
		{takeovers: maxTakeovers - 1, want: v1beta1.ReasonInvalid},
	} {
		t.Run(fmt.Sprint(tc.takeovers), func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			imp := claimed(newImport("one", image, false), "other", start)
			imp.Status.Claim.Transitions = tc.takeovers
			c.put(imp)
			c.run(sole)
			if got := condition(c.finished("one").Status.Conditions).Reason; got != tc.want || len(c.source.times(appFrom)) != tc.resolves {
				t.Errorf("ended %s after the source was asked %d times, want %s after %d", got, len(c.source.times(appFrom)), tc.want, tc.resolves)
			}
			if got := condition(c.image("app").Status.Conditions).Reason; got != tc.want {
				t.Errorf("the Image says %s, want %s", got, tc.want)
			}
		})
	}
}
