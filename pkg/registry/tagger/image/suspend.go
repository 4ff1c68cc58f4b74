// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// Target names an Image in the namespace of the request as what is written on behalf of the requester.
func Target(ctx context.Context, name string) requester.Target {
	return requester.Target{
		Resource:  v1beta1.SchemeGroupVersion.WithResource("images"),
		Kind:      v1beta1.SchemeGroupVersion.WithKind("Image"),
		Namespace: request.NamespaceValue(ctx),
		Name:      name,
	}
}

// Refreshes says whether an Image is imported on a schedule.
func Refreshes(image *tagger.Image) bool {
	return image.Spec.RefreshInterval != nil && !image.Spec.Suspend
}

// resumeTimeout is how long it is tried to let a schedule go on.
const resumeTimeout = 5 * time.Second

// SuspendRefresh suspends the schedule of an Image as the requester, so that no refresh undoes what a person chose. It does not
// authorise, and fails with a conflict when that is not the Image any more that was read. It returns the Image as it is then, and what
// lets the schedule go on when what it was suspended for is refused afterwards, unless somebody else changed the Image since: that is
// tried also where ctx has ended.
func SuspendRefresh(ctx context.Context, writer *requester.Writer, images rest.Updater, image *tagger.Image, dryRun []string) (
	*tagger.Image, func(context.Context), error) {
	target := Target(ctx, image.Name)
	already := false
	obj, err := writer.Update(ctx, images, target, func(obj runtime.Object) error {
		current := obj.(*tagger.Image)
		if current.UID != image.UID {
			return changed(image, "it was deleted and made again meanwhile; look at it and try again")
		}
		already, current.Spec.Suspend = current.Spec.Suspend, true
		return nil
	}, dryRun)
	if err != nil {
		return nil, nil, err
	}
	suspended := obj.(*tagger.Image)
	return suspended, func(ctx context.Context) {
		if already || len(dryRun) > 0 { // by somebody who wants it so, or not at all
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
		defer cancel()
		_, err := writer.Update(ctx, images, target, func(obj runtime.Object) error {
			current := obj.(*tagger.Image)
			if current.UID != suspended.UID || current.Generation != suspended.Generation {
				return changed(image, "somebody else changed it since")
			}
			current.Spec.Suspend = false
			return nil
		}, nil)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			klog.FromContext(ctx).Error(err, "Could not resume the refresh of an Image, for nothing came of what it was suspended for", "image", klog.KObj(suspended))
		}
	}, nil
}

// Refused reports whether an error of a write says that nothing was written. Of others, a timeout for one, that is not known.
func Refused(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err)
}

func changed(image *tagger.Image, how string) error {
	return apierrors.NewConflict(tagger.Resource("images"), image.Name, errors.New(how))
}
