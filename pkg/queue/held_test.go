// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned/fake"
	"tagger.dev/tagger/pkg/importer"
)

// held is a process that was stopped, as by SIGSTOP, and goes on later: all its requests wait from one of them on.
type held struct {
	stopped, goOn chan struct{}
}

// holding has a controller be a process that is held at the first request that fits.
func (c *cluster) holding(at func(clienttesting.Action) bool) (*held, func(*Config)) {
	h := &held{stopped: make(chan struct{}), goOn: make(chan struct{})}
	client, stored := fake.NewSimpleClientset(), c.client.Tracker()
	client.PrependReactor("*", "*", clienttesting.ObjectReaction(stored))
	c.serve(client)
	fits := false
	client.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) { // one request at a time
		if !fits && at(action) {
			fits = true
			close(h.stopped)
		}
		if fits {
			<-h.goOn
		}
		return false, nil, nil
	})
	return h, func(config *Config) { config.Client = client }
}

// wait returns when the process is stopped.
func (h *held) wait(t *testing.T) {
	t.Helper()
	select {
	case <-h.stopped:
	case <-time.After(patience):
		t.Fatal("the process does not come to where it is to be stopped")
	}
}

// nth fits the n-th request of a kind, from 1.
func nth(n int, verb, resource string) func(clienttesting.Action) bool {
	return func(action clienttesting.Action) bool {
		if action.Matches(verb, resource) {
			n--
		}
		return n == 0
	}
}

// TestHeldProcess stops a replica at every point of an attempt, for longer than its claim is respected, and lets it go on when
// another one is done with the import, for which the tag means something else.
func TestHeldProcess(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		at      func(clienttesting.Action) bool
		err     error // of the first attempt
		running bool  // the first attempt runs meanwhile
		byFirst bool  // the first has recorded before it is held
	}{
		{name: "at a heartbeat", at: nth(2, "update", "imageimports"), running: true},
		{name: "before it reads the Image to record", at: nth(2, "get", "images")},
		{name: "before it looks whether it still holds the import", at: nth(1, "get", "imageimports")},
		{name: "before it records", at: nth(1, "update", "images")},
		{name: "between the Image and the import", at: nth(2, "update", "imageimports"), byFirst: true},
		{name: "before it says that it failed", at: nth(1, "update", "images"), err: errors.New("down")},
		{name: "before it ends the import as failed", at: nth(2, "update", "imageimports"), err: errors.New("down")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			gate, ended := newGate(), make(chan error, 1)
			c.source.onResolve(func(ctx context.Context, src importer.Source) error {
				if len(c.source.times(src.Reference.String())) > 1 {
					return nil
				}
				if tc.running {
					ended <- gate.pass(ctx)
				}
				return tc.err
			})
			process, option := c.holding(tc.at)
			first := c.run(named("first"), option)
			if tc.running {
				gate.wait(t)
				c.clock.Step(heartbeatInterval)
			}
			process.wait(t)
			c.source.move(appFrom, digestB)
			c.run(named("second"))
			c.barrier()
			c.clock.Step(claimDuration)
			status := c.finished("one").Status
			close(process.goOn)
			if tc.running {
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("the attempt of the first ended with %v, want it cancelled", err)
				}
			}
			c.stop(first)

			if diff := cmp.Diff(status, c.imp("one").Status); diff != "" {
				t.Errorf("the first changed the import (-before +after):\n%s", diff)
			}
			if got := condition(status.Conditions); got.Status != metav1.ConditionTrue || len(status.ImportAttempts) != 1 {
				t.Errorf("ended %s/%s after %d attempts, want True after one", got.Status, got.Reason, len(status.ImportAttempts))
			}
			now, resolves := c.image("app").Status, 2
			want := generation{Image: at(sourceRepo, digestB), Import: "uid-one", At: int(c.clock.Since(start).Seconds()), Platforms: resolvedPlatforms}
			if tc.byFirst {
				want.Image, want.At, resolves = at(sourceRepo, digestA), 0, 1
			}
			if diff := cmp.Diff([]generation{want}, generations(now.HashReferences)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if got := condition(now.Conditions); got.Status != metav1.ConditionTrue || len(now.RecordedImports) > 0 {
				t.Errorf("the Image says %s/%s and remembers %+v", got.Status, got.Reason, generations(now.RecordedImports))
			}
			if got := len(c.source.times(appFrom)); got != resolves {
				t.Errorf("resolved %d times, want %d", got, resolves)
			}
			if diff := cmp.Diff([]v1beta1.ImportClaim{{Holder: "first"}, {Holder: "second", Transitions: 1}}, c.claims("one")); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLateFailure: a replica that was held says nothing of its failure in the Image, where another one has failed otherwise since.
func TestLateFailure(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, false))
	c.source.fails(errors.New("down"))
	process, option := c.holding(nth(1, "update", "images"))
	first := c.run(option)
	process.wait(t)
	c.source.fails(&importer.Error{Kind: importer.Blocked, Err: errors.New("blocked")})
	c.run()
	c.barrier()
	c.clock.Step(claimDuration)
	c.finished("one")
	before := c.image("app").Status
	close(process.goOn)
	c.stop(first)
	if diff := cmp.Diff(before, c.image("app").Status); diff != "" {
		t.Errorf("the Image (-before +after):\n%s", diff)
	}
	if got := c.imp("one").Status; condition(got.Conditions).Reason != v1beta1.ReasonBlocked || len(got.ImportAttempts) != 1 {
		t.Errorf("ended %s after %d attempts, want Blocked after one", condition(got.Conditions).Reason, len(got.ImportAttempts))
	}
}
