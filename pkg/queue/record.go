// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

const (
	maxAttempts = tagger.MaxImportAttempts
	// forgetAfter is how long an Image remembers a recorded import that the cache does not know: it may be newer than the
	// cache, or it was deleted.
	forgetAfter = time.Hour
	// followTimeout bounds how long latest at the mirror is waited for: no heartbeat of the import is written meanwhile, and other
	// imports of the Image wait.
	followTimeout = claimDuration / 2
	// maxMessage bounds the messages of conditions and attempts, in bytes.
	maxMessage = 1024
)

// record writes a successful attempt's outcome, first to the Image, then to the import, which was as before says when the attempt
// began. Nothing is fetched again when somebody else writes the same objects at the same time.
func (c *Controller) record(ctx context.Context, imp, before *v1beta1.ImageImport, out outcome) error {
	out.ref.ImportedAt = metav1.NewTime(c.Clock.Now()).Rfc3339Copy()
	if err := c.recordInImage(ctx, imp, before, &out); err != nil {
		switch {
		case errors.Is(err, errImageGone), errors.Is(err, errRolledBack), errors.Is(err, errSuperseded):
			return c.fail(ctx, imp, err)
		case errors.Is(err, errImportGone):
			return nil
		case errors.Is(err, errClaimLost), errors.Is(err, errUnwanted):
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		klog.FromContext(ctx).Error(err, "Could not record an import", "image", imp.Spec.TargetImage)
		return c.fail(ctx, imp, &importer.Error{Kind: importer.Unavailable,
			Err: errors.New("the outcome could not be recorded in the Image; the log of the server says why")})
	}
	return c.succeed(ctx, imp, out)
}

// recordInImage writes an outcome to the Image, unless it is there, and lets latest at the mirror follow. Out becomes what was
// recorded. An outcome that would undo what was decided since the attempt began is refused with what superseded says.
func (c *Controller) recordInImage(ctx context.Context, imp, before *v1beta1.ImageImport, out *outcome) error {
	unlock, err := c.lock(ctx, imp)
	if err != nil {
		return err
	}
	defer unlock()
	var was []v1beta1.HashReference
	image, err := c.updateImage(ctx, imp, func(image *v1beta1.Image) error {
		was = image.Status.HashReferences
		// An import that was deleted or taken over is not this attempt's any more, even if that could not be ended in time.
		if err := c.confirm(ctx, imp, image); err != nil {
			return err
		}
		status, now := &image.Status, c.Clock.Now()
		if recorded(status, imp.UID) == nil {
			history := notInTheFuture(status.HashReferences, now, out.ref.ResolvedAt)
			inFront := len(history) == 0 || !out.ref.ResolvedAt.Before(&history[0].ResolvedAt)
			if err := superseded(before, image, now); err != nil && inFront {
				return err
			}
			out.unchanged = out.unchanged && len(history) > 0 && digestOf(&history[0]) == digestOf(&out.ref)
			limit := int(ptr.Deref(image.Spec.HistoryLimit, v1beta1.DefaultHistoryLimit))
			status.HashReferences = addToHistory(history, out.ref, limit)
			c.releaseDropped(ctx, image, history, status.HashReferences)
			ref := out.ref
			if entry := entryOfImport(status.HashReferences, imp.UID); entry != nil {
				ref = *entry
			}
			status.RecordedImports = append(c.unfinished(image), ref)
			status.LastAttemptTime = ptr.To(metav1.NewTime(now))
		}
		out.ref = *recorded(status, imp.UID)
		// An import that resolved earlier than what lies in front says nothing of the Image now.
		if len(status.HashReferences) > 0 && status.HashReferences[0].ImportUID == imp.UID {
			reason, message := words(*out)
			c.setCondition(&status.Conditions, observed(image, imp), metav1.ConditionTrue, reason, message)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.withdrawRelease(ctx, image, out.release)
	c.followLater(ctx, image, was)
	return nil
}

// resume finishes an import that was interrupted after its outcome was written to the Image.
func (c *Controller) resume(ctx context.Context, imp *v1beta1.ImageImport, out outcome) error {
	unlock, err := c.lock(ctx, imp)
	if err != nil {
		return err
	}
	if image, err := c.imageOf(ctx, imp); err == nil {
		c.followLater(ctx, image, nil)
	}
	unlock()
	return c.succeed(ctx, imp, out)
}

// followLater is follow for what is repeated: where it fails the next import does it.
func (c *Controller) followLater(ctx context.Context, image *v1beta1.Image, was []v1beta1.HashReference) {
	if err := c.follow(ctx, image, was); err != nil {
		klog.FromContext(ctx).Error(err, "Could not let latest at the mirror follow the Image")
	}
}

// follow lets latest at the mirror name what an Image means now, whose history was another before. It looks at the Image again
// afterwards: of several replicas that do this at once, whichever comes last has then set what the Image means.
func (c *Controller) follow(ctx context.Context, image *v1beta1.Image, was []v1beta1.HashReference) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	for {
		set, err := c.pointLatest(ctx, image, was)
		if err == nil && !set {
			return nil
		}
		now := (*v1beta1.Image)(nil)
		if err == nil {
			now, err = c.Client.TaggerV1beta1().Images(image.Namespace).Get(ctx, image.Name, metav1.GetOptions{})
		}
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case current(now) == current(image):
			return nil
		}
		image = now
	}
}

// lock keeps the other imports of an Image in this process from writing to it until unlock is called. An error is that of ctx.
func (c *Controller) lock(ctx context.Context, imp *v1beta1.ImageImport) (unlock func(), err error) {
	return c.lockImage(ctx, imp.Namespace, imp.Spec.TargetImage)
}

// lockImage is lock by the name of the Image.
func (c *Controller) lockImage(ctx context.Context, namespace, name string) (unlock func(), err error) {
	return c.writing.Acquire(ctx, namespace+"/"+name)
}

// observed returns the generation of the Image that the condition describes after an attempt of an import: the current one if
// the import did what that asks for, else as before.
func observed(image *v1beta1.Image, imp *v1beta1.ImageImport) int64 {
	if sameSource(image.Spec.From, imp.Spec.From) && ptr.Deref(imp.Spec.Mirror, false) == image.Spec.Mirror &&
		ptr.Deref(imp.Spec.Insecure, false) == image.Spec.Insecure {
		return image.Generation
	}
	if condition := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionImported); condition != nil {
		return condition.ObservedGeneration
	}
	return 0
}

// forget drops from the Image what it remembers of an import that has finished. The next import does it too.
func (c *Controller) forget(ctx context.Context, imp *v1beta1.ImageImport) error {
	unlock, err := c.lock(ctx, imp)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = c.updateImage(ctx, imp, func(image *v1beta1.Image) error {
		image.Status.RecordedImports = slices.DeleteFunc(c.unfinished(image), func(ref v1beta1.HashReference) bool {
			return ref.ImportUID == imp.UID
		})
		return nil
	})
	if errors.Is(err, errImageGone) {
		return nil
	}
	return err
}

// unfinished returns what an Image remembers of recorded imports, without those that have finished.
func (c *Controller) unfinished(image *v1beta1.Image) []v1beta1.HashReference {
	finished := map[string]bool{}
	imports, err := c.imports.GetIndexer().ByIndex(byImage, image.Namespace+"/"+image.Name)
	if err != nil {
		return image.Status.RecordedImports
	}
	for _, obj := range imports {
		imp := obj.(*v1beta1.ImageImport)
		finished[string(imp.UID)] = imp.Status.CompletionTime != nil
	}
	return slices.DeleteFunc(slices.Clone(image.Status.RecordedImports), func(ref v1beta1.HashReference) bool {
		done, known := finished[string(ref.ImportUID)]
		return done || !known && c.Clock.Since(ref.ImportedAt.Time) > forgetAfter
	})
}

// succeed ends an import with what was recorded for it.
func (c *Controller) succeed(ctx context.Context, imp *v1beta1.ImageImport, out outcome) error {
	now := metav1.NewTime(c.Clock.Now())
	if _, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
		reason, message := words(out)
		status.HashReference = &out.ref
		endAttempt(status, v1beta1.ImportAttempt{When: now, Succeed: true})
		status.CompletionTime = &now
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionTrue, reason, message)
	}); err != nil {
		return client(err)
	}
	return c.forget(ctx, imp)
}

