// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// collectFinished deletes a finished import whose time to live is over, or says how long it still has.
func (c *Controller) collectFinished(ctx context.Context, imp *v1beta1.ImageImport) (time.Duration, error) {
	ttl := time.Duration(ptr.Deref(imp.Spec.TTLSecondsAfterFinished, v1beta1.DefaultTTLSecondsAfterFinished)) * time.Second
	if left := imp.Status.CompletionTime.Add(ttl).Sub(c.Clock.Now()); left > 0 {
		return left, nil
	}
	return 0, c.delete(ctx, imp)
}

// collectOrphan deletes an import whose Image is gone and says whether it did.
func (c *Controller) collectOrphan(ctx context.Context, imp *v1beta1.ImageImport) (bool, error) {
	owner := metav1.GetControllerOf(imp)
	if owner == nil || owner.Kind != "Image" {
		return false, nil
	}
	if cached, exists, err := c.images.GetIndexer().GetByKey(imp.Namespace + "/" + owner.Name); err == nil && exists &&
		cached.(*v1beta1.Image).UID == owner.UID {
		return false, nil
	}
	// The cache may not have the Image yet: what is deleted is deleted on the word of what is stored.
	image, err := c.Client.TaggerV1beta1().Images(imp.Namespace).Get(ctx, owner.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && image.UID != owner.UID:
		return true, c.delete(ctx, imp)
	default:
		return false, err
	}
}

func (c *Controller) delete(ctx context.Context, imp *v1beta1.ImageImport) error {
	err := c.Client.TaggerV1beta1().ImageImports(imp.Namespace).Delete(ctx, imp.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &imp.UID},
	})
	if apierrors.IsConflict(err) { // another import of that name by now
		return nil
	}
	return client(err)
}
