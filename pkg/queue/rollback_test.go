// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

const sourceRepo, mirrorRepo = "example.com/app", "mirror.example/ns/app"

// generationOf is an entry of a history, as of so many seconds after the start.
func generationOf(repository string, dgst digest.Digest, seconds int) v1beta1.HashReference {
	when := start.Add(time.Duration(seconds) * time.Second)
	return v1beta1.HashReference{
		From: appFrom, ImageReference: at(repository, dgst), SourceReference: at(sourceRepo, dgst),
		ImportedAt: metav1.NewTime(when), ResolvedAt: metav1.NewMicroTime(when), ImportUID: types.UID("uid-" + dgst.Encoded()[:4]),
		MediaType: mediaType, Size: mirroredSize, Platforms: mirroredPlatforms,
	}
}

// TestCheckPull looks for an entry that was mirrored, or was not, where the content is there, or is not.
func TestCheckPull(t *testing.T) {
	t.Parallel()
	refused := &importer.Error{Kind: importer.NotFound, Err: errors.New("no such manifest")}
	tests := []struct {
		name    string
		entry   v1beta1.HashReference
		prepare func(*cluster)
		want    string // imageReference
		kind    importer.Kind
		text    string
		sources int // how often the source was asked
		tags    map[string]digest.Digest
	}{
		{
			name: "at the mirror", entry: generationOf(mirrorRepo, digestA, 0),
			prepare: func(c *cluster) { c.mirror.content[digestA] = true },
			want:    at(mirrorRepo, digestA), tags: map[string]digest.Digest{anchor(digestA): digestA},
		},
		{
			name: "gone at the mirror", entry: generationOf(mirrorRepo, digestA, 0), prepare: func(*cluster) {},
			kind: importer.NotFound,
			text: at(mirrorRepo, digestA) + ": the mirror does not have all of its content any more; import it again from " + at(sourceRepo, digestA),
		},
		{
			name:    "pushed, and gone at the mirror",
			entry:   v1beta1.HashReference{ImageReference: at(mirrorRepo, digestA), SourceReference: at(mirrorRepo, digestA)},
			prepare: func(*cluster) {},
			kind:    importer.NotFound,
			text:    at(mirrorRepo, digestA) + ": the mirror does not have all of its content any more; push it again",
		},
		{
			name: "the mirror has moved and has it", entry: generationOf("old.example/ns/app", digestA, 0),
			prepare: func(c *cluster) { c.mirror.content[digestA] = true },
			want:    at(mirrorRepo, digestA), tags: map[string]digest.Digest{anchor(digestA): digestA},
		},
		{
			name:    "it was pushed when the mirror had another host",
			entry:   v1beta1.HashReference{ImageReference: at("old.example/ns/app", digestA), SourceReference: at("old.example/ns/app", digestA)},
			prepare: func(c *cluster) { c.mirror.content[digestA] = true },
			want:    at(mirrorRepo, digestA), tags: map[string]digest.Digest{anchor(digestA): digestA},
		},
		{
			name:    "at a source that has it by the same name",
			entry:   v1beta1.HashReference{ImageReference: at("old.example/ns/app", digestA), SourceReference: at("old.example/ns/app", digestA)},
			prepare: func(*cluster) {},
			want:    at("old.example/ns/app", digestA), sources: 1,
		},
		{
			name:  "the same, and the mirror fails",
			entry: v1beta1.HashReference{ImageReference: at("old.example/ns/app", digestA), SourceReference: at("old.example/ns/app", digestA)},
			prepare: func(c *cluster) {
				c.mirror.completing = func(context.Context) error { return errors.New("disk on fire") }
			},
			want: at("old.example/ns/app", digestA), sources: 1,
		},
		{
			name: "the mirror fails", entry: generationOf(mirrorRepo, digestA, 0),
			prepare: func(c *cluster) {
				c.mirror.completing = func(context.Context) error { return errors.New("disk on fire") }
			},
			kind: importer.MirrorUnavailable, text: "the mirror failed; the log of the server says why",
		},
		{
			name: "the mirror takes too long", entry: generationOf(mirrorRepo, digestA, 0),
			prepare: func(c *cluster) {
				c.mirror.completing = func(context.Context) error { return context.DeadlineExceeded }
			},
			kind: importer.Timeout, text: "the mirror did not answer in time",
		},
		{
			name: "the mirror is not known", entry: generationOf(mirrorRepo, digestA, 0),
			prepare: func(c *cluster) { c.mirror.err = errors.New("no Secret") },
			kind:    importer.MirrorUnavailable, text: "the mirror failed; the log of the server says why",
		},
		{
			name: "at the source", entry: generationOf(sourceRepo, digestA, 0), prepare: func(*cluster) {},
			want: at(sourceRepo, digestA), sources: 1,
		},
		{
			name: "at the source, the mirror is not known", entry: generationOf(sourceRepo, digestA, 0),
			prepare: func(c *cluster) { c.mirror.err = errors.New("no Secret") },
			want:    at(sourceRepo, digestA), sources: 1,
		},
		{
			name: "gone at the source", entry: generationOf(sourceRepo, digestA, 0),
			prepare: func(c *cluster) {
				c.source.onResolve(func(context.Context, importer.Source) error { return refused })
			},
			kind: importer.NotFound, text: "no such manifest", sources: 1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Spec.Insecure = true
			tt.prepare(c)
			got, err := c.idle().CheckPull(t.Context(), image, tt.entry)
			if kind := importer.KindOf(err); kind != tt.kind || err != nil && err.Error() != tt.text {
				t.Fatalf("%s: %v; want %s: %s", kind, err, tt.kind, tt.text)
			}
			want := tt.entry
			want.ImageReference = tt.want
			if err == nil {
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("entry (-want +got):\n%s", diff)
				}
			}
			if tt.tags == nil {
				tt.tags = map[string]digest.Digest{}
			}
			if diff := cmp.Diff(tt.tags, c.mirror.tagged()); diff != "" {
				t.Errorf("tags at the mirror (-want +got):\n%s", diff)
			}
			if len(c.source.sources) != tt.sources {
				t.Fatalf("the source was asked %d times, want %d", len(c.source.sources), tt.sources)
			}
			for i, src := range c.source.sources {
				if src.Reference.Digest() != digestA || !src.Insecure || src.Scope != namespace || c.source.known[i] != "" {
					t.Errorf("resolved %+v, knowing %q", src, c.source.known[i])
				}
			}
		})
	}
}

