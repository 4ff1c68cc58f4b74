// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// progressInterval is how often a running attempt writes its progress, when there is any.
const progressInterval = 2 * time.Second

// run claims an import that is due, runs one attempt, in the context of that name, and records its outcome. It returns when the
// import needs to be looked at again.
func (c *Controller) run(ctx, attempt context.Context, cached *v1beta1.ImageImport) (time.Duration, error) {
	imp, err := c.claim(ctx, cached)
	if apierrors.IsConflict(err) { // somebody was faster, or the cache lags: the event of that write brings it here again
		return 0, nil
	}
	if err != nil {
		return 0, client(err)
	}
	after, err := c.runClaimed(ctx, attempt, imp, cached)
	switch {
	case errors.Is(err, errClaimLost):
		klog.FromContext(ctx).Info("Another server has taken over an import")
		return 0, nil
	case errors.Is(err, errUnwanted):
		err = c.delete(ctx, imp)
	}
	if err != nil {
		c.release(ctx, imp)
	}
	return after, err
}

// runClaimed is run of an import that is this process's, and was as before says. It fails with errClaimLost when another has
// it now.
func (c *Controller) runClaimed(ctx, attempt context.Context, imp, before *v1beta1.ImageImport) (time.Duration, error) {
	image, err := c.imageOf(ctx, imp)
	if errors.Is(err, errImageGone) {
		return 0, c.fail(ctx, imp, err)
	}
	if err != nil {
		return 0, err
	}
	if ref := recorded(&image.Status, imp.UID); ref != nil { // interrupted between the Image's write and this import's
		return 0, c.resume(ctx, imp, outcome{ref: *ref})
	}
	if !wanted(imp, image) {
		return 0, errUnwanted
	}
	if imp.Status.Claim.Transitions >= maxTakeovers {
		return 0, c.fail(ctx, imp, errTakenOver)
	}
	req := request{
		namespace: imp.Namespace, image: image.Name, importUID: imp.UID, from: imp.Spec.From,
		mirror: ptr.Deref(imp.Spec.Mirror, false), insecure: ptr.Deref(imp.Spec.Insecure, false),
	}
	if err := superseded(before, image, c.Clock.Now()); err != nil {
		return 0, c.fail(ctx, imp, err)
	}
	out, err := c.timedAttempt(attempt, imp, req, image.Status.HashReferences)
	switch cause := context.Cause(attempt); {
	case errors.Is(cause, errImportGone): // nobody wants it any more
		return 0, nil
	case errors.Is(cause, errClaimLost):
		return 0, errClaimLost
	case errors.Is(cause, errImageGone):
		return 0, c.fail(ctx, imp, cause)
	case err == nil:
		return 0, c.record(ctx, imp, before, out)
	case context.Cause(ctx) != nil: // stopping: this was no attempt
		return 0, err
	}
	if pause := paused(err); pause != nil {
		return c.putOff(ctx, imp, pause)
	}
	return 0, c.fail(ctx, imp, err)
}

// paused returns the failure of an attempt that asked nothing, since its host asked an earlier one for a pause; else nil.
func paused(err error) *importer.Error {
	var typed *importer.Error
	if errors.As(err, &typed) && typed.Paused {
		return typed
	}
	return nil
}

// putOff has an import wait for the end of a pause that its host asked another one for. That is no attempt.
func (c *Controller) putOff(ctx context.Context, imp *v1beta1.ImageImport, pause *importer.Error) (time.Duration, error) {
	next := nextAttempt(c.Clock.Now(), spread(pause.RetryAfter))
	_, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
		status.Claim, status.Progress, status.NextAttemptTime = nil, nil, &next
		if len(status.ImportAttempts) == 0 {
			status.StartTime = nil
		}
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionUnknown, string(importer.RateLimited),
			fmt.Sprintf("attempt %d of %d waits: %s", len(status.ImportAttempts)+1, maxAttempts, pause))
	})
	return next.Sub(c.Clock.Now()), client(err)
}

// nextAttempt returns when to try again, rounded up to what a status can say.
func nextAttempt(now time.Time, wait time.Duration) metav1.Time {
	return metav1.NewTime(now.Add(wait + time.Second - 1).Truncate(time.Second))
}

// timedAttempt runs an attempt within its deadline, measured, while its progress is written to the import's status.
func (c *Controller) timedAttempt(ctx context.Context, imp *v1beta1.ImageImport, req request,
	history []v1beta1.HashReference) (outcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.AttemptTimeout,
		&importer.Error{Kind: importer.Timeout, Err: fmt.Errorf("the attempt took longer than %s", c.AttemptTimeout)})
	defer cancel()
	attemptsInFlight.Inc()
	defer attemptsInFlight.Dec()
	began := c.Clock.Now()

	var latest atomic.Pointer[importer.Progress]
	reporting, stopReporting := context.WithCancel(ctx)
	ticker := c.Clock.NewTicker(progressInterval)
	defer ticker.Stop()
	var reporter sync.WaitGroup
	reporter.Go(func() { c.report(reporting, imp, &latest, ticker.C(), began) })
	out, err := c.attempt(ctx, req, history, func(p importer.Progress) { latest.Store(&p) })
	stopReporting()
	reporter.Wait()

	if p := latest.Load(); p != nil {
		mirroredBytes.Add(float64(p.Bytes))
	}
	name, reason := "imported", ""
	typed := (*importer.Error)(nil)
	if err != nil && errors.As(context.Cause(ctx), &typed) {
		err = typed // its own deadline, and not the source's fault
	}
	switch {
	case err != nil && ctx.Err() != nil && typed == nil, paused(err) != nil: // stopped, not wanted any more, or put off
		return out, err
	case err != nil:
		name, reason = "failed", string(importer.KindOf(err))
	case out.unchanged:
		name = "unchanged"
	}
	attemptsTotal.WithLabelValues(name, reason).Inc()
	attemptSeconds.WithLabelValues(name).Observe(c.Clock.Since(began).Seconds())
	return out, err
}