// fail writes a failed attempt, first to the Image, unless that is well by now, then to the import: what was recorded earlier stays.
func (c *Controller) fail(ctx context.Context, imp *v1beta1.ImageImport, cause error) error {
	kind := importer.KindOf(cause)
	message := shorten(cause.Error())
	now := c.Clock.Now()
	typed := &importer.Error{}
	errors.As(cause, &typed)
	if err := c.failImage(ctx, imp, kind, message); err != nil && !errors.Is(err, errImageGone) {
		if errors.Is(err, errImportGone) {
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errClaimLost) || errors.Is(err, errUnwanted) {
			return err
		}
		klog.FromContext(ctx).Error(err, "Could not say in an Image that its import failed", "image", imp.Spec.TargetImage)
	}
	updated, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
		endAttempt(status, v1beta1.ImportAttempt{When: metav1.NewTime(now), Reason: message})
		attempts := len(status.ImportAttempts)
		if kind.Terminal() || kind == v1beta1.ReasonSuperseded || attempts >= maxAttempts {
			status.CompletionTime = ptr.To(metav1.NewTime(now))
			c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionFalse, string(kind), message)
			return
		}
		next := nextAttempt(now, pause(attempts, typed.RetryAfter))
		status.NextAttemptTime = &next
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionUnknown, string(kind),
			fmt.Sprintf("attempt %d of %d failed: %s", attempts, maxAttempts, message))
	})
	if err != nil {
		return client(err)
	}
	klog.FromContext(ctx).Info("Attempt failed", "reason", kind, "attempt", len(updated.Status.ImportAttempts), "err", message)
	if kind == importer.MirrorUnavailable && typed.Cause() != nil {
		klog.FromContext(ctx).Error(typed.Cause(), "The mirror failed")
	}
	return nil
}