// TestRecordRollback rolls back to an entry that is no longer in front, ten seconds after the start.
func TestRecordRollback(t *testing.T) {
	t.Parallel()
	digestC := digest.FromString("c")
	back := generationOf(mirrorRepo, digestA, 0)
	history := []v1beta1.HashReference{generationOf(mirrorRepo, digestB, 5), back}
	tests := []struct {
		name   string
		limit  *int32
		before []v1beta1.HashReference
		// meanwhile runs before the n-th attempt to write the status is stored.
		meanwhile func(c *cluster, n int) error
		want      []generation
	}{
		{
			name: "in front", before: history,
			want: []generation{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(mirrorRepo, digestB), At: 5}, {Image: at(mirrorRepo, digestA)}},
		},
		{
			name: "the history is trimmed", before: history, limit: ptr.To[int32](2),
			want: []generation{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(mirrorRepo, digestB), At: 5}},
		},
		{
			name: "the clock of another server is ahead", before: []v1beta1.HashReference{generationOf(mirrorRepo, digestB, 20), back},
			want: []generation{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(mirrorRepo, digestB), At: 10}, {Image: at(mirrorRepo, digestA)}},
		},
		{
			name: "an import was recorded meanwhile", before: history,
			meanwhile: func(c *cluster, n int) error {
				if n == 1 {
					image := c.image("app")
					image.Status.HashReferences = addToHistory(image.Status.HashReferences, generationOf(mirrorRepo, digestC, 10), 25)
					return c.store(image)
				}
				return nil
			},
			want: []generation{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(mirrorRepo, digestC), At: 10},
				{Image: at(mirrorRepo, digestB), At: 5}, {Image: at(mirrorRepo, digestA)}},
		},
		{
			name: "another rollback to the same was recorded meanwhile", before: history,
			meanwhile: func(c *cluster, n int) error {
				if n == 1 {
					image := c.image("app")
					image.Status.HashReferences = addToHistory(image.Status.HashReferences, generationOf(mirrorRepo, digestA, 9), 25)
					return c.store(image)
				}
				return nil
			},
			want: []generation{{Image: at(mirrorRepo, digestA), At: 10}, {Image: at(mirrorRepo, digestB), At: 5}, {Image: at(mirrorRepo, digestA)}},
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
			c.beforeWrite(func(string, metav1.Object) error {
				writes++
				if tt.meanwhile == nil {
					return nil
				}
				return tt.meanwhile(c, writes)
			})
			r := c.idle()
			c.clock.SetTime(start.Add(10 * time.Second))
			got, _, err := r.RecordRollback(t.Context(), image, back)
			if err != nil {
				t.Fatal(err)
			}
			stored := c.image("app")
			if len(stored.Status.HashReferences) == 0 {
				t.Fatal("the history is gone")
			}
			if diff := cmp.Diff(stored.Status.HashReferences[0], throughJSON(got)); diff != "" {
				t.Errorf("what is answered is not in front (-front +answer):\n%s", diff)
			}
			if !got.RolledBack {
				t.Error("the entry does not say that it was rolled back to")
			}
			if got.ImportUID == "" || got.ImportUID == back.ImportUID {
				t.Errorf("the UID %q is none of its own", got.ImportUID)
			}
			if diff := cmp.Diff(back, got, ignoringTimes); diff != "" {
				t.Errorf("more than when it was recorded differs (-entry +recorded):\n%s", diff)
			}
			short := generations(stored.Status.HashReferences)
			for i := range short {
				if short[i].Size != mirroredSize {
					t.Errorf("the size of entry %d is %d", i, short[i].Size)
				}
				short[i].Import, short[i].Size, short[i].Platforms = "", 0, nil
			}
			if diff := cmp.Diff(tt.want, short); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			for i := 1; i < len(stored.Status.HashReferences); i++ {
				if stored.Status.HashReferences[i-1].ResolvedAt.Before(&stored.Status.HashReferences[i].ResolvedAt) {
					t.Errorf("entry %d is older than the one behind it", i)
				}
			}
			want := metav1.Condition{Type: "Imported", Status: metav1.ConditionTrue, Reason: "RolledBack", ObservedGeneration: 3,
				LastTransitionTime: metav1.NewTime(start.Add(10 * time.Second)), Message: "rolled back to " + string(digestA) + " of " + appFrom}
			if diff := cmp.Diff(want, condition(stored.Status.Conditions)); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]digest.Digest{"latest": digestA}, c.mirror.tagged()); diff != "" {
				t.Errorf("tags at the mirror (-want +got):\n%s", diff)
			}
		})
	}
}

