// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// withHistory gives an Image two entries that no failure may touch.
func withHistory(image *v1beta1.Image) *v1beta1.Image {
	image.Status.HashReferences = []v1beta1.HashReference{
		{From: appFrom, ImageReference: at("example.com/app", digestB), ImportedAt: metav1.NewTime(start), ResolvedAt: metav1.NewMicroTime(start)},
		{From: appFrom, ImageReference: at("example.com/app", digestA), ImportedAt: metav1.NewTime(start), ResolvedAt: metav1.NewMicroTime(start)},
	}
	return image
}

// fails has every resolve fail.
func (s *source) fails(err error) {
	s.onResolve(func(context.Context, importer.Source) error { return err })
}

// attempted waits until an import has had that many attempts.
func (c *cluster) attempted(name string, attempts int) *v1beta1.ImageImport {
	c.Helper()
	c.until(fmt.Sprintf("%s does not come to %d attempts", name, attempts),
		func() bool { return len(c.imp(name).Status.ImportAttempts) >= attempts })
	return c.imp(name)
}

func TestFailedAttempt(t *testing.T) {
	t.Parallel()
	typed := func(kind importer.Kind) error {
		return &importer.Error{Kind: kind, Reference: appFrom, Err: errors.New("went wrong")}
	}
	for _, tc := range []struct {
		name     string
		err      error
		want     string
		terminal bool
	}{
		{name: "not found", err: typed(importer.NotFound), want: "NotFound"},
		{name: "unauthorized", err: typed(importer.Unauthorized), want: "Unauthorized"},
		{name: "rate limited", err: typed(importer.RateLimited), want: "RateLimited"},
		{name: "unavailable", err: typed(importer.Unavailable), want: "Unavailable"},
		{name: "timeout", err: typed(importer.Timeout), want: "Timeout"},
		{name: "TLS", err: typed(importer.TLS), want: "TLS"},
		{name: "blocked", err: typed(importer.Blocked), want: "Blocked", terminal: true},
		{name: "invalid", err: typed(importer.Invalid), want: "Invalid", terminal: true},
		{name: "unsupported manifest", err: typed(importer.UnsupportedManifest), want: "UnsupportedManifest", terminal: true},
		{name: "mirror unavailable", err: typed(importer.MirrorUnavailable), want: "MirrorUnavailable"},
		{name: "mirror unauthorized", err: typed(importer.MirrorUnauthorized), want: "MirrorUnauthorized"},
		{name: "digest mismatch", err: typed(importer.DigestMismatch), want: "DigestMismatch"},
		{name: "wrapped", err: fmt.Errorf("wrapped: %w", typed(importer.Blocked)), want: "Blocked", terminal: true},
		{name: "of no kind", err: errors.New("went wrong"), want: "Unavailable"},
		{name: "a deadline", err: context.DeadlineExceeded, want: "Timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := withHistory(newImage("app", "uid-app"))
			c.put(image)
			c.put(newImport("one", image, false))
			c.source.fails(tc.err)
			c.run()
			c.attempted("one", 1)
			c.barrier()

			now := metav1.NewTime(start)
			status := c.imp("one").Status
			if diff := cmp.Diff([]v1beta1.ImportAttempt{{When: now, Reason: tc.err.Error()}}, status.ImportAttempts); diff != "" {
				t.Errorf("attempts (-want +got):\n%s", diff)
			}
			want := metav1.Condition{Type: "Imported", Status: metav1.ConditionFalse, Reason: tc.want, ObservedGeneration: 1,
				LastTransitionTime: now, Message: tc.err.Error()}
			ofImage := want
			ofImage.ObservedGeneration = 3
			if tc.terminal {
				if !now.Equal(status.CompletionTime) || status.NextAttemptTime != nil {
					t.Errorf("completed %v, next attempt %v; want it completed now", status.CompletionTime, status.NextAttemptTime)
				}
			} else {
				want.Status, want.Message = metav1.ConditionUnknown, "attempt 1 of 10 failed: "+tc.err.Error()
				if status.CompletionTime != nil || status.NextAttemptTime == nil ||
					status.NextAttemptTime.Sub(start) < firstPause || status.NextAttemptTime.Sub(start) > 2*firstPause {
					t.Errorf("completed %v, next attempt %v; want another attempt after about %s", status.CompletionTime, status.NextAttemptTime, firstPause)
				}
			}
			if diff := cmp.Diff(want, condition(status.Conditions)); diff != "" {
				t.Errorf("condition of the import (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(ofImage, condition(c.image("app").Status.Conditions)); diff != "" {
				t.Errorf("condition of the Image (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(throughJSON(image.Status.HashReferences), c.image("app").Status.HashReferences); diff != "" {
				t.Errorf("the history was touched (-before +after):\n%s", diff)
			}
			if got := len(c.source.times(appFrom)); got != 1 {
				t.Errorf("resolved %d times while no time went by, want once", got)
			}
		})
	}
}

// TestFailureBesideTheSource fails at what an attempt needs beside its source.
func TestFailureBesideTheSource(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, tc := range []struct {
		name     string
		from     string
		break_   func(c *cluster)
		want     string
		resolves int
	}{
		{name: "a malformed reference", from: "example.com/UPPER:latest", break_: func(*cluster) {}, want: "Invalid"},
		{name: "no mirror", from: appFrom, break_: func(c *cluster) { c.mirror.err = broken }, want: "MirrorUnavailable", resolves: 1},
		{name: "the mirror cannot say what it has", from: appFrom, want: "MirrorUnavailable", resolves: 1,
			break_: func(c *cluster) { c.mirror.completing = func(context.Context) error { return broken } }},
		{name: "the mirror refuses the tag", from: appFrom, want: "MirrorUnavailable", resolves: 1,
			break_: func(c *cluster) { c.mirror.committing = func(string) error { return broken } }},
		{name: "the copy fails", from: appFrom, want: "DigestMismatch", resolves: 1, break_: func(c *cluster) {
			c.source.mirroring = func(context.Context, *importer.Resolved, func(importer.Progress)) error {
				return &importer.Error{Kind: importer.DigestMismatch, Err: broken}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := withHistory(newImage("app", "uid-app"))
			image.Spec.From = tc.from
			c.put(image)
			c.put(newImport("one", image, true))
			tc.break_(c)
			c.run()
			status := c.attempted("one", 1).Status
			if got := condition(status.Conditions).Reason; got != tc.want {
				t.Errorf("reason %s, want %s", got, tc.want)
			}
			if got := len(c.source.times(appFrom)); got != tc.resolves {
				t.Errorf("resolved %d times, want %d", got, tc.resolves)
			}
			if diff := cmp.Diff(throughJSON(image.Status.HashReferences), c.image("app").Status.HashReferences); diff != "" {
				t.Errorf("the history was touched (-before +after):\n%s", diff)
			}
		})
	}
}

func TestTenAttempts(t *testing.T) {
	c := newCluster(t)
	image := withHistory(newImage("app", "uid-app"))
	c.put(image)
	c.put(newImport("one", image, false))
	attempt := 0
	c.source.onResolve(func(context.Context, importer.Source) error {
		attempt++
		return &importer.Error{Kind: importer.Unavailable, Err: fmt.Errorf("failure %d", attempt)}
	})
	c.run()
	c.advance(time.Second, "the import does not end", func() bool { return c.imp("one").Status.CompletionTime != nil })
	c.advance(time.Minute, "an hour does not go by", func() bool { return c.clock.Since(start) > time.Hour/2 })
	c.barrier()

	status := c.imp("one").Status
	var reasons, want []string
	for i, attempt := range status.ImportAttempts {
		if attempt.Succeed {
			t.Errorf("attempt %d succeeded", i+1)
		}
		reasons = append(reasons, attempt.Reason)
	}
	for i := range 10 {
		want = append(want, fmt.Sprintf("failure %d", i+1))
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if got := condition(status.Conditions); got.Status != metav1.ConditionFalse || got.Reason != "Unavailable" || got.Message != "failure 10" {
		t.Errorf("condition %s/%s %q, want False/Unavailable and the last failure", got.Status, got.Reason, got.Message)
	}
	if status.NextAttemptTime != nil {
		t.Errorf("another attempt at %s", status.NextAttemptTime)
	}
	if diff := cmp.Diff(throughJSON(image.Status.HashReferences), c.image("app").Status.HashReferences); diff != "" {
		t.Errorf("the history was touched (-before +after):\n%s", diff)
	}
	// No attempt began before the status said, and each waited longer than the one before it, up to the bound.
	resolved := c.source.times(appFrom)
	if len(resolved) != 10 {
		t.Fatalf("resolved %d times, want 10", len(resolved))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	attempts := 0
	for _, written := range c.imports {
		next := written.Status.NextAttemptTime
		if written.Name != "one" || next == nil || len(written.Status.ImportAttempts) == attempts {
			continue
		}
		attempts = len(written.Status.ImportAttempts)
		waits := next.Sub(written.Status.ImportAttempts[attempts-1].When.Time)
		least := min(firstPause<<(attempts-1), maxPause)
		if most := time.Duration(float64(least)*(1+jitter)) + 2*time.Second; waits < least || waits > most {
			t.Errorf("pause %d is %s, want from %s to %s", attempts, waits, least, most)
		}
		if resolved[attempts].Before(next.Time) {
			t.Errorf("attempt %d began at %s, %s too early", attempts+1, resolved[attempts], next.Sub(resolved[attempts]))
		}
	}
	if attempts != 9 {
		t.Errorf("%d pauses were announced, want 9", attempts)
	}
}

// TestPauseIsObeyed looks at a pause that the upstream asked for, with the same server and after a restart.
func TestPauseIsObeyed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		restart bool
	}{{name: "by the same server"}, {name: "after a restart", restart: true}} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			image := newImage("app", "uid-app")
			c.put(image)
			c.put(newImport("one", image, false))
			c.source.fails(&importer.Error{Kind: importer.RateLimited, RetryAfter: 90 * time.Second, Err: errors.New("slow down")})
			running := c.run()
			next := c.attempted("one", 1).Status.NextAttemptTime
			if !next.Equal(ptr.To(metav1.NewTime(start.Add(90 * time.Second)))) {
				t.Fatalf("next attempt %s, want it after the 90 s that were asked for", next)
			}
			c.barrier() // and the write to the Image is over
			c.source.onResolve(nil)
			if tc.restart {
				c.stop(running)
				c.run()
			}
			c.barrier()
			c.clock.SetTime(start.Add(89 * time.Second))
			c.barrier()
			if got := len(c.source.times(appFrom)); got != 1 {
				t.Fatalf("resolved %d times before the pause was over, want once", got)
			}
			c.advance(time.Second, "the import does not end", func() bool { return c.imp("one").Status.CompletionTime != nil })
			status := c.imp("one").Status
			if got := condition(status.Conditions); got.Status != metav1.ConditionTrue || len(status.ImportAttempts) != 2 {
				t.Errorf("ended %s after %d attempts, want True after 2", got.Status, len(status.ImportAttempts))
			}
			if again := c.source.times(appFrom)[1]; again.Before(next.Time) {
				t.Errorf("tried again at %s, before %s", again, next)
			}
		})
	}
}

