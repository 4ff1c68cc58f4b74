// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// CheckPull returns an entry of an Image's history as a rollback is to record it, when the content that it names is there: all
// of it at the mirror, where that is what it names, else the manifest at the source. Of an entry that was mirrored, or pushed, to where
// the mirror is no longer it names the place where the mirror is now. Errors are those of package importer.
func (c *Controller) CheckPull(ctx context.Context, image *v1beta1.Image, entry v1beta1.HashReference) (v1beta1.HashReference, error) {
	dgst := digestOf(&entry)
	destination, repository, err := c.Mirrors.Repository(ctx, image.Namespace, image.Name)
	reference := fmt.Sprintf("%s@%s", repository, dgst)
	copied := entry.ImageReference != entry.SourceReference || entry.ImageReference == reference
	if !copied && (err != nil || !atMirror(&entry, repository)) {
		return entry, c.checkSource(ctx, image, entry)
	}
	if err != nil {
		return entry, mirrorFailure(ctx, err)
	}
	complete, err := destination.Complete(ctx, dgst)
	switch {
	case (err != nil || !complete) && !copied: // it may have come from a registry that has a repository of the same name
		return entry, c.checkSource(ctx, image, entry)
	case err != nil:
		return entry, mirrorFailure(ctx, err)
	case !complete:
		return entry, &importer.Error{Kind: importer.NotFound, Reference: reference, Err: contentGone(&entry)}
	}
	if err := destination.Commit(ctx, map[string]digest.Digest{anchor(dgst): dgst}); err != nil {
		return entry, mirrorFailure(ctx, err)
	}
	entry.ImageReference = reference
	return entry, nil
}

// mirrorFailure classifies an error of the mirror and logs what its text keeps from callers.
func mirrorFailure(ctx context.Context, err error) error {
	failure := importer.DestinationFailure(err)
	var typed *importer.Error
	switch {
	case errors.As(failure, &typed) && typed.Kind == importer.MirrorUnavailable && typed.Cause() != nil:
		klog.FromContext(ctx).Error(typed.Cause(), "The mirror failed")
	case errors.Is(failure, context.DeadlineExceeded):
		return &importer.Error{Kind: importer.Timeout, Err: errors.New("the mirror did not answer in time")}
	}
	return failure
}

// contentGone says what to do when the mirror has not, or not all of, what an entry names.
func contentGone(entry *v1beta1.HashReference) error {
	if entry.SourceReference == "" || entry.SourceReference == entry.ImageReference {
		return errors.New("the mirror does not have all of its content any more; push it again")
	}
	return fmt.Errorf("the mirror does not have all of its content any more; import it again from %s", entry.SourceReference)
}

// checkSource asks the source of an entry for its manifest.
func (c *Controller) checkSource(ctx context.Context, image *v1beta1.Image, entry v1beta1.HashReference) error {
	src, err := c.source(request{
		namespace: image.Namespace, image: image.Name, from: entry.SourceReference, insecure: image.Spec.Insecure,
	})
	if err != nil {
		return err
	}
	release, err := c.acquire(ctx, src.Reference)
	if err != nil {
		return err
	}
	defer release()
	_, err = c.Importer.Resolve(ctx, src, "")
	return err
}

// RecordRollback puts an entry in front of an Image's history, as resolved now, whatever else was recorded meanwhile, and
// returns it as it was recorded. Where it is in front already it stays there, and no entry is added: unchanged. The mirror's latest
// follows. It fails with a conflict when the Image is gone, or was made again, since it was read. Errors are API errors; after a
// timeout nobody knows whether it was recorded, and with service unavailable it may be, without latest at the mirror.
func (c *Controller) RecordRollback(ctx context.Context, image *v1beta1.Image, entry v1beta1.HashReference) (
	recorded v1beta1.HashReference, unchanged bool, err error) {
	notRecorded := func(why string) error {
		return apierrors.NewConflict(v1beta1.Resource("images"), image.Name, errors.New(why+"; nothing was recorded"))
	}
	entry.ImportUID, entry.RolledBack = uuid.NewUUID(), true
	check := func(status *v1beta1.ImageStatus) error {
		if inFront(image.Status.HashReferences, &entry) && !inFront(status.HashReferences, &entry) {
			return errHistoryMoved // it was neither admitted nor looked for, since nothing was to change
		}
		return nil
	}
	placed, err := c.putInFront(ctx, image, entry, check, v1beta1.ReasonRolledBack, fmt.Sprintf("rolled back to %s of %s", digestOf(&entry), entry.From))
	switch {
	case errors.Is(err, errBusy):
		return entry, false, notRecorded("others are writing to the Image and did not end in time; try again")
	case errors.Is(err, errImageGone):
		return entry, false, notRecorded("the Image was deleted while it was rolled back")
	case errors.Is(err, errHistoryMoved):
		return entry, false, notRecorded("an import was recorded meanwhile; look at the history and try again")
	case placed.image == nil && ctx.Err() != nil:
		return entry, false, apierrors.NewTimeoutError(
			"the Image was not written in time, as far as is known: look at its history, and at spec.suspend, before trying again", 1)
	case placed.image == nil:
		return entry, false, err
	}
	if placed.dropped {
		c.anchorAgain(ctx, placed.image, &entry)
	}
	return placed.entry, placed.unchanged, unfollowed("the Image was rolled back, but ", err)
}

// errHistoryMoved is why an entry is not recorded that is the current one no more.
var errHistoryMoved = errors.New("the entry is not the current one any more")

// inFront reports whether an entry is the current one of a history.
func inFront(history []v1beta1.HashReference, entry *v1beta1.HashReference) bool {
	return len(history) > 0 && history[0].ImageReference == entry.ImageReference
}

// anchorAgain gives an entry its tag at the mirror that had been dropped from the history and came back: the mirror may have let go
// of it in between. Latest, which the entry has now, keeps its content meanwhile.
func (c *Controller) anchorAgain(ctx context.Context, image *v1beta1.Image, entry *v1beta1.HashReference) {
	destination, repository, err := c.Mirrors.Repository(ctx, image.Namespace, image.Name)
	dgst := digestOf(entry)
	if err == nil && entry.ImageReference == fmt.Sprintf("%s@%s", repository, dgst) {
		err = destination.Commit(ctx, map[string]digest.Digest{anchor(dgst): dgst})
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not tag at the mirror what an Image was rolled back to")
	}
}

// inFrontOf returns the times of an entry that is recorded now, in front of a history of which nothing lies in the future.
func (c *Controller) inFrontOf(history []v1beta1.HashReference) (metav1.Time, metav1.MicroTime) {
	now := c.Clock.Now()
	at := now.Truncate(time.Microsecond)
	if len(history) > 0 && !at.After(history[0].ResolvedAt.Time) {
		at = history[0].ResolvedAt.Add(time.Microsecond)
	}
	return metav1.NewTime(now).Rfc3339Copy(), metav1.NewMicroTime(at)
}
