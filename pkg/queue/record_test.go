// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// generation is an entry of a history in short; what was resolved when is in seconds since the start.
type generation struct {
	Image, Import string
	At            int
	Size          int64
	Platforms     []string
}

func generations(history []v1beta1.HashReference) []generation {
	var short []generation
	for _, ref := range history {
		short = append(short, generation{
			Image: ref.ImageReference, Import: string(ref.ImportUID), At: int(ref.ResolvedAt.Sub(start).Seconds()),
			Size: ref.Size, Platforms: ref.Platforms,
		})
	}
	return short
}

func at(repository string, dgst digest.Digest) string { return repository + "@" + string(dgst) }

// TestImport runs imports of one Image one after another, ten seconds apart.
func TestImport(t *testing.T) {
	t.Parallel()
	const sourceRepo, mirrorRepo = "example.com/app", "mirror.example/ns/app"
	type step struct {
		digest  digest.Digest
		from    string
		mirror  bool
		before  func(c *cluster)
		reasons string // of the import and the Image
	}
	loss := func(c *cluster) { c.mirror.lose() }
	const imported, unchanged = v1beta1.ReasonImported, v1beta1.ReasonUnchanged
	for _, tc := range []struct {
		name       string
		limit      *int32
		steps      []step
		want       []generation
		mirrorings int
		tags       map[string]digest.Digest
	}{
		{name: "without mirror", steps: []step{{digest: digestA, reasons: imported}},
			want: []generation{{Image: at(sourceRepo, digestA), Import: "uid-0", Platforms: resolvedPlatforms}}},
		{name: "with mirror", steps: []step{{digest: digestA, mirror: true, reasons: imported}},
			want:       []generation{{Image: at(mirrorRepo, digestA), Import: "uid-0", Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "unchanged", steps: []step{{digest: digestA, reasons: imported}, {digest: digestA, reasons: unchanged}},
			want: []generation{{Image: at(sourceRepo, digestA), Import: "uid-1", At: 10, Platforms: resolvedPlatforms}}},
		{name: "unchanged at the mirror keeps size and platforms",
			steps: []step{{digest: digestA, mirror: true, reasons: imported}, {digest: digestA, mirror: true, reasons: unchanged},
				{digest: digestA, mirror: true, reasons: unchanged}},
			want:       []generation{{Image: at(mirrorRepo, digestA), Import: "uid-2", At: 20, Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "a moved tag", steps: []step{{digest: digestA, reasons: imported}, {digest: digestB, reasons: imported}},
			want: []generation{{Image: at(sourceRepo, digestB), Import: "uid-1", At: 10, Platforms: resolvedPlatforms},
				{Image: at(sourceRepo, digestA), Import: "uid-0", Platforms: resolvedPlatforms}}},
		{name: "a tag moved back copies nothing again",
			steps: []step{{digest: digestA, mirror: true, reasons: imported}, {digest: digestB, mirror: true, reasons: imported},
				{digest: digestA, mirror: true, reasons: imported}},
			want: []generation{
				{Image: at(mirrorRepo, digestA), Import: "uid-2", At: 20, Size: mirroredSize, Platforms: mirroredPlatforms},
				{Image: at(mirrorRepo, digestB), Import: "uid-1", At: 10, Size: mirroredSize, Platforms: mirroredPlatforms},
				{Image: at(mirrorRepo, digestA), Import: "uid-0", Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 2,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, anchor(digestB): digestB, "latest": digestA}},
		{name: "the mirror switched on later", steps: []step{{digest: digestA, reasons: imported}, {digest: digestA, mirror: true, reasons: imported}},
			want:       []generation{{Image: at(mirrorRepo, digestA), Import: "uid-1", At: 10, Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "the mirror switched on later, where the content is already",
			steps: []step{{digest: digestA, reasons: imported},
				{digest: digestA, mirror: true, reasons: imported, before: func(c *cluster) { c.mirror.content[digestA] = true }}},
			want: []generation{{Image: at(mirrorRepo, digestA), Import: "uid-1", At: 10, Platforms: resolvedPlatforms}},
			tags: map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "an import without mirror leaves what lies there",
			steps:      []step{{digest: digestA, mirror: true, reasons: imported}, {digest: digestA, reasons: unchanged}},
			want:       []generation{{Image: at(mirrorRepo, digestA), Import: "uid-1", At: 10, Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "latest goes when what is current is not at the mirror",
			steps: []step{{digest: digestA, mirror: true, reasons: imported}, {digest: digestB, reasons: imported}},
			want: []generation{{Image: at(sourceRepo, digestB), Import: "uid-1", At: 10, Platforms: resolvedPlatforms},
				{Image: at(mirrorRepo, digestA), Import: "uid-0", Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA}},
		{name: "latest goes also when nothing of the history is there any more", limit: ptr.To[int32](1),
			steps:      []step{{digest: digestA, mirror: true, reasons: imported}, {digest: digestB, reasons: imported}},
			want:       []generation{{Image: at(sourceRepo, digestB), Import: "uid-1", At: 10, Platforms: resolvedPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA}},
		{name: "after an import by a clock that was ahead", steps: []step{{digest: digestA, reasons: imported},
			{digest: digestB, reasons: imported, before: func(c *cluster) {
				image := c.image("app").DeepCopy()
				image.Status.HashReferences[0].ResolvedAt = metav1.NewMicroTime(start.Add(time.Hour))
				c.put(image)
			}}},
			want: []generation{{Image: at(sourceRepo, digestB), Import: "uid-1", At: 10, Platforms: resolvedPlatforms},
				{Image: at(sourceRepo, digestA), Import: "uid-0", At: 10, Platforms: resolvedPlatforms}}},
		{name: "content lost at the mirror",
			steps:      []step{{digest: digestA, mirror: true, reasons: imported}, {digest: digestA, mirror: true, before: loss, reasons: imported}},
			want:       []generation{{Image: at(mirrorRepo, digestA), Import: "uid-1", At: 10, Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 2,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "the mirror moved", steps: []step{{digest: digestA, mirror: true, reasons: imported},
			{digest: digestA, mirror: true, reasons: imported, before: func(c *cluster) { c.mirror.lose(); c.mirror.address = "new.example" }}},
			want:       []generation{{Image: at("new.example/ns/app", digestA), Import: "uid-1", At: 10, Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 2,
			tags:       map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "content that was there already is tagged all the same",
			steps: []step{{digest: digestA, mirror: true, reasons: imported, before: func(c *cluster) { c.mirror.content[digestA] = true }}},
			want:  []generation{{Image: at(mirrorRepo, digestA), Import: "uid-0", Platforms: resolvedPlatforms}},
			tags:  map[string]digest.Digest{anchor(digestA): digestA, "latest": digestA}},
		{name: "another source", steps: []step{{digest: digestA, reasons: imported}, {digest: digestB, from: "other.example/app:1", reasons: imported}},
			want: []generation{{Image: at("other.example/app", digestB), Import: "uid-1", At: 10, Platforms: resolvedPlatforms},
				{Image: at(sourceRepo, digestA), Import: "uid-0", Platforms: resolvedPlatforms}}},
		{name: "the history is trimmed", limit: ptr.To[int32](1),
			steps: []step{{digest: digestA, reasons: imported}, {digest: digestB, reasons: imported}},
			want:  []generation{{Image: at(sourceRepo, digestB), Import: "uid-1", At: 10, Platforms: resolvedPlatforms}}},
		{name: "latest cannot be set", steps: []step{{digest: digestA, mirror: true, reasons: imported, before: func(c *cluster) {
			c.mirror.committing = func(tag string) error {
				if tag == "latest" {
					return errors.New("refused")
				}
				return nil
			}
		}}},
			want:       []generation{{Image: at(mirrorRepo, digestA), Import: "uid-0", Size: mirroredSize, Platforms: mirroredPlatforms}},
			mirrorings: 1,
			tags:       map[string]digest.Digest{anchor(digestA): digestA}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Spec.HistoryLimit = tc.limit
			c.put(image)
			c.run()
			for i, step := range tc.steps {
				c.clock.SetTime(start.Add(time.Duration(i) * 10 * time.Second))
				imp := newImport(strconv.Itoa(i), image, step.mirror)
				if step.from != "" {
					imp.Spec.From = step.from
				}
				if step.before != nil {
					step.before(c)
				}
				c.source.move(imp.Spec.From, step.digest)
				c.put(imp)
				ended := c.finished(imp.Name)
				if got := condition(ended.Status.Conditions); got.Status != metav1.ConditionTrue || got.Reason != step.reasons {
					t.Errorf("import %d: %s/%s, want True/%s", i, got.Status, got.Reason, step.reasons)
				}
				if got := condition(c.image("app").Status.Conditions); got.Status != metav1.ConditionTrue || got.Reason != step.reasons {
					t.Errorf("the Image after import %d: %s/%s, want True/%s", i, got.Status, got.Reason, step.reasons)
				}
				if diff := cmp.Diff(c.image("app").Status.HashReferences[0], *ended.Status.HashReference); diff != "" {
					t.Errorf("import %d and the Image say different things (-Image +import):\n%s", i, diff)
				}
			}
			if diff := cmp.Diff(tc.want, generations(c.image("app").Status.HashReferences)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if got := c.source.mirrorings(); got != tc.mirrorings {
				t.Errorf("copied %d times, want %d", got, tc.mirrorings)
			}
			if tc.tags == nil {
				tc.tags = map[string]digest.Digest{}
			}
			if diff := cmp.Diff(tc.tags, c.mirror.tagged()); diff != "" {
				t.Errorf("tags at the mirror (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLatestOfAnImageMadeAgain: what latest named of an Image of the same name that was deleted is not what the new one means.
func TestLatestOfAnImageMadeAgain(t *testing.T) {
	c := newCluster(t)
	deleted := newRelease("deleted", digestA)
	deleted.Spec.DueTime = metav1.NewTime(start.Add(week))
	c.put(deleted)
	c.mirror.tags["latest"] = digestA
	image := newImage("app", "uid-app")
	c.put(image)
	c.run()
	c.source.move(appFrom, digestB)
	c.put(newImport("one", image, false))
	c.finished("one")
	if got := c.mirror.tagged()["latest"]; got != "" {
		t.Errorf("latest at the mirror is %s, want none", got)
	}
}

// TestStatus compares whole statuses, and in which order they were written.
func TestStatus(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Spec.Mirror, image.Spec.Insecure = true, true
	c.put(image)
	imp := newImport("one", image, true)
	imp.Spec.Insecure = ptr.To(true)
	c.put(imp)
	c.run()
	got := c.finished("one")

	now := metav1.NewTime(start)
	ref := v1beta1.HashReference{
		From:            appFrom,
		ImageReference:  at("mirror.example/ns/app", digestA),
		SourceReference: at("example.com/app", digestA),
		ImportedAt:      now, ResolvedAt: metav1.NewMicroTime(start),
		ImportUID: "uid-one", MediaType: mediaType, Size: mirroredSize, Platforms: mirroredPlatforms,
		ReferrersCheckedAt: &now,
	}
	imported := func(generation int64) []metav1.Condition {
		return []metav1.Condition{{
			Type: "Imported", Status: metav1.ConditionTrue, Reason: "Imported", ObservedGeneration: generation, LastTransitionTime: now,
			Message: appFrom + " means " + string(digestA),
		}}
	}
	if diff := cmp.Diff(v1beta1.ImageImportStatus{
		HashReference:  &ref,
		ImportAttempts: []v1beta1.ImportAttempt{{When: now, Succeed: true}},
		Conditions:     imported(1),
		StartTime:      &now,
		CompletionTime: &now,
	}, got.Status); diff != "" {
		t.Errorf("status of the import (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(v1beta1.ImageStatus{HashReferences: []v1beta1.HashReference{ref}, LastAttemptTime: &now, Conditions: imported(3)},
		c.image("app").Status); diff != "" {
		t.Errorf("status of the Image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"imageimports/one", "images/app", "imageimports/one", "images/app"}, c.writes()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	reference, err := importer.ParseReference(appFrom)
	if err != nil {
		t.Fatal(err)
	}
	want := []importer.Source{{Reference: reference, Insecure: true, Scope: namespace}}
	if !slices.Equal(want, c.source.sources) {
		t.Errorf("imported from %+v, want %+v", c.source.sources, want)
	}
}

// TestTwoAtOnce has two imports of one Image resolve the same tag before either records.
func TestTwoAtOnce(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
	c.put(newImport("one", image, false))
	c.put(newImport("two", image, false))
	c.run(workers(2))
	gate.wait(t)
	gate.wait(t)
	close(gate.opened)
	for _, name := range []string{"one", "two"} {
		if got := condition(c.finished(name).Status.Conditions).Status; got != metav1.ConditionTrue {
			t.Errorf("%s ended %s, want True", name, got)
		}
	}
	status := c.image("app").Status
	if len(status.HashReferences) != 1 || digestOf(&status.HashReferences[0]) != digestA {
		t.Errorf("history %+v, want one entry of the digest", generations(status.HashReferences))
	}
	if len(status.RecordedImports) != 0 {
		t.Errorf("the Image still remembers %+v", generations(status.RecordedImports))
	}
}

// TestSlowImport resolves before the tag moves and is recorded after a faster import has seen that.
func TestSlowImport(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	gate := newGate()
	c.source.mirroring = func(ctx context.Context, res *importer.Resolved, _ func(importer.Progress)) error {
		if res.Digest == digestA {
			return gate.pass(ctx)
		}
		return nil
	}
	c.run(workers(2))
	c.put(newImport("slow", image, true))
	gate.wait(t)
	c.clock.Step(10 * time.Second)
	c.source.move(appFrom, digestB)
	c.put(newImport("fast", image, true))
	c.finished("fast")
	close(gate.opened)
	slow := c.finished("slow")
	if got := condition(slow.Status.Conditions).Status; got != metav1.ConditionTrue || digestOf(slow.Status.HashReference) != digestA {
		t.Errorf("the slow import ended %s with %s, want True with %s", got, slow.Status.HashReference.ImageReference, digestA)
	}
	want := []generation{
		{Image: at("mirror.example/ns/app", digestB), Import: "uid-fast", At: 10, Size: mirroredSize, Platforms: mirroredPlatforms},
		{Image: at("mirror.example/ns/app", digestA), Import: "uid-slow", Size: mirroredSize, Platforms: mirroredPlatforms},
	}
	if diff := cmp.Diff(want, generations(c.image("app").Status.HashReferences)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if got := c.mirror.tagged()["latest"]; got != digestB {
		t.Errorf("latest at the mirror is %s, want the current reference %s", got, digestB)
	}
	if got := condition(c.image("app").Status.Conditions).Message; !strings.Contains(got, string(digestB)) {
		t.Errorf("the Image says %q, want what is current, %s", got, digestB)
	}
}

// said is what a condition says, in short.
type said struct {
	Status     metav1.ConditionStatus
	Reason     string
	Generation int64
}

// TestConditionOfTheImage has an import change what the Image says of itself only where it is news of what that asks for.
func TestConditionOfTheImage(t *testing.T) {
	t.Parallel()
	imported := said{metav1.ConditionTrue, "Imported", 3}
	for _, tc := range []struct {
		name   string
		change func(*v1beta1.ImageImport)
		during func(*cluster) // while the attempt of the import runs
		err    error
		want   said
	}{
		{name: "success", want: said{metav1.ConditionTrue, "Unchanged", 4}},
		{name: "failure", err: errors.New("down"), want: said{metav1.ConditionFalse, "Unavailable", 4}},
		{name: "success of another source", want: said{metav1.ConditionTrue, "Imported", 3},
			change: func(i *v1beta1.ImageImport) { i.Spec.From = "other.example/app:latest" }},
		{name: "success with a mirror that the Image does not ask for", want: said{metav1.ConditionTrue, "Imported", 3},
			change: func(i *v1beta1.ImageImport) { i.Spec.Mirror = ptr.To(true) }},
		{name: "failure of what was asked for before the Image was changed", err: errors.New("down"), want: said{metav1.ConditionFalse, "Unavailable", 3},
			during: func(c *cluster) {
				image := c.image("app").DeepCopy()
				image.Spec.From, image.Generation = "new.example/app:latest", 5
				if err := c.store(image); err != nil {
					c.Error(err)
				}
			}},
		{name: "failure after a later import succeeded", err: errors.New("down"), want: imported,
			during: func(c *cluster) {
				image := c.image("app").DeepCopy()
				c.clock.Step(time.Second)
				image.Status.HashReferences[0].ResolvedAt = metav1.NewMicroTime(c.clock.Now())
				if err := c.store(image); err != nil {
					c.Error(err)
				}
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.source.move("other.example/app:latest", digestB)
			c.put(image)
			c.put(newImport("first", image, false))
			c.run()
			c.finished("first")
			c.barrier()
			if got := condition(c.image("app").Status.Conditions); (said{got.Status, got.Reason, got.ObservedGeneration}) != imported {
				t.Fatalf("the Image says %+v after the first import", got)
			}
			changed := c.image("app").DeepCopy()
			changed.Generation = 4
			c.put(changed)
			c.clock.Step(time.Minute)
			c.source.onResolve(func(_ context.Context, src importer.Source) error {
				if src.Reference.String() == barrierFrom {
					return nil
				}
				if tc.during != nil {
					c.mu.Lock()
					defer c.mu.Unlock()
					tc.during(c)
				}
				return tc.err
			})
			second := newImport("second", image, false)
			if tc.change != nil {
				tc.change(second)
			}
			c.put(second)
			c.until("the second import does not end", func() bool { return len(c.imp("second").Status.ImportAttempts) > 0 })
			c.barrier()
			got := condition(c.image("app").Status.Conditions)
			if diff := cmp.Diff(tc.want, said{got.Status, got.Reason, got.ObservedGeneration}); diff != "" {
				t.Errorf("the Image says (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRecordedImportsArePruned finds memories of earlier imports that no ImageImport stands for.
func TestRecordedImportsArePruned(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	for uid, age := range map[types.UID]time.Duration{"old": time.Hour + time.Second, "young": time.Hour - time.Second} {
		image.Status.RecordedImports = append(image.Status.RecordedImports,
			v1beta1.HashReference{ImportUID: uid, ImageReference: at("x", digestB), ImportedAt: metav1.NewTime(start.Add(-age))})
	}
	done := newImport("done", image, false)
	done.Status.CompletionTime = ptr.To(metav1.NewTime(start))
	image.Status.RecordedImports = append(image.Status.RecordedImports,
		v1beta1.HashReference{ImportUID: done.UID, ImageReference: at("x", digestB), ImportedAt: metav1.NewTime(start)})
	c.put(image)
	c.put(done)
	c.put(newImport("one", image, false))
	c.run()
	c.finished("one")
	if diff := cmp.Diff([]types.UID{"young"}, uidsOf(c.image("app").Status.RecordedImports)); diff != "" {
		t.Errorf("remembered imports (-want +got):\n%s", diff)
	}
}

func uidsOf(refs []v1beta1.HashReference) []types.UID {
	var uids []types.UID
	for _, ref := range refs {
		uids = append(uids, ref.ImportUID)
	}
	return uids
}

// TestReferrers looks for what refers to a mirrored image when that is new, once a day, and again where that failed.
func TestReferrers(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Spec.Mirror = true
	c.put(image)
	var err error
	signature := digest.FromString("signature")
	c.source.referring = func(ctx context.Context, res *importer.Resolved, _ importer.Destination) (*importer.Referrers, error) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 30*time.Second || c.mirror.tagged()[anchor(res.Digest)] == "" {
			t.Errorf("looked for until %s, with the tags %v; want half of the attempt's time, and the image committed", deadline, c.mirror.tagged())
		}
		return &importer.Referrers{Tags: map[string]digest.Digest{"sha256-x.sig": signature}}, err
	}
	c.run()
	at := start
	for i, step := range []struct {
		name    string
		after   time.Duration
		digest  digest.Digest
		err     error
		looked  int // in all
		checked bool
		reason  string
	}{
		{name: "new", digest: digestA, looked: 1, checked: true, reason: "Imported"},
		{name: "within a day", after: 23 * time.Hour, digest: digestA, looked: 1, checked: true, reason: "Unchanged"},
		{name: "after a day", after: time.Hour, digest: digestA, looked: 2, checked: true, reason: "Unchanged"},
		{name: "a new digest, whose referrers fail", after: time.Minute, digest: digestB, err: errors.New("down"), looked: 3, reason: "Imported"},
		{name: "again where they failed", after: time.Minute, digest: digestB, looked: 4, checked: true, reason: "Unchanged"},
	} {
		at = at.Add(step.after)
		c.clock.SetTime(at)
		c.source.move(appFrom, step.digest)
		c.mu.Lock()
		err = step.err
		c.mu.Unlock()
		imp := newImport("import-"+strconv.Itoa(i), image, true)
		c.put(imp)
		got := c.finished(imp.Name)
		ref := got.Status.HashReference
		if looked := len(c.source.referred); looked != step.looked || (ref.ReferrersCheckedAt != nil) != step.checked {
			t.Errorf("%s: looked %d times, checked at %v; want %d, checked: %t", step.name, looked, ref.ReferrersCheckedAt, step.looked, step.checked)
		}
		said := condition(got.Status.Conditions)
		if said.Reason != step.reason || strings.Contains(said.Message, "signatures and SBOMs could not be copied: down") != (step.err != nil) {
			t.Errorf("%s: the import says %s: %s", step.name, said.Reason, said.Message)
		}
	}
	if diff := cmp.Diff(map[string]digest.Digest{
		anchor(digestA): digestA, anchor(digestB): digestB, "latest": digestB, "sha256-x.sig": signature,
	}, c.mirror.tagged()); diff != "" {
		t.Errorf("tags at the mirror (-want +got):\n%s", diff)
	}
}