// ignoringTimes leaves out when an entry was recorded, and its UID.
var ignoringTimes = cmp.FilterPath(func(p cmp.Path) bool {
	switch p.String() {
	case "ImportedAt", "ResolvedAt", "ImportUID", "RolledBack":
		return true
	default:
		return false
	}
}, cmp.Ignore())

// TestRecordRollbackWhoseAnswerIsLost records it once.
func TestRecordRollbackWhoseAnswerIsLost(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(mirrorRepo, digestB, 5), generationOf(mirrorRepo, digestA, 0)}
	c.put(image)
	writes := 0
	c.beforeWrite(func(_ string, obj metav1.Object) error {
		if writes++; writes > 1 {
			return nil
		}
		// The write is done, and an import is recorded after it.
		written := obj.(*v1beta1.Image).DeepCopy()
		written.Status.HashReferences = addToHistory(written.Status.HashReferences, generationOf(mirrorRepo, digestB, 20), 25)
		if err := c.store(written); err != nil {
			return err
		}
		return apierrors.NewTimeoutError("the answer is late", 0)
	})
	got, _, err := c.idle().RecordRollback(t.Context(), image, image.Status.HashReferences[1])
	if err != nil {
		t.Fatal(err)
	}
	history := c.image("app").Status.HashReferences
	if len(history) != 4 || history[1].ImportUID != got.ImportUID || writes != 1 {
		t.Errorf("%d writes, history %+v, want the rollback once, behind the import", writes, generations(history))
	}
}

