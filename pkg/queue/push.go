// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// Pushed is an image that was pushed to the registry endpoint under a tag.
type Pushed struct {
	// From is that tag, as HOST/NAMESPACE/NAME:TAG.
	From   string
	Digest digest.Digest
	// MediaType, Size and Platforms are as in a history, the latter two where they are known.
	MediaType string
	Size      int64
	Platforms []string
}

// Anchor returns the tag that keeps a digest at the mirror for as long as a history names it.
func Anchor(dgst digest.Digest) string { return anchor(dgst) }

// RecordPush has tag give an image that was pushed its tags at the mirror, its anchor among them, and records it in front of the
// history of an Image as it was read, whatever else was recorded meanwhile. Nothing is tagged where the Image is gone, and nobody else
// of this server records in between. Where it is not recorded, or this server is killed before, the mirror lets go of the anchor in the
// end. Errors are those of tag, or API errors: a conflict where the Image is gone, or was made again; and service unavailable where it is
// recorded, and latest at the mirror could not follow.
func (c *Controller) RecordPush(ctx context.Context, image *v1beta1.Image, pushed Pushed, tag func(context.Context) error) error {
	notRecorded := func(why string) error {
		return apierrors.NewConflict(v1beta1.Resource("images"), image.Name, errors.New(why+"; the push was not recorded"))
	}
	_, repository, err := c.Mirrors.Repository(ctx, image.Namespace, image.Name)
	if err != nil {
		return apierrors.NewServiceUnavailable(mirrorFailure(ctx, err).Error())
	}
	reference := fmt.Sprintf("%s@%s", repository, pushed.Digest)
	var release *v1beta1.MirrorRelease
	if !has(image.Status.HashReferences, reference) {
		release = c.releaseUnlessRecorded(ctx, image.Namespace, image.Name, reference)
	}
	tagged := false
	tagFirst := func(*v1beta1.ImageStatus) error {
		if tagged {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, followTimeout)
		defer cancel()
		err := tag(ctx)
		tagged = err == nil
		return err
	}
	done, err := c.putInFront(ctx, image, v1beta1.HashReference{
		From: pushed.From, ImageReference: reference, SourceReference: reference, ImportUID: uuid.NewUUID(),
		MediaType: pushed.MediaType, Size: pushed.Size, Platforms: pushed.Platforms,
	}, tagFirst, v1beta1.ReasonPushed, fmt.Sprintf("%s was pushed: %s", pushed.From, pushed.Digest))
	switch {
	case errors.Is(err, errBusy):
		return notRecorded("others are writing to the Image and did not end in time; push again")
	case errors.Is(err, errImageGone):
		return notRecorded("the Image was deleted meanwhile; push again")
	case done.image == nil && ctx.Err() != nil:
		return apierrors.NewTimeoutError("the push was not recorded in time, as far as is known; push again", 1)
	case done.image == nil:
		return err
	}
	c.withdrawRelease(ctx, done.image, release)
	if done.dropped { // what the mirror let go of while it was pushed
		c.anchorAgain(ctx, done.image, &done.entry)
	}
	return unfollowed("the push was recorded, but ", err)
}

// unfollowed returns an API error that says of an unfollowedError what was done; nil stays nil.
func unfollowed(done string, err error) error {
	if err == nil {
		return nil
	}
	return apierrors.NewServiceUnavailable(done + err.Error())
}

// RecordDeletion removes from an Image's history what names a digest whose deletion at the mirror began at a time, but for what was
// pushed again since. It returns the Image; nil where that is gone, or had no such entry. Errors are API errors; where latest at the
// mirror could not follow, the Image is returned as well.
func (c *Controller) RecordDeletion(ctx context.Context, namespace, name string, dgst digest.Digest, began time.Time) (*v1beta1.Image, error) {
	image, err := c.Client.TaggerV1beta1().Images(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	destination, repository, err := c.Mirrors.Repository(ctx, namespace, name)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(mirrorFailure(ctx, err).Error())
	}
	reference := fmt.Sprintf("%s@%s", repository, dgst)
	deleted := func(ref v1beta1.HashReference) bool { return ref.ImageReference == reference }
	removed := false
	image, err = c.changeHistory(ctx, image, func(current *v1beta1.Image) error {
		status := &current.Status
		again := slices.ContainsFunc(status.HashReferences, func(ref v1beta1.HashReference) bool { return deleted(ref) && ref.ResolvedAt.After(began) })
		if again {
			complete, err := destination.Complete(ctx, dgst)
			if err != nil {
				return apierrors.NewServiceUnavailable(mirrorFailure(ctx, err).Error())
			}
			if complete {
				return errUnchanged
			}
		}
		was := len(status.HashReferences)
		first := was > 0 && deleted(status.HashReferences[0])
		status.HashReferences = slices.DeleteFunc(status.HashReferences, deleted)
		if removed = len(status.HashReferences) < was; !removed {
			return errUnchanged
		}
		if first {
			left := metav1.ConditionTrue
			if len(status.HashReferences) == 0 {
				left = metav1.ConditionUnknown
			}
			c.setCondition(&status.Conditions, current.Generation, left, v1beta1.ReasonDeleted, fmt.Sprintf("%s was deleted at the registry", dgst))
		}
		return nil
	})
	switch {
	case errors.Is(err, errImageGone):
		return nil, nil
	case errors.Is(err, errBusy):
		return nil, apierrors.NewConflict(v1beta1.Resource("images"), name, errors.New("others are writing to the Image and did not end in time; delete again"))
	}
	if image == nil {
		return nil, err
	}
	err = unfollowed("it was deleted, but ", err)
	if !removed {
		return nil, err
	}
	return image, err
}
