// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

const week = 7 * 24 * time.Hour

// newRelease is a release of digests of the Image app that became due at the start.
func newRelease(name string, digests ...digest.Digest) *v1beta1.MirrorRelease {
	release := &v1beta1.MirrorRelease{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: v1beta1.MirrorReleaseSpec{
			Namespace: namespace, Image: "app", RequestedAt: metav1.NewMicroTime(start.Add(-week)), DueTime: metav1.NewTime(start),
		},
	}
	for _, dgst := range digests {
		release.Spec.ImageReferences = append(release.Spec.ImageReferences, at(mirrorRepo, dgst))
	}
	return release
}

// mirroredImage is the Image app with a history.
func mirroredImage(history ...v1beta1.HashReference) *v1beta1.Image {
	image := newImage("app", "uid-app")
	image.Spec.Mirror = true
	image.Status.HashReferences = history
	return image
}

// mirrorReleases returns the releases that are stored, by name.
func (c *cluster) mirrorReleases() []v1beta1.MirrorRelease {
	c.Helper()
	list, err := c.client.TaggerV1beta1().MirrorReleases().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b v1beta1.MirrorRelease) int { return strings.Compare(a.Name, b.Name) })
	return list.Items
}

// specs are what releases say, without when.
func specs(releases []v1beta1.MirrorRelease) [][]string {
	var all [][]string
	for _, release := range releases {
		all = append(all, append([]string{release.Spec.Namespace, release.Spec.Image}, release.Spec.ImageReferences...))
	}
	return all
}

// look has a controller that does not run look at a release, as its cache has it.
func (c *cluster) look(controller *Controller, name string) (time.Duration, error) {
	c.Helper()
	for i := range c.mirrorReleases() {
		if err := controller.mirrorReleases.GetIndexer().Add(ptr.To(c.mirrorReleases()[i])); err != nil {
			c.Fatal(err)
		}
	}
	return controller.syncRelease(c.Context(), cache.NewObjectName("", name))
}

// keptTags are all tags that a digest may have at the mirror.
func keptTags(digests ...digest.Digest) map[string]digest.Digest {
	tags := map[string]digest.Digest{}
	for _, dgst := range digests {
		stem := "sha256-" + dgst.Encoded()
		for _, tag := range []string{anchor(dgst), stem, stem + ".sig", stem + ".att", stem + ".sbom"} {
			tags[tag] = dgst
		}
	}
	return tags
}