// TestRecordRollbackOfWhatIsGone records nothing.
func TestRecordRollbackOfWhatIsGone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(*cluster)
	}{
		{"deleted", func(c *cluster) { c.remove("app") }},
		{"made again", func(c *cluster) { c.remove("app"); c.put(newImage("app", "uid-other")) }},
		{"being deleted", func(c *cluster) {
			image := c.image("app")
			image.DeletionTimestamp = ptr.To(metav1.NewTime(start))
			c.put(image)
		}},
		{"the current one, until an import was recorded", func(c *cluster) {
			image := c.image("app")
			image.Status.HashReferences = addToHistory(image.Status.HashReferences, generationOf(mirrorRepo, digestB, 5), 25)
			c.put(image)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Status.HashReferences = []v1beta1.HashReference{generationOf(mirrorRepo, digestA, 0)}
			c.put(image.DeepCopy())
			tt.do(c)
			_, _, err := c.idle().RecordRollback(t.Context(), image, generationOf(mirrorRepo, digestA, 0))
			if status := apierrors.APIStatus(nil); !errors.As(err, &status) || status.Status().Code != http.StatusConflict {
				t.Errorf("error %v, want a conflict", err)
			}
			if writes := c.writes(); len(writes) > 0 {
				t.Errorf("written: %v", writes)
			}
		})
	}
}

// TestImportOvertakenByRollback resolves before a rollback and is recorded after it: behind it.
func TestImportOvertakenByRollback(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, -10), generationOf(sourceRepo, digestA, -20)}
	c.put(image)
	gate := newGate()
	c.source.onResolve(func(ctx context.Context, _ importer.Source) error { return gate.pass(ctx) })
	digestC := digest.FromString("c")
	c.source.move(appFrom, digestC)
	r := c.run()
	c.put(newImport("slow", image, false))
	gate.wait(t)
	c.clock.Step(time.Second)
	if _, _, err := r.RecordRollback(t.Context(), image, image.Status.HashReferences[1]); err != nil {
		t.Fatal(err)
	}
	close(gate.opened)
	c.finished("slow")
	var got []string
	for _, ref := range c.image("app").Status.HashReferences {
		got = append(got, ref.ImageReference)
	}
	want := []string{at(sourceRepo, digestA), at(sourceRepo, digestC), at(sourceRepo, digestB), at(sourceRepo, digestA)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// TestRollbackOvertakesWhatWaits: an import that was asked for before a rollback and has not been tried, for whatever reason, does
// not undo it.
func TestRollbackOvertakesWhatWaits(t *testing.T) {
	t.Parallel()
	broken := &importer.Error{Kind: importer.UnsupportedManifest, Err: errors.New("no image")}
	for _, tt := range []struct {
		name string
		// hold has the next import wait, whether it does, and goOn lets it go on.
		hold func(*cluster) (waits func() bool, goOn func())
	}{
		{"put off by a pause", func(c *cluster) (func() bool, func()) {
			c.source.mu.Lock()
			defer c.source.mu.Unlock()
			c.source.paused["example.com"] = start.Add(time.Minute)
			return func() bool { return c.imp("waiting").Status.NextAttemptTime != nil },
				func() { c.clock.SetTime(start.Add(time.Minute + maxSpread)) }
		}},
		{"behind others", func(c *cluster) (func() bool, func()) {
			gate := newGate()
			c.source.onResolve(func(ctx context.Context, src importer.Source) error {
				if src.Reference.Host() != "example.com" {
					return broken
				}
				return gate.pass(ctx)
			})
			c.put(newImport("before", c.image("other"), false))
			gate.wait(t)
			return func() bool { return true }, func() { close(gate.opened) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, -10), generationOf(sourceRepo, digestA, -20)}
			c.put(image)
			c.put(newImage("other", "uid-other"))
			c.source.onResolve(func(_ context.Context, src importer.Source) error {
				if src.Reference.Host() != "example.com" {
					return broken
				}
				return nil
			})
			r := c.run(workers(2), func(config *Config) { config.PerHost = 1 })
			waits, goOn := tt.hold(c)
			c.put(newImport("waiting", image, false))
			c.until("it does not wait", waits)
			c.clock.Step(2 * time.Second)
			if _, _, err := r.RecordRollback(t.Context(), image, image.Status.HashReferences[1]); err != nil {
				t.Fatal(err)
			}
			later := newImport("later", image, false) // which fails, and has the Image say so
			later.Spec.From = "elsewhere.example/app:latest"
			c.put(later)
			c.finished("later")
			goOn()
			status := c.finished("waiting").Status
			want := "the Image was rolled back after this import was asked for; import again if it is still wanted"
			if got := condition(status.Conditions); got.Reason != v1beta1.ReasonSuperseded || got.Message != want {
				t.Errorf("it ended %s: %s", got.Reason, got.Message)
			}
			now := c.image("app")
			if front := now.Status.HashReferences[0].ImageReference; front != at(sourceRepo, digestA) {
				t.Errorf("the Image means %s, want what it was rolled back to", front)
			}
		})
	}
}