// report writes to the status, while an attempt runs, how far it has come and, where there is no news of that, that it still
// runs: this is how others see that the claim is held. When it is not any more, the attempt is ended. That a write fails
// otherwise is logged, and the outcome is written over it. It looks at each tick; the claim was last renewed at a time.
func (c *Controller) report(ctx context.Context, imp *v1beta1.ImageImport, latest *atomic.Pointer[importer.Progress],
	ticks <-chan time.Time, renewed time.Time) {
	var told *importer.Progress
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		progress := latest.Load()
		if progress == told && c.Clock.Since(renewed) < heartbeatInterval {
			continue
		}
		updated, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
			c.renew(status, imp.Generation)
			if progress != nil {
				status.Progress = &v1beta1.ImportProgress{
					Blobs: int64(progress.Blobs), BlobsTotal: int64(progress.BlobsTotal),
					Bytes: progress.Bytes, BytesTotal: progress.BytesTotal,
				}
			}
		})
		switch {
		case err == nil:
			imp, told, renewed = updated, progress, c.Clock.Now()
		case errors.Is(err, errClaimLost):
			c.underWay.cancel(imp.UID, err)
		case apierrors.IsNotFound(err):
			c.underWay.cancel(imp.UID, errImportGone)
		case ctx.Err() == nil:
			klog.FromContext(ctx).Error(err, "Could not write that an import runs")
		}
	}
}

var (
	// errImageGone is why an import ends whose Image was deleted, made again or not.
	errImageGone error = &importer.Error{Kind: importer.Invalid,
		Err: errors.New("the Image was deleted while the import was under way; nothing was recorded")}
	// errImportGone is why an attempt ends whose ImageImport was deleted.
	errImportGone = errors.New("the ImageImport was deleted")
)

var (
	// errSuperseded is why an import is not tried again after a later one succeeded.
	errSuperseded error = &importer.Error{Kind: v1beta1.ReasonSuperseded,
		Err: errors.New("a push, or an import from another source that was asked for later, has succeeded; import again if this one is still wanted")}
	// errRolledBack is why an import is not tried after the Image was rolled back.
	errRolledBack error = &importer.Error{Kind: v1beta1.ReasonSuperseded,
		Err: errors.New("the Image was rolled back after this import was asked for; import again if it is still wanted")}
)

// superseded says why an import is not to be tried, for it would undo what was decided after it was asked for: a rollback, or,
// where it was begun or put off before, an import from another source. It is nil otherwise: the same source says today what it says.
func superseded(imp *v1beta1.ImageImport, image *v1beta1.Image, now time.Time) error {
	history := image.Status.HashReferences
	for i := range history {
		if history[i].RolledBack && overtakes(&history[i], imp, now) {
			return errRolledBack
		}
	}
	begun := len(imp.Status.ImportAttempts) > 0 || imp.Status.StartTime != nil || imp.Status.NextAttemptTime != nil
	if begun && overtaken(imp, image, now) && !sameSource(history[0].From, imp.Spec.From) {
		return errSuperseded
	}
	return nil
}

// sameSource reports whether two references mean the same tag or digest.
func sameSource(a, b string) bool {
	refA, errA := importer.ParseReference(a)
	refB, errB := importer.ParseReference(b)
	return errA == nil && errB == nil && refA == refB
}

// overtaken reports whether what an Image means was resolved after an import was asked for.
func overtaken(imp *v1beta1.ImageImport, image *v1beta1.Image, now time.Time) bool {
	history := image.Status.HashReferences
	return len(history) > 0 && overtakes(&history[0], imp, now)
}

// overtakes reports whether an entry was resolved after an import was asked for. One that lies in the future, by a clock that was
// ahead, says nothing of what came first.
func overtakes(entry *v1beta1.HashReference, imp *v1beta1.ImageImport, now time.Time) bool {
	asked := imp.Status.RequestedAt.Time
	if asked.IsZero() { // stored by a version that did not say it: creation times have whole seconds
		asked = imp.CreationTimestamp.Add(time.Second - time.Microsecond)
	}
	return entry.ResolvedAt.After(asked) && !entry.ResolvedAt.After(now)
}

// imageOf returns the Image that owns an import, errImageGone when it is not there any more or is being deleted.
func (c *Controller) imageOf(ctx context.Context, imp *v1beta1.ImageImport) (*v1beta1.Image, error) {
	image, err := c.Client.TaggerV1beta1().Images(imp.Namespace).Get(ctx, imp.Spec.TargetImage, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, errImageGone
	}
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(imp, image) || image.DeletionTimestamp != nil { // what it has at the mirror was asked to be released
		return nil, errImageGone
	}
	return image, nil
}