// TestAttemptTimeout has an attempt wait for what never comes.
func TestAttemptTimeout(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, true))
	c.source.mirroring = func(ctx context.Context, _ *importer.Resolved, _ func(importer.Progress)) error {
		<-ctx.Done()
		return ctx.Err()
	}
	c.run(func(config *Config) { config.AttemptTimeout = time.Millisecond })
	status := c.attempted("one", 1).Status
	if got := condition(status.Conditions); got.Status != metav1.ConditionUnknown || got.Reason != "Timeout" {
		t.Errorf("condition %s/%s, want Unknown/Timeout", got.Status, got.Reason)
	}
	if status.NextAttemptTime == nil {
		t.Error("no other attempt follows")
	}
}

func TestLongMessages(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, false))
	c.source.fails(errors.New(strings.Repeat("ä", maxMessage)))
	c.run()
	status := c.attempted("one", 1).Status
	c.until("the Image says nothing", func() bool { return condition(c.image("app").Status.Conditions).Reason != "" })
	for where, message := range map[string]string{
		"attempt":   status.ImportAttempts[0].Reason,
		"condition": condition(status.Conditions).Message,
		"Image":     condition(c.image("app").Status.Conditions).Message,
	} {
		if len(message) > maxMessage || len(message) < maxMessage-4 || !utf8.ValidString(message) || strings.ContainsRune(message, utf8.RuneError) ||
			strings.Index(message, "…") != len(message)-len("…") {
			t.Errorf("%s: %d bytes, valid %t: %q", where, len(message), utf8.ValidString(message), message[len(message)-20:])
		}
	}
}