// failImage says in the Image that an attempt failed, unless another import that was resolved since this one was asked for
// succeeded: then the Image is well.
func (c *Controller) failImage(ctx context.Context, imp *v1beta1.ImageImport, kind importer.Kind, message string) error {
	unlock, err := c.lock(ctx, imp)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = c.updateImage(ctx, imp, func(image *v1beta1.Image) error {
		if overtaken(imp, image, c.Clock.Now()) {
			return nil
		}
		image.Status.LastAttemptTime = ptr.To(metav1.NewTime(c.Clock.Now()))
		c.setCondition(&image.Status.Conditions, observed(image, imp), metav1.ConditionFalse, string(kind), message)
		return c.confirm(ctx, imp, image)
	})
	return err
}

// endAttempt adds an attempt, and drops what is said only of one that runs; the claim too, so that any replica may make the next.
func endAttempt(status *v1beta1.ImageImportStatus, attempt v1beta1.ImportAttempt) {
	if len(status.ImportAttempts) < maxAttempts {
		status.ImportAttempts = append(status.ImportAttempts, attempt)
	}
	status.Claim, status.Progress, status.NextAttemptTime = nil, nil, nil
}

// words says what an outcome is, as a reason and as a message of a condition.
func words(out outcome) (reason, message string) {
	if out.unchanged {
		return v1beta1.ReasonUnchanged, fmt.Sprintf("%s still means %s", out.ref.From, digestOf(&out.ref)) + out.note
	}
	return v1beta1.ReasonImported, fmt.Sprintf("%s means %s", out.ref.From, digestOf(&out.ref)) + out.note
}

func (c *Controller) setCondition(conditions *[]metav1.Condition, generation int64, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: v1beta1.ConditionImported, Status: status, Reason: reason, Message: shorten(message),
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(c.Clock.Now()),
	})
}

// persistFor is how long a write is tried that fails, other than by conflicts.
const persistFor = time.Minute

// persist writes again when somebody else wrote the same object meanwhile, or for a while when the storage cannot be reached: what
// was fetched is not thrown away for that.
func persist(ctx context.Context, write func() error) error {
	backoff := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8}
	began := time.Now()
	var last error
	if err := backoff.DelayFunc().Until(ctx, true, true, func(context.Context) (bool, error) {
		last = write()
		switch {
		case apierrors.IsConflict(last):
			return false, nil
		case apierrors.IsServerTimeout(last), apierrors.IsTimeout(last), apierrors.IsInternalError(last),
			apierrors.IsTooManyRequests(last), apierrors.IsServiceUnavailable(last):
			return time.Since(began) > persistFor, nil
		}
		return true, nil
	}); err != nil {
		return errors.Join(err, last)
	}
	return last
}

// updateImport changes the status of an import that this process has claimed, again on what somebody else wrote meanwhile where
// that happens. It fails with errClaimLost when another holds it by then, or nobody.
func (c *Controller) updateImport(ctx context.Context, imp *v1beta1.ImageImport,
	change func(*v1beta1.ImageImportStatus)) (*v1beta1.ImageImport, error) {
	imports := c.Client.TaggerV1beta1().ImageImports(imp.Namespace)
	current, updated := imp, (*v1beta1.ImageImport)(nil)
	err := persist(ctx, func() (err error) {
		if current == nil {
			if current, err = imports.Get(ctx, imp.Name, metav1.GetOptions{}); err != nil {
				return err
			}
			if current.UID != imp.UID {
				return apierrors.NewNotFound(v1beta1.Resource("imageimports"), imp.Name)
			}
		}
		if !c.holds(current) {
			return errClaimLost
		}
		obj := current.DeepCopy()
		change(&obj.Status)
		updated, err = imports.UpdateStatus(ctx, obj, metav1.UpdateOptions{})
		current = nil
		return err
	})
	return updated, err
}

// updateImage changes the status of the Image that owns an import, when the change is one and does not fail. It fails with
// errImageGone when that Image is not there any more.
func (c *Controller) updateImage(ctx context.Context, imp *v1beta1.ImageImport, change func(*v1beta1.Image) error) (*v1beta1.Image, error) {
	var updated *v1beta1.Image
	err := persist(ctx, func() error {
		image, err := c.imageOf(ctx, imp)
		if err != nil {
			return err
		}
		obj := image.DeepCopy()
		if err := change(obj); err != nil {
			return err
		}
		if updated = obj; apiequality.Semantic.DeepEqual(obj.Status, image.Status) {
			return nil
		}
		updated, err = c.Client.TaggerV1beta1().Images(imp.Namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			return errImageGone
		}
		return err
	})
	return updated, err
}

// shorten bounds a message.
func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage-len("…")], "") + "…"
}
