// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// errBusy is why nothing was written to an Image to which others are writing.
var errBusy = errors.New("others are writing to the Image")

// placed is what became of an entry that was put in front of a history.
type placed struct {
	// image as it was written.
	image *v1beta1.Image
	// entry as it was recorded.
	entry v1beta1.HashReference
	// unchanged: it was in front before.
	unchanged bool
	// dropped: no entry named its digest before.
	dropped bool
}

// putInFront records an entry, whose ImportUID nothing else has, as resolved now and in front of an Image's history, whatever else
// was recorded meanwhile, unless check fails. Where it is in front already none is added. The condition gets reason and message, and
// the mirror's latest follows. It fails with errBusy, with errImageGone when the Image is gone or was made again since it was read,
// with what check says, or with an API error; with an unfollowedError what was recorded is returned as well.
func (c *Controller) putInFront(ctx context.Context, image *v1beta1.Image, entry v1beta1.HashReference, check func(*v1beta1.ImageStatus) error,
	reason, message string) (placed, error) {
	done := placed{entry: entry}
	updated, err := c.changeHistory(ctx, image, func(current *v1beta1.Image) error {
		status := &current.Status
		if entryOfImport(status.HashReferences, entry.ImportUID) != nil { // the answer to an earlier attempt was lost
			return errUnchanged
		}
		if err := check(status); err != nil {
			return err
		}
		history := notInTheFuture(status.HashReferences, c.Clock.Now(), metav1.NewMicroTime(c.Clock.Now()))
		done.unchanged = inFront(history, &entry)
		entry.ImportedAt, entry.ResolvedAt = c.inFrontOf(history)
		status.HashReferences = addToHistory(history, entry, int(ptr.Deref(current.Spec.HistoryLimit, v1beta1.DefaultHistoryLimit)))
		c.releaseDropped(ctx, current, history, status.HashReferences)
		done.dropped = entryOf(history, digestOf(&entry)) == nil
		c.setCondition(&status.Conditions, current.Generation, metav1.ConditionTrue, reason, message)
		return nil
	})
	if updated == nil {
		return done, err
	}
	done.image, done.entry = updated, entry
	if recorded := entryOfImport(updated.Status.HashReferences, entry.ImportUID); recorded != nil {
		done.entry = *recorded
	}
	return done, err
}

// errUnchanged is why an Image need not be written.
var errUnchanged = errors.New("nothing is to be changed")

// unfollowedError is why latest at the mirror is not what an Image means, which was written. To do the same again is to try again.
type unfollowedError struct{ failure error }

func (e *unfollowedError) Error() string {
	return "latest at the mirror could not follow: " + e.failure.Error() + "; try again"
}

func (e *unfollowedError) Unwrap() error { return e.failure }

// changeHistory changes the status of an Image, which is the one that was read, and lets the mirror's latest follow. It fails with
// errBusy, errImageGone, what change says, or an API error; errUnchanged is none. With an unfollowedError the Image is returned as well.
func (c *Controller) changeHistory(ctx context.Context, image *v1beta1.Image, change func(*v1beta1.Image) error) (*v1beta1.Image, error) {
	unlock, err := c.lockImage(ctx, image.Namespace, image.Name)
	if err != nil {
		return nil, errBusy
	}
	defer unlock()
	images := c.Client.TaggerV1beta1().Images(image.Namespace)
	var updated *v1beta1.Image
	var was []v1beta1.HashReference
	if err := persist(ctx, func() error {
		current, err := images.Get(ctx, image.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && (current.UID != image.UID || current.DeletionTimestamp != nil):
			return errImageGone
		case err != nil:
			return err
		}
		was = slices.Clone(current.Status.HashReferences)
		if err := change(current); err != nil {
			updated = current
			return err
		}
		updated, err = images.UpdateStatus(ctx, current, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			return errImageGone
		}
		return err
	}); err != nil && !errors.Is(err, errUnchanged) {
		return nil, err
	}
	if err := c.follow(ctx, updated, was); err != nil {
		return updated, &unfollowedError{mirrorFailure(ctx, err)}
	}
	return updated, nil
}
