// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// TestReplicas has three replicas do what there is to do: each import is run once, whoever does it, and all of them are in the
// history of their Image, in the order in which they were resolved, the first of which is latest at the mirror.
func TestReplicas(t *testing.T) {
	const imports = 20
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.source.onResolve(func(context.Context, importer.Source) error {
		c.clock.Step(time.Millisecond) // no two resolve at one time
		return nil
	})
	for range 3 {
		c.run(workers(4))
	}
	var names, froms []string
	for i := range imports {
		name := fmt.Sprintf("import-%d", i)
		imp := newImport(name, image, true)
		imp.Spec.From = "example.com/app:" + name
		c.source.move(imp.Spec.From, digest.FromString(name))
		c.put(imp)
		names, froms = append(names, name), append(froms, imp.Spec.From)
	}
	for i, name := range names {
		status := c.finished(name).Status
		if got := condition(status.Conditions); got.Status != metav1.ConditionTrue || len(status.ImportAttempts) != 1 {
			t.Errorf("%s ended %s: %s, after %d attempts", name, got.Reason, got.Message, len(status.ImportAttempts))
		}
		if got := len(c.source.times(froms[i])); got != 1 {
			t.Errorf("%s was resolved %d times, want once", name, got)
		}
	}
	history := c.image("app").Status.HashReferences
	if len(history) != imports {
		t.Errorf("%d entries in the history, want %d", len(history), imports)
	}
	if !slices.IsSortedFunc(history, func(a, b v1beta1.HashReference) int { return b.ResolvedAt.Compare(a.ResolvedAt.Time) }) {
		t.Errorf("the history is not in order: %+v", generations(history))
	}
	c.until("latest does not follow", func() bool { return c.mirror.tagged()["latest"] == digestOf(&history[0]) })
}

// TestLatestOfTwoReplicas: another replica records a newer entry, and lets latest follow, while one is about to set latest to
// what it has recorded.
func TestLatestOfTwoReplicas(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		newer v1beta1.HashReference
		want  digest.Digest
	}{
		{name: "at the mirror", newer: generationOf(mirrorRepo, digestB, 60), want: digestB},
		{name: "not at the mirror", newer: generationOf(sourceRepo, digestB, 60)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			raced := false
			c.mirror.committing = func(tag string) error { // the mirror is locked meanwhile
				if tag != "latest" || raced {
					return nil
				}
				raced = true
				now := c.image("app")
				now.Status.HashReferences = append([]v1beta1.HashReference{tc.newer}, now.Status.HashReferences...)
				c.mirror.tags["latest"] = digestB
				c.put(now)
				return nil
			}
			c.put(newImport("one", image, true))
			c.run()
			c.finished("one")
			if got := c.mirror.tagged()["latest"]; got != tc.want || !raced {
				t.Errorf("latest is %q, want %q", got, tc.want)
			}
			if len(c.mirror.unbounded) > 0 {
				t.Errorf("a mirror that hangs holds up %q for ever", c.mirror.unbounded)
			}
		})
	}
}

// TestFollowEnds: it does not go on when the mirror or the Image cannot be asked.
func TestFollowEnds(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(mirrorRepo, digestA, 0)}
	controller := c.idle()
	if err := controller.follow(t.Context(), image, nil); err != nil { // it is not there
		t.Error(err)
	}
	c.mirror.committing = func(string) error { return errors.New("refused") }
	if err := controller.follow(t.Context(), image, nil); err == nil {
		t.Error("the mirror refused latest, and nothing is said of it")
	}
}
