// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	taggerv1beta1 "tagger.dev/tagger/pkg/generated/clientset/versioned/typed/tagger/v1beta1"
)

const (
	// patience is how long a server may be out of reach before following an import is given up.
	patience = 5 * time.Minute
	// refusals is how often in a row access must be refused until that is believed: what logs the user in renews a token only
	// after a first refusal.
	refusals = 2
)

// reconnect are the pauses between attempts to reach the server again.
var reconnect = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6, Cap: 5 * time.Second}

var (
	// errGone is why an import cannot be followed any longer that somebody deleted.
	errGone = errors.New("the ImageImport was deleted before it ended")
	// errWatchEnded is how any watch ends sooner or later.
	errWatchEnded = errors.New("the server ended the watch")
)

// follower follows one import by what the server says of it. It needs to be told each state, not each change: it begins anew
// from the current state whenever a watch ends, for whatever reason.
type follower struct {
	imports taggerv1beta1.ImageImportInterface
	display display
	clock   clock.Clock
	// imp is the import as it was seen last.
	imp *v1beta1.ImageImport
	// attempts is how many failed attempts were reported.
	attempts int
	// toldEnd: it was said how the import is ended.
	toldEnd bool
}

func newFollower(imports taggerv1beta1.ImageImportInterface, imp *v1beta1.ImageImport, display display, clock clock.Clock) *follower {
	return &follower{imports: imports, imp: imp, display: display, clock: clock}
}

// follow returns when the import is as until wants it, and reports what happens before. It fails when ctx ends, when the import
// is deleted, when access to it is refused, and when the server is out of reach for longer than the user's patience.
func (f *follower) follow(ctx context.Context, until func(*v1beta1.ImageImport) bool) error {
	if until(f.imp) {
		return nil
	}
	f.report()
	pauses, contact, refused, told := reconnect, f.clock.Now(), 0, false
	for {
		reached, err := f.observe(ctx, until)
		if err == nil {
			return nil
		}
		if reached {
			pauses, contact, refused, told = reconnect, f.clock.Now(), 0, false
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errGone):
			return err
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			if refused++; refused >= refusals {
				return err
			}
		case f.clock.Since(contact) > patience:
			return err
		case !reached && !told:
			message, _ := describe(err)
			f.display.say(fmt.Sprintf("lost the server: %s; trying to reach it again", message))
			told = true
		}
		timer := f.clock.NewTimer(pauses.Step())
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C():
		}
	}
}

// observe reports the import's current state and those that follow, until there is one that until wants, then it returns nil.
// It returns an error when the watch ends before, and whether the server had answered as it should.
func (f *follower) observe(ctx context.Context, until func(*v1beta1.ImageImport) bool) (reached bool, err error) {
	current, err := f.imports.Get(ctx, f.imp.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && !servesNoAPI(err), err == nil && current.UID != f.imp.UID:
		return true, errGone
	case err != nil:
		return false, err
	}
	if f.imp = current; until(current) {
		return true, nil
	}
	f.report()
	changes, err := f.imports.Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, current.Name).String(),
		ResourceVersion: current.ResourceVersion,
	})
	if err != nil {
		return false, err
	}
	defer changes.Stop()
	for event := range changes.ResultChan() {
		changed, ok := event.Object.(*v1beta1.ImageImport)
		switch {
		case event.Type == watch.Error:
			return true, apierrors.FromObject(event.Object)
		case !ok:
			continue
		}
		// The last state of an import that was deleted may be the one that is waited for.
		if f.imp = changed; until(changed) {
			return true, nil
		}
		if event.Type == watch.Deleted {
			return true, errGone
		}
		f.report()
	}
	return true, errWatchEnded
}

// report shows how the import goes, and says what happened since the last time; at the first failure also how to end what may take
// a quarter of an hour.
func (f *follower) report() {
	f.display.show(f.imp)
	f.reportAttempts()
	if f.attempts > 0 && !f.toldEnd {
		f.display.say("Ctrl-C ends the waiting and not the import; what ends that is: " + end(f.imp))
		f.toldEnd = true
	}
}

// reportAttempts says which attempts failed since the last time.
func (f *follower) reportAttempts() {
	status := &f.imp.Status
	for n := f.attempts + 1; n <= len(status.ImportAttempts); n++ {
		attempt := &status.ImportAttempts[n-1]
		if attempt.Succeed {
			continue
		}
		line := fmt.Sprintf("attempt %d of %d failed: %s", n, tagger.MaxImportAttempts, attempt.Reason)
		if next := status.NextAttemptTime; next != nil && n == len(status.ImportAttempts) {
			line += fmt.Sprintf(" (%s); the next one begins in %s",
				imported(f.imp).Reason, duration.HumanDuration(max(0, next.Sub(f.clock.Now()))))
		} else if !ended(f.imp) { // this was missed, and what is known is of a later one
			line += "; the next one has begun"
		}
		f.display.say(line)
	}
	f.attempts = max(f.attempts, len(status.ImportAttempts))
}
