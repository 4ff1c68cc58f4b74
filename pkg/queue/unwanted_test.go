// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// TestUnwantedRefresh has the schedule end, or another source be followed, at every point of a refresh: nothing is recorded.
func TestUnwantedRefresh(t *testing.T) {
	t.Parallel()
	suspend := func(i *v1beta1.Image) { i.Spec.Suspend = true }
	for _, tc := range []struct {
		name   string
		change func(*v1beta1.Image)
		when   string
		err    error // of the attempt
	}{
		{name: "suspended while it runs", change: suspend, when: "running"},
		{name: "without an interval while it runs", change: func(i *v1beta1.Image) { i.Spec.RefreshInterval = nil }, when: "running"},
		{name: "suspended when it is recorded", change: suspend, when: "recording"},
		{name: "suspended when its failure is recorded", change: suspend, when: "recording", err: errors.New("down")},
		{name: "suspended before another attempt", change: suspend, when: "waiting", err: errors.New("down")},
		{name: "suspended before it begins", change: suspend, when: "claimed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			c.put(scheduled("app"))
			c.source.move(appFrom, digestB)
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, _ importer.Source) error {
				if tc.when == "running" {
					return gate.pass(ctx)
				}
				return tc.err
			})
			changed := false
			change := func() error { // the cluster is locked
				if changed {
					return nil
				}
				changed = true
				now := c.image("app")
				tc.change(now)
				return c.store(now)
			}
			c.beforeWrite(func(resource string, obj metav1.Object) error {
				if tc.when == "recording" && obj.GetName() == "app" || tc.when == "claimed" && strings.HasPrefix(obj.GetName(), "app-") {
					return change()
				}
				return nil
			})
			c.run()
			c.settle()
			c.clock.Step(interval + interval/10)
			c.until("it is not refreshed", func() bool { return len(c.refreshes("app")) > 0 })
			name := c.refreshes("app")[0].Name
			if tc.when == "running" || tc.when == "waiting" {
				if tc.when == "running" {
					gate.wait(t)
				} else {
					c.attempted(name, 1)
					c.barrier()
				}
				c.mu.Lock()
				if err := change(); err != nil {
					t.Error(err)
				}
				c.mu.Unlock()
			}
			c.until("it is not deleted", func() bool { return !c.exists(name) })
			c.settle()
			if c.exists(name) {
				t.Error("it was created again")
			}
			status := c.image("app").Status
			if diff := cmp.Diff(throughJSON(scheduled("app").Status.HashReferences), status.HashReferences); diff != "" {
				t.Errorf("history (-before +after):\n%s", diff)
			}
			if got := condition(status.Conditions).Reason; (got != "") != (tc.when == "waiting") {
				t.Errorf("the Image says %s", got)
			}
			if tc.when == "claimed" && len(c.source.times(appFrom)) > 0 {
				t.Error("the source was asked")
			}
		})
	}
}

// TestRefreshOfAnotherSource has the Image follow another source while it is refreshed: another refresh takes the place of that one.
func TestRefreshOfAnotherSource(t *testing.T) {
	c := newCluster(t)
	c.put(scheduled("app"))
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, src importer.Source) error {
		if src.Reference.String() == appFrom {
			return gate.pass(ctx)
		}
		return nil
	})
	c.run()
	c.settle()
	c.clock.Step(interval + interval/10)
	gate.wait(t)
	changed := c.image("app")
	changed.Spec.From = "example.com/other:latest"
	c.source.move(changed.Spec.From, digestB)
	c.put(changed)
	c.refreshed("app", 2)
	if got := c.image("app").Status.HashReferences; len(got) != 2 || digestOf(&got[0]) != digestB {
		t.Errorf("history %+v, want what the other source means in front", generations(got))
	}
}

// TestConfirmUnwanted: what is recorded under another Image than the refresh began with is not.
func TestConfirmUnwanted(t *testing.T) {
	c := newCluster(t)
	image := scheduled("app")
	refresh, other := newImport("refresh", image, false), newImport("other", image, false)
	refresh.Labels = map[string]string{v1beta1.LabelRefresh: "true"}
	controller := c.idle(named("me"))
	for _, imp := range []*v1beta1.ImageImport{refresh, other} {
		c.put(claimed(imp, "me", start))
		if err := controller.confirm(t.Context(), imp, image); err != nil {
			t.Errorf("%s: %v", imp.Name, err)
		}
	}
	image.Spec.Suspend = true
	if err := controller.confirm(t.Context(), refresh, image); !errors.Is(err, errUnwanted) {
		t.Errorf("a refresh of a suspended Image: %v", err)
	}
	if err := controller.confirm(t.Context(), other, image); err != nil {
		t.Errorf("another import of a suspended Image: %v", err)
	}
}

// TestUnwantedByTheCache: a cache that lags behind the storage deletes no refresh that the Image asks for.
func TestUnwantedByTheCache(t *testing.T) {
	t.Parallel()
	for _, stillSuspended := range []bool{false, true} {
		t.Run(fmt.Sprintf("suspended=%t", stillSuspended), func(t *testing.T) {
			c := newCluster(t)
			image := scheduled("app")
			image.Spec.Suspend = stillSuspended
			refresh := newImport("refresh", image, false)
			refresh.Labels = map[string]string{v1beta1.LabelRefresh: "true"}
			c.put(image)
			c.put(refresh)
			controller := c.idle()
			cached := scheduled("app")
			cached.Spec.Suspend = true
			if err := errors.Join(controller.images.GetIndexer().Add(cached), controller.imports.GetIndexer().Add(refresh)); err != nil {
				t.Fatal(err)
			}
			if _, err := controller.syncRefresh(t.Context(), cache.NewObjectName(namespace, "app")); err != nil {
				t.Fatal(err)
			}
			if got := c.exists("refresh"); got == stillSuspended {
				t.Errorf("the refresh is there: %t", got)
			}
		})
	}
}
