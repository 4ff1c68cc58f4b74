// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// TestKilledBetweenTheWrites kills the controller after it has recorded in the Image. What another import changes before the
// next start must not make the first one be recorded twice, or never end.
func TestKilledBetweenTheWrites(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		limit int32
		next  digest.Digest // what another import finds meanwhile
		want  []generation
	}{
		{name: "nothing happened meanwhile", limit: 25,
			want: []generation{{Image: at("example.com/app", digestA), Import: "uid-one", Platforms: resolvedPlatforms}}},
		{name: "the entry was refreshed", limit: 25, next: digestA,
			want: []generation{{Image: at("example.com/app", digestA), Import: "uid-two", At: 60, Platforms: resolvedPlatforms}}},
		{name: "the tag moved", limit: 25, next: digestB,
			want: []generation{{Image: at("example.com/app", digestB), Import: "uid-two", At: 60, Platforms: resolvedPlatforms},
				{Image: at("example.com/app", digestA), Import: "uid-one", Platforms: resolvedPlatforms}}},
		{name: "the entry was trimmed", limit: 1, next: digestB,
			want: []generation{{Image: at("example.com/app", digestB), Import: "uid-two", At: 60, Platforms: resolvedPlatforms}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Spec.HistoryLimit = &tc.limit
			c.put(image)
			c.put(newImport("one", image, false))
			gate := newGate()
			c.beforeWrite(func(_ string, obj metav1.Object) error {
				if obj.GetName() == "one" && recorded(&c.image("app").Status, "uid-one") != nil {
					gate.entered <- struct{}{}
					return errNotWritten
				}
				return nil
			})
			first := c.run()
			gate.wait(t)
			c.stop(first)
			if recorded(&c.image("app").Status, "uid-one") == nil {
				t.Fatal("the import was written before the Image")
			}
			c.clock.Step(time.Minute)
			if tc.next != "" {
				c.source.move(appFrom, tc.next)
				c.put(newImport("two", image, false))
				second := c.run(sole)
				c.finished("two")
				c.stop(second)
			}
			c.beforeWrite(nil)
			c.clock.Step(time.Minute)
			c.source.move(appFrom, digest.FromString("later still"))
			c.run(sole)
			one := c.finished("one")

			if got := condition(one.Status.Conditions); got.Status != metav1.ConditionTrue {
				t.Errorf("the import ended %s/%s, want True", got.Status, got.Reason)
			}
			want := generation{Image: at("example.com/app", digestA), Import: "uid-one", Platforms: resolvedPlatforms}
			if diff := cmp.Diff([]generation{want}, generations([]v1beta1.HashReference{*one.Status.HashReference})); diff != "" {
				t.Errorf("what the import says it recorded (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]v1beta1.ImportAttempt{{When: metav1.NewTime(start.Add(2 * time.Minute)), Succeed: true}}, one.Status.ImportAttempts); diff != "" {
				t.Errorf("attempts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.want, generations(c.image("app").Status.HashReferences)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			resolves := 1
			if tc.next != "" {
				resolves = 2
			}
			if got := len(c.source.times(appFrom)); got != resolves {
				t.Errorf("resolved %d times, want %d", got, resolves)
			}
		})
	}
}

func TestConflictsAreRetriedWithoutFetching(t *testing.T) {
	t.Parallel()
	const manyConflicts = 6
	for _, tc := range []struct {
		name, resource string
		err            error // of the attempt
		landed         bool  // the first write landed, but its answer was lost
		want           metav1.ConditionStatus
	}{
		{name: "of the Image", resource: "images", want: metav1.ConditionTrue},
		{name: "of the Image, with itself", resource: "images", landed: true, want: metav1.ConditionTrue},
		{name: "of the import", resource: "imageimports", want: metav1.ConditionTrue},
		{name: "of a failed import", resource: "imageimports", want: metav1.ConditionFalse,
			err: &importer.Error{Kind: importer.Blocked, Err: errors.New("blocked")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, true))
			if tc.err != nil {
				c.source.fails(tc.err)
			}
			conflicts := 0
			c.beforeWrite(func(resource string, obj metav1.Object) error {
				switch {
				case resource != tc.resource || conflicts == manyConflicts:
					return nil
				case conflicts == 0 && tc.landed:
					if err := c.store(obj.(runtime.Object).DeepCopyObject()); err != nil {
						t.Error(err)
					}
				default:
					c.touch(resource, obj)
				}
				conflicts++
				return nil
			})
			c.run()
			one := c.finished("one")
			c.barrier()
			if got := condition(one.Status.Conditions).Status; got != tc.want || conflicts != manyConflicts {
				t.Errorf("ended %s after %d conflicts, want %s after %d", got, conflicts, tc.want, manyConflicts)
			}
			if got := len(c.source.times(appFrom)); got != 1 {
				t.Errorf("resolved %d times, want once", got)
			}
			if got := len(c.imp("one").Status.ImportAttempts); got != 1 {
				t.Errorf("%d attempts, want 1", got)
			}
			entries := 1
			if tc.err != nil {
				entries = 0
			}
			if got := len(c.image("app").Status.HashReferences); got != entries {
				t.Errorf("%d entries in the history, want %d", got, entries)
			}
			if got := c.image("app").Status.RecordedImports; len(got) > 0 {
				t.Errorf("the Image still remembers %+v", generations(got))
			}
		})
	}
}