// TestSuperseded: an import that waits for another attempt does not undo one that was asked for later and succeeded.
func TestSuperseded(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.source.onResolve(func(_ context.Context, src importer.Source) error {
		if src.Reference.Tag() == "typo" {
			return &importer.Error{Kind: importer.NotFound, Err: errors.New("no such tag")}
		}
		return nil
	})
	typo := newImport("typo", image, false)
	typo.Spec.From = "example.com/app:typo"
	c.put(typo)
	c.run()
	c.until("the first attempt does not fail", func() bool { return len(c.imp("typo").Status.ImportAttempts) == 1 })
	c.clock.SetTime(start.Add(time.Second))
	c.put(newImport("right", image, false))
	c.finished("right")
	c.source.move("example.com/app:typo", digestB)
	c.source.onResolve(nil)
	c.advance(time.Second, "the import is not looked at again", func() bool { return c.imp("typo").Status.CompletionTime != nil })
	got := condition(c.imp("typo").Status.Conditions)
	if got.Status != metav1.ConditionFalse || got.Reason != v1beta1.ReasonSuperseded || len(c.imp("typo").Status.ImportAttempts) != 2 {
		t.Errorf("ended %s/%s after %d attempts, want False/Superseded at the second", got.Status, got.Reason, len(c.imp("typo").Status.ImportAttempts))
	}
	if said := condition(c.image("app").Status.Conditions); said.Status != metav1.ConditionTrue || len(c.image("app").Status.HashReferences) != 1 {
		t.Errorf("the Image says %s/%s, with %d entries", said.Status, said.Reason, len(c.image("app").Status.HashReferences))
	}
}