// TestRelease looks once at a release of digest A, or of A and B, both of which have all tags, and latest that is B.
func TestRelease(t *testing.T) {
	t.Parallel()
	current := generationOf(mirrorRepo, digestB, 0)
	meansB := func(c *cluster) { c.put(mirroredImage(current)) }
	meansA := func(c *cluster) { c.put(mirroredImage(current, generationOf(mirrorRepo, digestA, 0))) }
	gone := func(*cluster) {}
	tests := []struct {
		name    string
		digests []digest.Digest
		prepare func(*cluster)
		change  func(*v1beta1.MirrorRelease)
		left    []digest.Digest // whose tags are there afterwards
		without string          // but for this one
		pushed  string          // a tag of digest A that is there before and afterwards
		latest  bool            // whether that is
		over    bool            // whether the release is gone
		after   time.Duration   // until it is looked at again
		status  v1beta1.MirrorReleaseStatus
	}{
		{name: "the Image is gone", digests: []digest.Digest{digestA, digestB}, prepare: gone, over: true},
		{name: "the Image means something else", prepare: meansB, left: []digest.Digest{digestB}, latest: true, over: true},
		{
			name: "the Image means something else, and people pushed it under a tag", prepare: meansB, pushed: "v1",
			left: []digest.Digest{digestA, digestB}, without: anchor(digestA), latest: true, over: true,
		},
		{
			name: "the Image is gone, and people pushed it under a tag", prepare: gone, pushed: "v1",
			left: []digest.Digest{digestA, digestB}, without: anchor(digestA), over: true,
		},
		{name: "the Image means it", prepare: meansA, left: []digest.Digest{digestA, digestB}, latest: true, over: true},
		{
			name: "the Image means it yet", prepare: meansA, left: []digest.Digest{digestA, digestB}, latest: true,
			change: func(r *v1beta1.MirrorRelease) { r.Spec.RequestedAt = metav1.NewMicroTime(start.Add(-5 * time.Second)) },
			after:  5 * time.Second,
		},
		{
			name: "the Image means it and is being deleted", left: []digest.Digest{digestA, digestB}, latest: true, after: time.Minute,
			prepare: func(c *cluster) {
				image := mirroredImage(current, generationOf(mirrorRepo, digestA, 0))
				image.DeletionTimestamp, image.Finalizers = ptr.To(metav1.NewTime(start)), []string{"example.com/hold"}
				c.put(image)
			},
		},
		{
			name: "the Image means it, but not at the mirror", left: []digest.Digest{digestB}, latest: true, over: true,
			prepare: func(c *cluster) { c.put(mirroredImage(current, generationOf(sourceRepo, digestA, 0))) },
		},
		{
			name: "the mirror has another name", left: []digest.Digest{digestA, digestB}, latest: true, over: true,
			prepare: func(c *cluster) { c.put(mirroredImage(current, generationOf("old.example/ns/app", digestA, 0))) },
		},
		{
			name: "an import is under way", left: []digest.Digest{digestA, digestB}, latest: true, after: time.Minute,
			prepare: func(c *cluster) {
				meansB(c)
				c.put(newImport("running", c.image("app"), true))
			},
		},
		{
			name: "an import of another Image is under way", left: []digest.Digest{digestB}, latest: true, over: true,
			prepare: func(c *cluster) {
				meansB(c)
				c.put(newImport("running", newImage("other", "uid-other"), true))
			},
		},
		{
			name: "an import has ended", left: []digest.Digest{digestB}, latest: true, over: true,
			prepare: func(c *cluster) {
				meansB(c)
				imp := newImport("ended", c.image("app"), true)
				imp.Status.CompletionTime = ptr.To(metav1.NewTime(start))
				c.put(imp)
			},
		},
		{
			name: "a Pod runs it", left: []digest.Digest{digestA, digestB}, latest: true,
			prepare: func(c *cluster) {
				meansB(c)
				c.running = map[digest.Digest]bool{digestA: true}
			},
			status: v1beta1.MirrorReleaseStatus{
				Message: "a Pod of the namespace runs " + digestA.String(), NextAttemptTime: ptr.To(metav1.NewTime(start.Add(runningPause))),
			},
		},
		{
			name: "a Pod runs one of them", digests: []digest.Digest{digestA, digestB}, left: []digest.Digest{digestB}, latest: true,
			prepare: func(c *cluster) { c.running = map[digest.Digest]bool{digestB: true} },
			status: v1beta1.MirrorReleaseStatus{
				Message: "a Pod of the namespace runs " + digestB.String(), NextAttemptTime: ptr.To(metav1.NewTime(start.Add(runningPause))),
			},
		},
		{
			name: "the mirror fails", left: []digest.Digest{digestA, digestB}, latest: true,
			prepare: func(c *cluster) {
				meansB(c)
				c.mirror.untagging = func() error { return errors.New("secret") }
			},
			change: func(r *v1beta1.MirrorRelease) { r.Status.Failures = 2 },
			status: v1beta1.MirrorReleaseStatus{
				Failures: 3, Message: "the mirror failed; the log of the server says why", NextAttemptTime: ptr.To(metav1.NewTime(start.Add(4 * time.Minute))),
			},
		},
		{
			name: "the mirror wants to be left alone", left: []digest.Digest{digestA, digestB}, latest: true,
			prepare: func(c *cluster) {
				meansB(c)
				c.mirror.untagging = func() error {
					return &importer.Error{Kind: importer.MirrorUnavailable, RetryAfter: time.Hour / 2, Err: errors.New("too many requests")}
				}
			},
			status: v1beta1.MirrorReleaseStatus{
				Failures: 1, Message: "too many requests", NextAttemptTime: ptr.To(metav1.NewTime(start.Add(time.Hour / 2))),
			},
		},
		{
			name: "the mirror is not known", left: []digest.Digest{digestA, digestB}, latest: true,
			prepare: func(c *cluster) {
				meansB(c)
				c.mirror.err = importer.NewError(importer.Invalid, nil, "no mirror is configured")
			},
			status: v1beta1.MirrorReleaseStatus{
				Failures: 1, Message: "no mirror is configured", NextAttemptTime: ptr.To(metav1.NewTime(start.Add(time.Minute))),
			},
		},
		{
			name: "the mirror deletes no tags", left: []digest.Digest{digestA, digestB}, latest: true, over: true,
			prepare: func(c *cluster) {
				meansB(c)
				c.mirror.untagging = func() error { return fmt.Errorf("405: %w", errdefs.ErrNotImplemented) }
			},
		},
		{
			name: "the mirror deletes some tags", left: []digest.Digest{digestA, digestB}, latest: true, over: true, without: anchor(digestA),
			prepare: func(c *cluster) {
				meansB(c)
				anchored := false
				c.mirror.untagging = func() error {
					if anchored {
						return fmt.Errorf("405: %w", errdefs.ErrNotImplemented)
					}
					anchored = true
					return nil
				}
			},
		},
		{
			name: "it was given up", left: []digest.Digest{digestA, digestB}, latest: true, prepare: gone,
			change: func(r *v1beta1.MirrorRelease) {
				r.DeletionTimestamp, r.Finalizers = ptr.To(metav1.NewTime(start)), []string{"example.com/hold"}
			},
		},
		{
			name: "it is not due", left: []digest.Digest{digestA, digestB}, latest: true, prepare: gone, after: time.Second,
			change: func(r *v1beta1.MirrorRelease) { r.Spec.DueTime = metav1.NewTime(start.Add(time.Second)) },
		},
		{
			name: "its next attempt is not due", left: []digest.Digest{digestA, digestB}, latest: true, prepare: gone, after: time.Second,
			change: func(r *v1beta1.MirrorRelease) {
				r.Status.NextAttemptTime = ptr.To(metav1.NewTime(start.Add(time.Second)))
			},
			status: v1beta1.MirrorReleaseStatus{NextAttemptTime: ptr.To(metav1.NewTime(start.Add(time.Second)))},
		},
		{
			name: "a later release has it", left: []digest.Digest{digestA, digestB}, latest: true, over: true,
			prepare: func(c *cluster) {
				later := newRelease("later", digestA, digestB)
				later.Spec.RequestedAt, later.Spec.DueTime = metav1.NewMicroTime(start), metav1.NewTime(start.Add(week))
				c.put(later)
			},
		},
		{
			name: "an earlier release has it", left: []digest.Digest{digestB}, over: true,
			prepare: func(c *cluster) {
				earlier := newRelease("earlier", digestA, digestB)
				earlier.Spec.RequestedAt = metav1.NewMicroTime(start.Add(-2 * week))
				c.put(earlier)
			},
		},
		{
			name: "the content of what the Image means is gone", left: []digest.Digest{digestA, digestB}, latest: true, over: true,
			prepare: func(c *cluster) {
				meansA(c)
				c.mirror.committing = func(string) error { return errdefs.ErrFailedPrecondition }
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			tt.prepare(c)
			c.mirror.tags = keptTags(digestA, digestB)
			c.mirror.tags["latest"] = digestB
			if tt.pushed != "" {
				c.mirror.tags[tt.pushed] = digestA
			}
			if tt.digests == nil {
				tt.digests = []digest.Digest{digestA}
			}
			release := newRelease("release", tt.digests...)
			if tt.change != nil {
				tt.change(release)
			}
			c.put(release)
			after, err := c.look(c.idle(sole), "release")
			if err != nil || after != tt.after {
				t.Errorf("looked at again after %s (%v), want %s", after, err, tt.after)
			}
			want := keptTags(tt.left...)
			delete(want, tt.without)
			if tt.latest {
				want["latest"] = digestB
			}
			if tt.pushed != "" {
				want[tt.pushed] = digestA
			}
			if diff := cmp.Diff(want, c.mirror.tagged()); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			var left []v1beta1.MirrorRelease
			for _, release := range c.mirrorReleases() {
				if release.Name == "release" {
					left = append(left, release)
				}
			}
			if over := len(left) == 0; over != tt.over {
				t.Fatalf("over: %t, want %t", over, tt.over)
			}
			if !tt.over {
				if diff := cmp.Diff(throughJSON(tt.status), left[0].Status); diff != "" {
					t.Errorf("status (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestReleaseMeantMeanwhile has the Image mean again what is released, while that happens.
func TestReleaseMeantMeanwhile(t *testing.T) {
	t.Parallel()
	meansA := mirroredImage(generationOf(mirrorRepo, digestA, 0))
	tests := []struct {
		name      string
		meanwhile func(*cluster)
		cut       bool // whether the release is cut off before the tag is given back
	}{
		{name: "it is imported", meanwhile: func(c *cluster) { c.put(meansA.DeepCopy()) }},
		{name: "it is imported, and the release is cut off", meanwhile: func(c *cluster) { c.put(meansA.DeepCopy()) }, cut: true},
		{name: "its import is under way", meanwhile: func(c *cluster) { c.put(newImport("running", meansA, true)) }},
		{name: "its Image is made again", meanwhile: func(c *cluster) {
			image := meansA.DeepCopy()
			image.UID = "uid-again"
			c.put(image)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			c.mirror.tags = map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}
			c.put(newRelease("release", digestA))
			controller := c.idle(sole)
			c.mirror.onUntag(func() error {
				c.mirror.onUntag(nil)
				tt.meanwhile(c)
				return nil
			})
			if tt.cut {
				c.mirror.committing = func(string) error { return errors.New("killed") }
			}
			if _, err := c.look(controller, "release"); err != nil {
				t.Fatal(err)
			}
			if len(c.mirrorReleases()) != 1 {
				t.Error("the release is over although nobody knows yet whether the Image means it")
			}
			if tt.cut {
				c.mirror.committing = nil
				c.clock.Step(time.Minute)
				if _, err := c.look(controller, "release"); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.mirror.tagged()[anchor(digestA)]; got != digestA {
				t.Errorf("what the Image means is tagged as %q, want %s", got, digestA)
			}
			if _, err := c.client.Tracker().Get(imagesGVR, namespace, "app"); err != nil {
				return // it is not imported yet
			}
			if got := c.mirror.tagged()["latest"]; !tt.cut && got != digestA {
				t.Errorf("latest is %q, want %s", got, digestA)
			}
			if _, err := c.look(controller, "release"); err != nil {
				t.Fatal(err)
			}
			if left := c.mirrorReleases(); len(left) != 0 {
				t.Errorf("a release of what the Image means is left: %+v", left)
			}
		})
	}
}

// TestReleaseAskedAgain asks for the same once more, also while it is done.
func TestReleaseAskedAgain(t *testing.T) {
	c := newCluster(t)
	controller := c.idle(sole)
	ask := func() {
		controller.requestRelease(t.Context(), namespace, "app", []string{at(mirrorRepo, digestA), at(mirrorRepo, digestB)})
	}
	ask()
	first := c.mirrorReleases()[0]
	if got := first.Spec.DueTime.Time; !got.Equal(start.Add(week)) {
		t.Errorf("due %s, want a week after the start", got)
	}
	c.clock.Step(week)
	asked := false
	c.mirror.onUntag(func() error {
		if !asked {
			asked = true
			c.clock.Step(time.Second)
			controller.requestRelease(t.Context(), namespace, "app", []string{at(mirrorRepo, digestB), at(mirrorRepo, digestA)})
		}
		return nil
	})
	if _, err := c.look(controller, first.Name); err != nil {
		t.Fatal(err)
	}
	left := c.mirrorReleases()
	if len(left) != 1 || left[0].UID != first.UID {
		t.Fatalf("what was asked for while it was done is not there: %+v", left)
	}
	if got := left[0].Spec.DueTime.Time; !got.Equal(start.Add(2*week + time.Second)) {
		t.Errorf("due %s, want a week after it was asked for again", got)
	}
}

// TestReleaseOfHistory imports until something leaves the history, and waits until the mirror has let go of it.
func TestReleaseOfHistory(t *testing.T) {
	c := newCluster(t)
	image := mirroredImage()
	image.Spec.HistoryLimit = ptr.To[int32](1)
	c.put(image)
	c.mirror.tags["anchor-of-another"] = digestB
	var order []string
	c.beforeWrite(func(resource string, _ metav1.Object) error {
		order = append(order, resource)
		return nil
	})
	c.run(sole)
	imported := func(name string) {
		c.put(newImport(name, c.image("app"), true))
		c.finished(name)
	}
	imported("first")
	if got := c.mirrorReleases(); len(got) != 0 {
		t.Fatalf("releases before anything left the history: %+v", got)
	}
	c.source.move(appFrom, digestB)
	order = nil
	imported("second")
	if diff := cmp.Diff([][]string{{namespace, "app", at(mirrorRepo, digestA)}}, specs(c.mirrorReleases())); diff != "" {
		t.Fatalf("releases (-want +got):\n%s", diff)
	}
	if release, written := slices.Index(order, "mirrorreleases"), slices.Index(order, "images"); release < 0 || release > written {
		t.Errorf("written in the order %v, want the release before the Image", order)
	}
	want := map[string]digest.Digest{
		anchor(digestA): digestA, anchor(digestB): digestB, "latest": digestB, "anchor-of-another": digestB}
	c.clock.Step(week - time.Minute)
	c.barrier()
	if diff := cmp.Diff(want, c.mirror.tagged()); diff != "" {
		t.Errorf("tags before it is due (-want +got):\n%s", diff)
	}
	c.advance(time.Minute, "the release is not done", func() bool { return len(c.mirrorReleases()) == 0 })
	delete(want, anchor(digestA))
	if diff := cmp.Diff(want, c.mirror.tagged()); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// TestReleaseAsked says of several changes of what an Image means what the mirror need not keep then.
func TestReleaseAsked(t *testing.T) {
	t.Parallel()
	digestC := digest.FromString("c")
	a, b, old := generationOf(mirrorRepo, digestA, 0), generationOf(mirrorRepo, digestB, 0), generationOf("old.example/ns/app", digestC, 0)
	unmirrored := generationOf(sourceRepo, digestC, 0)
	pushed := generationOf(mirrorRepo, digestC, 0)
	pushed.SourceReference = pushed.ImageReference
	type refs = []v1beta1.HashReference
	tests := []struct {
		name          string
		before, after refs
		lost          error // of finding the mirror
		want          []string
	}{
		{name: "nothing leaves", before: refs{a, b}, after: refs{b, a}},
		{name: "one leaves", before: refs{a, b}, after: refs{b}, want: []string{at(mirrorRepo, digestA)}},
		{name: "one of two entries of a digest leaves", before: refs{a, b, a}, after: refs{a, b}},
		{name: "all leave", before: refs{a, b, a}, want: []string{at(mirrorRepo, digestA), at(mirrorRepo, digestB)}},
		{name: "one that was not mirrored leaves", before: refs{unmirrored, a}, after: refs{a}},
		{name: "one that was pushed leaves", before: refs{pushed, a}, after: refs{a}, want: []string{at(mirrorRepo, digestC)}},
		{name: "one of an earlier mirror leaves", before: refs{old, a}, after: refs{a}, want: []string{at("old.example/ns/app", digestC)}},
		{name: "one that is mirrored here is in place of one of an earlier mirror", before: refs{old}, after: refs{generationOf(mirrorRepo, digestC, 0)}},
		{name: "the mirrored one of two of a digest leaves", before: refs{generationOf(mirrorRepo, digestC, 0), unmirrored}, after: refs{unmirrored}, want: []string{at(mirrorRepo, digestC)}},
		{name: "the mirror is not known", before: refs{a, unmirrored, b}, after: refs{b}, lost: errors.New("down"), want: []string{at(mirrorRepo, digestA)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			c.mirror.err = tt.lost
			c.idle().releaseDropped(t.Context(), mirroredImage(), tt.before, tt.after)
			var want [][]string
			if tt.want != nil {
				want = [][]string{append([]string{namespace, "app"}, tt.want...)}
			}
			if diff := cmp.Diff(want, specs(c.mirrorReleases())); diff != "" {
				t.Errorf("releases (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReleaseOfDeletedImage asks for all that an Image has at the mirror, and is held up by nothing.
func TestReleaseOfDeletedImage(t *testing.T) {
	c := newCluster(t)
	pushed := at("old.example/ns/app", digest.FromString("c")) // when the mirror had another host
	image := mirroredImage(generationOf(mirrorRepo, digestA, 0), v1beta1.HashReference{ImageReference: pushed, SourceReference: pushed})
	image.Status.RecordedImports = []v1beta1.HashReference{generationOf(mirrorRepo, digestB, 0)}
	c.beforeWrite(func(string, metav1.Object) error { return errors.New("etcd has no space") })
	controller := c.idle()
	controller.ReleaseImage(t.Context(), image)
	c.beforeWrite(nil)
	controller.ReleaseImage(t.Context(), image)
	controller.ReleaseImage(t.Context(), image)
	if diff := cmp.Diff([][]string{{namespace, "app", at(mirrorRepo, digestA), pushed, at(mirrorRepo, digestB)}}, specs(c.mirrorReleases())); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
}

// TestReleaseOfUnknownMirror has nobody answer where the mirror is: what the references tell is written down all the same.
func TestReleaseOfUnknownMirror(t *testing.T) {
	c := newCluster(t)
	c.mirror.locating = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	image := mirroredImage(generationOf(mirrorRepo, digestA, 0))
	c.idle().ReleaseImage(t.Context(), image)
	want := [][]string{{namespace, "app", at(mirrorRepo, digestA)}}
	if diff := cmp.Diff(want, specs(c.mirrorReleases())); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
}

// TestReleaseOfUnrecorded has an import tag something at the mirror that is not recorded then.
func TestReleaseOfUnrecorded(t *testing.T) {
	t.Parallel()
	mark := func(c *cluster) error {
		image := c.image("app")
		image.DeletionTimestamp, image.Finalizers = ptr.To(metav1.NewTime(start)), []string{"example.com/hold"}
		return c.store(image)
	}
	tests := []struct {
		name    string
		prepare func(*cluster)
	}{
		{name: "the Image is being deleted", prepare: func(c *cluster) {
			c.beforeWrite(func(resource string, _ metav1.Object) error {
				if resource == "images" {
					c.before = nil
					return mark(c)
				}
				return nil
			})
		}},
		{name: "the mirror fails after it took the tag", prepare: func(c *cluster) {
			c.mirror.committing = func(string) error { return errors.New("no answer") }
		}},
		{name: "it is too old to be recorded", prepare: func(c *cluster) {
			c.beforeWrite(func(resource string, _ metav1.Object) error {
				if resource != "images" {
					return nil
				}
				c.before = nil
				image := c.image("app")
				image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, 3600)}
				c.clock.Step(2 * time.Hour)
				return c.store(image)
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := mirroredImage()
			image.Spec.HistoryLimit = ptr.To[int32](1)
			c.put(image)
			c.put(newImport("import", image, true))
			tt.prepare(c)
			c.run(sole)
			c.until("the import is not tried", func() bool { return len(c.imp("import").Status.ImportAttempts) > 0 })
			if diff := cmp.Diff([][]string{{namespace, "app", at(mirrorRepo, digestA)}}, specs(c.mirrorReleases())); diff != "" {
				t.Errorf("releases (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReleaseBeforeTheTag: whoever is killed after a tag was set has written down before that it need not stay.
func TestReleaseBeforeTheTag(t *testing.T) {
	c := newCluster(t)
	c.put(mirroredImage())
	c.put(newImport("import", c.image("app"), true))
	var found [][]string
	c.mirror.committing = func(tag string) error {
		if tag == anchor(digestA) {
			found = specs(c.mirrorReleases())
		}
		return nil
	}
	c.run(sole)
	c.finished("import")
	if diff := cmp.Diff([][]string{{namespace, "app", at(mirrorRepo, digestA)}}, found); diff != "" {
		t.Errorf("releases when the tag was set (-want +got):\n%s", diff)
	}
	if left := c.mirrorReleases(); len(left) > 0 {
		t.Errorf("a release of what was recorded is left: %+v", left)
	}
	c.put(newImport("again", c.image("app"), true))
	found = nil
	c.clock.Step(referrersInterval) // which has it tagged again
	c.finished("again")
	if len(found) > 0 {
		t.Errorf("a release of what the Image means: %v", found)
	}
}

// TestReleaseSeenLate: a cache lags, and another replica has put the release off, or done it.
func TestReleaseSeenLate(t *testing.T) {
	for name, change := range map[string]func(*v1beta1.MirrorRelease) *v1beta1.MirrorRelease{
		"put off": func(release *v1beta1.MirrorRelease) *v1beta1.MirrorRelease {
			release.Status.NextAttemptTime = ptr.To(metav1.NewTime(start.Add(time.Hour)))
			return release
		},
		"done": func(*v1beta1.MirrorRelease) *v1beta1.MirrorRelease { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.mirror.tags = keptTags(digestA)
			controller := c.idle(sole)
			if err := controller.mirrorReleases.GetIndexer().Add(newRelease("release", digestA)); err != nil {
				t.Fatal(err)
			}
			if now := change(newRelease("release", digestA)); now != nil {
				c.put(now)
			}
			if _, err := controller.syncRelease(t.Context(), cache.NewObjectName("", "release")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(keptTags(digestA), c.mirror.tagged()); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReleaseByRollback rolls back to what leaves the history meanwhile, and lets another entry leave it.
func TestReleaseByRollback(t *testing.T) {
	c := newCluster(t)
	image := mirroredImage(generationOf(mirrorRepo, digestB, 0))
	image.Spec.HistoryLimit = ptr.To[int32](1)
	c.put(image)
	c.mirror.tags["latest"] = digestB
	if _, _, err := c.idle().RecordRollback(t.Context(), image, generationOf(mirrorRepo, digestA, 0)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{namespace, "app", at(mirrorRepo, digestB)}}, specs(c.mirrorReleases())); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}, c.mirror.tagged()); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// TestReleasesOfSeveralReplicas has three of them do many releases, of which some fail at first.
func TestReleasesOfSeveralReplicas(t *testing.T) {
	const releases = 30
	c := newCluster(t)
	c.put(mirroredImage(generationOf(mirrorRepo, digestB, 0)))
	want := map[string]digest.Digest{anchor(digestB): digestB}
	c.mirror.tags[anchor(digestB)] = digestB
	for i := range releases {
		dgst := digest.FromString(strconv.Itoa(i))
		c.mirror.tags[anchor(dgst)] = dgst
		c.put(newRelease("release-"+strconv.Itoa(i), dgst, digestB))
	}
	failures := releases / 2
	c.mirror.onUntag(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if failures--; failures >= 0 {
			return errors.New("busy")
		}
		return nil
	})
	for range 3 {
		c.run()
	}
	c.advance(time.Second, "the releases are not done", func() bool { return len(c.mirrorReleases()) == 0 })
	if diff := cmp.Diff(want, c.mirror.tagged()); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// ownMirrors is a mirror that one namespace cannot reach.
type ownMirrors struct {
	*mirror
	hangs *gate
}

func (m ownMirrors) Repository(ctx context.Context, in, image string) (importer.Destination, string, error) {
	if in == "hanging" {
		return nil, "", errors.Join(errors.New("down"), m.hangs.pass(ctx))
	}
	return m.mirror.Repository(ctx, in, image)
}

// TestReleaseOfAnotherNamespace is not held up by one whose mirror hangs, whatever that has to be released, until that fails.
func TestReleaseOfAnotherNamespace(t *testing.T) {
	c := newCluster(t)
	for i := range 2 * releaseWorkers {
		hanging := newRelease("hanging-"+strconv.Itoa(i), digestA)
		hanging.Spec.Namespace = "hanging"
		c.put(hanging)
	}
	hangs := newGate()
	c.run(sole, func(config *Config) { config.Mirrors = ownMirrors{c.mirror, hangs} })
	hangs.wait(t)
	c.put(newRelease("other", digestB))
	left := func() int { return len(c.mirrorReleases()) }
	c.until("the other namespace waits", func() bool { return left() == 2*releaseWorkers })
	close(hangs.opened)
	c.until("not all are tried", func() bool {
		return !slices.ContainsFunc(c.mirrorReleases(), func(release v1beta1.MirrorRelease) bool { return release.Status.Failures == 0 })
	})
}

func TestReleasePause(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int32]time.Duration{1: time.Minute, 3: 4 * time.Minute, 9: 256 * time.Minute, 10: maxReleasePause, 1000: maxReleasePause} {
		if got := releasePauseAfter(failures); got != want {
			t.Errorf("after %d failures: %s, want %s", failures, got, want)
		}
	}
}
