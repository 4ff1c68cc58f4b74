// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/queue"
)

// rollbacker lets the queue, which speaks the served version and knows mirror and source, do its part of a rollback.
type rollbacker struct {
	imports *queue.Controller
}

// Check implements storage.Rollbacker.
func (r rollbacker) Check(ctx context.Context, image *tagger.Image, entry *tagger.HashReference) (*tagger.HashReference, error) {
	return through(image, entry, func(image *v1beta1.Image, entry v1beta1.HashReference) (v1beta1.HashReference, error) {
		checked, err := r.imports.CheckPull(ctx, image, entry)
		return checked, cannotPull(image.Name, err)
	})
}

// Record implements storage.Rollbacker.
func (r rollbacker) Record(ctx context.Context, image *tagger.Image, entry *tagger.HashReference) (
	recorded *tagger.HashReference, unchanged bool, err error) {
	recorded, err = through(image, entry, func(image *v1beta1.Image, entry v1beta1.HashReference) (_ v1beta1.HashReference, err error) {
		entry, unchanged, err = r.imports.RecordRollback(ctx, image, entry)
		return entry, err
	})
	return recorded, unchanged, err
}

// through converts what a call to the queue takes and returns.
func through(image *tagger.Image, entry *tagger.HashReference,
	call func(*v1beta1.Image, v1beta1.HashReference) (v1beta1.HashReference, error)) (*tagger.HashReference, error) {
	versioned, versionedEntry := &v1beta1.Image{}, &v1beta1.HashReference{}
	if err := Scheme.Convert(image, versioned, nil); err != nil {
		return nil, err
	}
	if err := Scheme.Convert(entry, versionedEntry, nil); err != nil {
		return nil, err
	}
	result, err := call(versioned, *versionedEntry)
	if err != nil {
		return nil, err
	}
	internal := &tagger.HashReference{}
	return internal, Scheme.Convert(&result, internal, nil)
}

// cannotPull is the answer to a rollback of an Image to what cannot be pulled; nil for nil. Its cause has the typed reason.
// What may heal by itself is a failure of the server's side, which callers try again; all else conflicts with how things are.
// There is no Retry-After in it, which would have clients wait, perhaps for an hour, without a word.
func cannotPull(image string, err error) error {
	if err == nil {
		return nil
	}
	kind := importer.KindOf(err)
	cause := fmt.Errorf("the reference cannot be pulled, and nothing was changed: %w (%s)", err, kind)
	var status *apierrors.StatusError
	switch kind {
	case importer.Timeout:
		status = apierrors.NewTimeoutError(cause.Error(), 0)
	case importer.Unavailable, importer.RateLimited, importer.MirrorUnavailable:
		status = apierrors.NewServiceUnavailable(cause.Error())
	case importer.NotFound, importer.Unauthorized, importer.TLS, importer.Blocked, importer.Invalid, importer.UnsupportedManifest,
		importer.MirrorUnauthorized, importer.DigestMismatch:
		status = apierrors.NewConflict(tagger.Resource("images"), image, cause)
	default:
		status = apierrors.NewInternalError(cause)
	}
	status.ErrStatus.Details = &metav1.StatusDetails{
		Group: tagger.GroupName, Kind: "images", Name: image,
		Causes: []metav1.StatusCause{{Type: metav1.CauseType(kind), Message: err.Error()}},
	}
	return status
}