// TestImageIsGone deletes the Image, and makes it again, at every point where that matters.
func TestImageIsGone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		when    string
		again   bool
		resolve int
	}{
		{name: "before the attempt", when: "before"},
		{name: "before the attempt, and made again", when: "before", again: true},
		{name: "while the attempt runs", when: "running", resolve: 1},
		{name: "while the attempt runs, and made again", when: "running", again: true, resolve: 1},
		{name: "while it is recorded", when: "recording", resolve: 1},
		{name: "while it is recorded, and made again", when: "recording", again: true, resolve: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			replace := func() {
				if err := c.client.Tracker().Delete(imagesGVR, namespace, "app"); err != nil {
					t.Error(err)
				}
				if tc.again {
					if err := c.store(newImage("app", "uid-again")); err != nil {
						t.Error(err)
					}
				}
			}
			switch tc.when {
			case "before":
				replace()
			case "running":
				c.source.onResolve(func(context.Context, importer.Source) error {
					c.mu.Lock()
					defer c.mu.Unlock()
					replace()
					return nil
				})
			case "recording":
				replaced := false
				c.beforeWrite(func(resource string, _ metav1.Object) error {
					if resource == "images" && !replaced {
						replaced = true
						replace()
					}
					return nil
				})
			}
			c.run()
			one := c.finished("one")
			c.barrier()
			if got := condition(one.Status.Conditions); got.Status != metav1.ConditionFalse || got.Reason != "Invalid" {
				t.Errorf("ended %s/%s, want False/Invalid", got.Status, got.Reason)
			}
			if one.Status.HashReference != nil || len(one.Status.ImportAttempts) != 1 || one.Status.ImportAttempts[0].Succeed {
				t.Errorf("recorded %v after %+v, want nothing", one.Status.HashReference, one.Status.ImportAttempts)
			}
			if got := len(c.source.times(appFrom)); got != tc.resolve {
				t.Errorf("resolved %d times, want %d", got, tc.resolve)
			}
			if tc.again {
				if diff := cmp.Diff(v1beta1.ImageStatus{}, c.image("app").Status); diff != "" {
					t.Errorf("the new Image has something of the old one's (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestImportIsGone deletes the import, and makes another one of its name, while its attempt runs.
func TestImportIsGone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		again bool
	}{{name: "deleted"}, {name: "deleted, and made again", again: true}} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
			c.run()
			gate.wait(t)
			if err := c.client.Tracker().Delete(importsGVR, namespace, "one"); err != nil {
				t.Fatal(err)
			}
			if tc.again {
				another := newImport("one", image, false)
				another.UID = "uid-another"
				c.put(another)
			}
			close(gate.opened)
			c.barrier()
			if !tc.again {
				if c.exists("one") {
					t.Error("the import is there again")
				}
				return
			}
			status := c.finished("one").Status
			if status.HashReference.ImportUID != "uid-another" || len(status.ImportAttempts) != 1 {
				t.Errorf("recorded %s after %d attempts, want its own one", status.HashReference.ImportUID, len(status.ImportAttempts))
			}
			if got := len(c.source.times(appFrom)); got != 2 {
				t.Errorf("resolved %d times, want once for each", got)
			}
		})
	}
}

// TestObjectsGoAsTheAttemptBegins deletes the import, or its Image, after it was read, and before the attempt asks the source.
func TestObjectsGoAsTheAttemptBegins(t *testing.T) {
	t.Parallel()
	for deleted, of := range map[string]schema.GroupVersionResource{"one": importsGVR, "app": imagesGVR} {
		t.Run(of.Resource, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
			r := c.run()
			heard := map[schema.GroupVersionResource]cache.Indexer{importsGVR: r.imports.GetIndexer(), imagesGVR: r.images.GetIndexer()}[of]
			var once sync.Once
			c.client.PrependReactor("get", "images", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if action.(clienttesting.GetAction).GetName() != "app" {
					return false, nil, nil
				}
				read, err := c.client.Tracker().Get(imagesGVR, namespace, "app")
				once.Do(func() {
					err = errors.Join(err, c.client.Tracker().Delete(of, namespace, deleted))
					err = errors.Join(err, wait.PollUntilContextTimeout(context.Background(), time.Millisecond, patience, true,
						func(context.Context) (bool, error) {
							_, known, err := heard.GetByKey(namespace + "/" + deleted)
							return !known, err
						}))
				})
				return true, read, err
			})
			c.put(newImport("one", image, false))
			c.barrier()
			select {
			case <-gate.entered:
			default:
				t.Error("the attempt did not begin")
			}
		})
	}
}

// TestAttemptEndsWithItsObjects deletes the import, or its Image, while its attempt hangs on the only worker there is.
func TestAttemptEndsWithItsObjects(t *testing.T) {
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
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, src importer.Source) error {
				if src.Reference.String() == barrierFrom {
					return nil
				}
				return gate.pass(ctx)
			})
			c.run()
			gate.wait(t)
			if err := c.client.Tracker().Delete(tc.of, namespace, tc.deleted); err != nil {
				t.Fatal(err)
			}
			c.barrier()
			if tc.deleted == "app" {
				if got := condition(c.finished("one").Status.Conditions); got.Status != metav1.ConditionFalse || got.Reason != "Invalid" {
					t.Errorf("ended %s/%s, want False/Invalid", got.Status, got.Reason)
				}
				return
			}
			if diff := cmp.Diff(v1beta1.ImageStatus{}, c.image("app").Status); diff != "" {
				t.Errorf("the Image has something of the deleted import (-want +got):\n%s", diff)
			}
		})
	}
}