// slow asks when a gate opens, as one that waits for credentials or for an equal question.
type slow struct {
	*source
	gate *gate
}

func (s slow) Resolve(ctx context.Context, src importer.Source, known digest.Digest) (*importer.Resolved, error) {
	if err := s.gate.pass(ctx); err != nil {
		return nil, err
	}
	return s.source.Resolve(ctx, src, known)
}

// TestRollbackOvertakesWhatRuns: an import that was begun before a rollback, and asks after it, does not undo it.
func TestRollbackOvertakesWhatRuns(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, -10), generationOf(sourceRepo, digestA, -20)}
	c.put(image)
	c.source.move(appFrom, digestB)
	gate := newGate()
	r := c.run(func(config *Config) { config.Importer = slow{c.source, gate} })
	c.put(newImport("running", image, false))
	gate.wait(t)
	c.clock.Step(2 * time.Second)
	if _, _, err := r.RecordRollback(t.Context(), image, image.Status.HashReferences[1]); err != nil {
		t.Fatal(err)
	}
	c.clock.Step(time.Second)
	close(gate.opened)
	if got := condition(c.finished("running").Status.Conditions); got.Reason != v1beta1.ReasonSuperseded {
		t.Errorf("it ended %s: %s", got.Reason, got.Message)
	}
	if front := c.image("app").Status.HashReferences[0].ImageReference; front != at(sourceRepo, digestA) {
		t.Errorf("the Image means %s, want what it was rolled back to", front)
	}
}

// TestRollbackToWhatIsCurrent adds no entry, and what waits is not to undo it either.
func TestRollbackToWhatIsCurrent(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, -10), generationOf(sourceRepo, digestA, -20)}
	c.put(image)
	waiting := newImport("waiting", image, false)
	c.put(waiting)
	c.clock.Step(2 * time.Second)
	got, unchanged, err := c.idle().RecordRollback(t.Context(), image, image.Status.HashReferences[0])
	if err != nil {
		t.Fatal(err)
	}
	history := c.image("app").Status.HashReferences
	if !unchanged || len(history) != 2 || history[0].ImportUID != got.ImportUID || !history[0].RolledBack {
		t.Errorf("unchanged: %t, history %+v", unchanged, history)
	}
	c.run()
	if got := condition(c.finished("waiting").Status.Conditions); got.Reason != v1beta1.ReasonSuperseded {
		t.Errorf("what waited ended %s: %s", got.Reason, got.Message)
	}
}

// TestRollbackByAClockThatWasAhead: what was recorded by such a clock keeps no later import out.
func TestRollbackByAClockThatWasAhead(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	image.Status.HashReferences = []v1beta1.HashReference{generationOf(sourceRepo, digestB, 3600), generationOf(sourceRepo, digestA, -20)}
	c.put(image)
	r := c.run()
	if _, _, err := r.RecordRollback(t.Context(), image, image.Status.HashReferences[1]); err != nil {
		t.Fatal(err)
	}
	c.source.move(appFrom, digestB)
	c.clock.Step(time.Minute)
	later := newImport("later", image, false)
	c.put(later)
	if got := condition(c.finished("later").Status.Conditions); got.Status != metav1.ConditionTrue {
		t.Errorf("an import after it ended %s: %s", got.Reason, got.Message)
	}
	if front := c.image("app").Status.HashReferences[0].ImageReference; front != at(sourceRepo, digestB) {
		t.Errorf("the Image means %s, want what was imported last", front)
	}
}

// TestRecordRollbackWaitsNoLongerThanItMay: somebody else writes to the Image, and does not end.
func TestRecordRollbackWaitsNoLongerThanItMay(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	controller := c.idle()
	unlock, err := controller.lockImage(t.Context(), "ns", "app")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := controller.RecordRollback(ctx, image, generationOf(mirrorRepo, digestA, 0)); !apierrors.IsConflict(err) {
		t.Errorf("%v, want a conflict", err)
	}
	if writes := c.writes(); len(writes) > 0 {
		t.Errorf("written: %v", writes)
	}
}