// TestUnrecordable: an outcome that the Image cannot take is a failed attempt, and the import says so.
func TestUnrecordable(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.put(newImport("one", image, false))
	c.beforeWrite(func(resource string, obj metav1.Object) error {
		if resource == "images" && obj.GetName() == "app" {
			return apierrors.NewRequestEntityTooLargeError("SECRET")
		}
		return nil
	})
	c.run()
	c.until("no attempt is recorded", func() bool { return len(c.imp("one").Status.ImportAttempts) > 0 })
	got := condition(c.imp("one").Status.Conditions)
	if got.Reason != v1beta1.ReasonUnavailable || !strings.Contains(got.Message, "could not be recorded") || strings.Contains(got.Message, "SECRET") {
		t.Errorf("the import says %s: %s", got.Reason, got.Message)
	}
}

// TestNotSuperseded: an import that failed is tried again also after a later one from the same source succeeded: it undoes nothing.
func TestNotSuperseded(t *testing.T) {
	c := newCluster(t)
	image := newImage("app", "uid-app")
	c.put(image)
	c.source.fails(errors.New("down"))
	c.run()
	c.put(newImport("first", image, false))
	c.attempted("first", 1)
	c.source.onResolve(nil)
	c.clock.Step(time.Second)
	c.put(newImport("second", image, false))
	c.finished("second")
	c.advance(time.Second, "the import is not tried again", func() bool { return c.imp("first").Status.CompletionTime != nil })
	if got := condition(c.imp("first").Status.Conditions); got.Status != metav1.ConditionTrue {
		t.Errorf("ended %s: %s", got.Reason, got.Message)
	}
}
