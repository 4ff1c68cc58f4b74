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

const (
	// progressInterval is how often a running attempt writes its progress.
	progressInterval = 2 * time.Second
)

// run runs one attempt of an import that is due and records its outcome. It returns when the import needs to be looked at
// again.
func (c *Controller) run(ctx context.Context, imp *v1beta1.ImageImport) (time.Duration, error) {
	began := c.Clock.Now()
	image, err := c.imageOf(ctx, imp)
	if errors.Is(err, errImageGone) {
		return 0, c.fail(ctx, imp, began, err)
	}
	if err != nil {
		return 0, err
	}
	if ref := recorded(&image.Status, imp.UID); ref != nil { // interrupted between the Image's write and this import's
		return 0, c.resume(ctx, imp, outcome{ref: *ref})
	}
	req := request{
		namespace: imp.Namespace, image: image.Name, importUID: imp.UID, from: imp.Spec.From,
		mirror: ptr.Deref(imp.Spec.Mirror, false), insecure: ptr.Deref(imp.Spec.Insecure, false),
	}
	if superseded(imp, image) {
		return 0, c.fail(ctx, imp, began, errSuperseded)
	}
	if ref, err := importer.ParseReference(req.from); err == nil {
		if left := c.Importer.Pause(ref); left > 0 {
			return c.putOff(ctx, imp, ref.Host(), spread(left))
		}
	}
	attempt, end := c.underWay.begin(ctx, imp.UID)
	defer end()
	out, err := c.timedAttempt(attempt, imp, req, image.Status.HashReferences)
	switch cause := context.Cause(attempt); {
	case errors.Is(cause, errImportGone): // nobody wants it any more
		return 0, nil
	case errors.Is(cause, errImageGone):
		return 0, c.fail(ctx, imp, began, cause)
	case err == nil:
		return 0, c.record(ctx, imp, began, out)
	case context.Cause(ctx) != nil: // stopping: this was no attempt
		return 0, err
	default:
		return 0, c.fail(ctx, imp, began, err)
	}
}

// putOff has an import wait for the end of a pause that its host asked another one for. That is no attempt.
func (c *Controller) putOff(ctx context.Context, imp *v1beta1.ImageImport, host string, wait time.Duration) (time.Duration, error) {
	next := nextAttempt(c.Clock.Now(), wait)
	_, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
		status.NextAttemptTime = &next
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionUnknown, string(importer.RateLimited),
			fmt.Sprintf("attempt %d of %d waits: %s asked another import to leave it alone for a while", len(status.ImportAttempts)+1, maxAttempts, host))
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
	var reporter sync.WaitGroup
	reporter.Go(func() { c.report(reporting, imp, &latest) })
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
	case err != nil && ctx.Err() != nil && typed == nil: // stopped, or not wanted any more
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

// report writes to the status, now and then while an attempt runs, that it runs and how far it has come. Nobody depends on
// it: that it fails is logged, and the outcome is written over it.
func (c *Controller) report(ctx context.Context, imp *v1beta1.ImageImport, latest *atomic.Pointer[importer.Progress]) {
	began := c.Clock.Now()
	ticker := c.Clock.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		progress := latest.Load()
		updated, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
			status.NextAttemptTime = nil
			if status.StartTime == nil {
				status.StartTime = ptr.To(metav1.NewTime(began))
			}
			message := fmt.Sprintf("attempt %d of %d runs", len(status.ImportAttempts)+1, maxAttempts)
			if progress != nil {
				status.Progress = &v1beta1.ImportProgress{
					Blobs: int64(progress.Blobs), BlobsTotal: int64(progress.BlobsTotal),
					Bytes: progress.Bytes, BytesTotal: progress.BytesTotal,
				}
			}
			c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionUnknown, v1beta1.ReasonInProgress, message)
		})
		switch {
		case err == nil:
			imp = updated
		case ctx.Err() == nil && !apierrors.IsNotFound(err):
			klog.FromContext(ctx).Error(err, "Could not write the progress of an import")
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

// errSuperseded is why an import is not tried again after a later one succeeded.
var errSuperseded error = &importer.Error{Kind: v1beta1.ReasonSuperseded,
	Err: errors.New("an import that was asked for later has succeeded; import again if this one is still wanted")}

// superseded reports whether an import that has failed before would undo another one, which was resolved after it was asked for.
func superseded(imp *v1beta1.ImageImport, image *v1beta1.Image) bool {
	return len(imp.Status.ImportAttempts) > 0 && overtaken(imp, image)
}

// overtaken reports whether what an Image means was resolved after an import was asked for. The times that objects are created
// at have whole seconds.
func overtaken(imp *v1beta1.ImageImport, image *v1beta1.Image) bool {
	history := image.Status.HashReferences
	return len(history) > 0 && !history[0].ResolvedAt.Time.Before(imp.CreationTimestamp.Add(time.Second))
}

// imageOf returns the Image that owns an import, errImageGone when it is not there any more.
func (c *Controller) imageOf(ctx context.Context, imp *v1beta1.ImageImport) (*v1beta1.Image, error) {
	image, err := c.Client.TaggerV1beta1().Images(imp.Namespace).Get(ctx, imp.Spec.TargetImage, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, errImageGone
	}
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(imp, image) {
		return nil, errImageGone
	}
	return image, nil
}
