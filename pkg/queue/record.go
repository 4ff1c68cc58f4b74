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
	"k8s.io/client-go/util/retry"
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
	// maxMessage bounds the messages of conditions and attempts, in bytes.
	maxMessage = 1024
)

// record writes a successful attempt's outcome, first to the Image, then to the import. Nothing is fetched again when
// somebody else writes the same objects at the same time.
func (c *Controller) record(ctx context.Context, imp *v1beta1.ImageImport, out outcome) error {
	image, err := c.updateImage(ctx, imp, func(image *v1beta1.Image) {
		status := &image.Status
		if recorded(status, imp.UID) == nil {
			limit := int(ptr.Deref(image.Spec.HistoryLimit, v1beta1.DefaultHistoryLimit))
			status.HashReferences = addToHistory(status.HashReferences, out.ref, limit)
			status.RecordedImports = append(c.unfinished(image), out.ref)
		}
		reason, message := words(out)
		c.setCondition(&status.Conditions, image.Generation, metav1.ConditionTrue, reason, message)
	})
	if errors.Is(err, errImageGone) {
		return c.fail(ctx, imp, &importer.Error{Kind: importer.Invalid, Err: err})
	}
	if err != nil {
		return fmt.Errorf("recording in Image %s: %w", imp.Spec.TargetImage, err)
	}
	if err := c.pointLatest(ctx, image); err != nil { // the next import does it
		klog.FromContext(ctx).Error(err, "Could not let latest at the mirror follow the Image")
	}
	return c.succeed(ctx, imp, out)
}

// forget drops from the Image what it remembers of an import that has finished. The next import does it too.
func (c *Controller) forget(ctx context.Context, imp *v1beta1.ImageImport) error {
	_, err := c.updateImage(ctx, imp, func(image *v1beta1.Image) {
		image.Status.RecordedImports = slices.DeleteFunc(c.unfinished(image), func(ref v1beta1.HashReference) bool {
			return ref.ImportUID == imp.UID
		})
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
		c.endAttempt(status, now, v1beta1.ImportAttempt{When: now, Succeed: true})
		status.CompletionTime = &now
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionTrue, reason, message)
	}); err != nil {
		return client(err)
	}
	return c.forget(ctx, imp)
}

// fail writes a failed attempt to the import and, when that is news, to the Image: what was recorded earlier stays.
func (c *Controller) fail(ctx context.Context, imp *v1beta1.ImageImport, cause error) error {
	kind := importer.KindOf(cause)
	message := shorten(cause.Error())
	now := c.Clock.Now()
	var retryAfter time.Duration
	typed := &importer.Error{}
	if errors.As(cause, &typed) {
		retryAfter = typed.RetryAfter
	}
	updated, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
		c.endAttempt(status, metav1.NewTime(now), v1beta1.ImportAttempt{When: metav1.NewTime(now), Reason: message})
		attempts := len(status.ImportAttempts)
		if kind.Terminal() || attempts >= maxAttempts {
			status.CompletionTime = ptr.To(metav1.NewTime(now))
			c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionFalse, string(kind), message)
			return
		}
		next := metav1.NewTime(now.Add(pause(attempts, retryAfter)).Add(time.Second - 1).Truncate(time.Second))
		status.NextAttemptTime = &next
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionUnknown, string(kind),
			fmt.Sprintf("attempt %d of %d failed: %s", attempts, maxAttempts, message))
	})
	if err != nil {
		return client(err)
	}
	klog.FromContext(ctx).V(2).Info("Attempt failed", "reason", kind, "attempt", len(updated.Status.ImportAttempts), "err", message)
	if kind == importer.MirrorUnavailable && typed.Cause() != nil {
		klog.FromContext(ctx).Error(typed.Cause(), "The mirror failed")
	}
	_, err = c.updateImage(ctx, imp, func(image *v1beta1.Image) {
		c.setCondition(&image.Status.Conditions, image.Generation, metav1.ConditionFalse, string(kind), message)
	})
	if errors.Is(err, errImageGone) {
		return nil
	}
	return err
}

// endAttempt adds an attempt, and drops what is said only of one that runs.
func (c *Controller) endAttempt(status *v1beta1.ImageImportStatus, now metav1.Time, attempt v1beta1.ImportAttempt) {
	if status.StartTime == nil {
		status.StartTime = &now
	}
	if len(status.ImportAttempts) < maxAttempts {
		status.ImportAttempts = append(status.ImportAttempts, attempt)
	}
	status.Progress, status.NextAttemptTime = nil, nil
}

// words says what an outcome is, as a reason and as a message of a condition.
func words(out outcome) (reason, message string) {
	if out.unchanged {
		return v1beta1.ReasonUnchanged, fmt.Sprintf("%s still means %s", out.ref.From, digestOf(&out.ref))
	}
	return v1beta1.ReasonImported, fmt.Sprintf("%s means %s", out.ref.From, digestOf(&out.ref))
}

func (c *Controller) setCondition(conditions *[]metav1.Condition, generation int64, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: v1beta1.ConditionImported, Status: status, Reason: reason, Message: shorten(message),
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(c.Clock.Now()),
	})
}

// updateImport changes the status of an import, again on what somebody else wrote meanwhile where that happens.
func (c *Controller) updateImport(ctx context.Context, imp *v1beta1.ImageImport,
	change func(*v1beta1.ImageImportStatus)) (*v1beta1.ImageImport, error) {
	imports := c.Client.TaggerV1beta1().ImageImports(imp.Namespace)
	current, updated := imp, (*v1beta1.ImageImport)(nil)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		if current == nil {
			if current, err = imports.Get(ctx, imp.Name, metav1.GetOptions{}); err != nil {
				return err
			}
			if current.UID != imp.UID {
				return apierrors.NewNotFound(v1beta1.Resource("imageimports"), imp.Name)
			}
		}
		obj := current.DeepCopy()
		change(&obj.Status)
		updated, err = imports.UpdateStatus(ctx, obj, metav1.UpdateOptions{})
		current = nil
		return err
	})
	return updated, err
}

// updateImage changes the status of the Image that owns an import, when the change is one. It fails with errImageGone when
// that Image is not there any more.
func (c *Controller) updateImage(ctx context.Context, imp *v1beta1.ImageImport, change func(*v1beta1.Image)) (*v1beta1.Image, error) {
	var updated *v1beta1.Image
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		image, err := c.imageOf(ctx, imp)
		if err != nil {
			return err
		}
		obj := image.DeepCopy()
		change(obj)
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
