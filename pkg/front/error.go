// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/mirror"
)

// codes are what a mirror's refusal means to clients, by its code.
var codes = map[string]distribution.Error{
	errcode.ErrorCodeBlobUnknown:         distribution.ErrBlobUnknown,
	errcode.ErrorCodeBlobUploadInvalid:   distribution.ErrUploadInvalid,
	errcode.ErrorCodeBlobUploadUnknown:   distribution.ErrUploadUnknown,
	errcode.ErrorCodeDigestInvalid:       distribution.ErrDigestInvalid,
	errcode.ErrorCodeManifestBlobUnknown: distribution.ErrManifestBlobUnknown,
	errcode.ErrorCodeManifestInvalid:     distribution.ErrManifestInvalid,
	errcode.ErrorCodeManifestUnknown:     distribution.ErrManifestUnknown,
	errcode.ErrorCodeSizeInvalid:         distribution.ErrSizeInvalid,
}

// statuses are what it means whatever the code.
var statuses = map[int]distribution.Error{
	http.StatusConflict:                     distribution.ErrConflict,
	http.StatusRequestEntityTooLarge:        distribution.ErrSizeInvalid,
	http.StatusRequestedRangeNotSatisfiable: distribution.ErrRangeInvalid,
	http.StatusTooManyRequests:              distribution.ErrTooMany,
	http.StatusInsufficientStorage:          distribution.ErrNoSpace,
}

// refusal returns what a mirror's refusal means; else where it has none of the codes.
// No other error is one.
func refusal(err error, otherwise distribution.Error) (distribution.Error, bool) {
	var refused *mirror.RefusalError
	if !errors.As(err, &refused) {
		return distribution.ErrInternal, false
	}
	if kind, ok := statuses[refused.Status]; ok {
		return kind, true
	}
	if refused.Status < 400 || refused.Status > 499 || refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden {
		return distribution.ErrInternal, false
	}
	if kind, ok := codes[refused.Code]; ok {
		return kind, true
	}
	return otherwise, true
}

// failure says in the terms of the endpoint that the mirror failed. The texts of
// *importer.Error are for those who use the mirror, and have nothing that it wrote.
func failure(err error) error {
	if kind, ok := refusal(err, distribution.ErrUnavailable); ok && kind != distribution.ErrUnavailable {
		return fmt.Errorf("%w: %w", kind, err)
	}
	var typed *importer.Error
	if !errors.As(err, &typed) {
		return err
	}
	told := distribution.Explain(distribution.ErrUnavailable, "%s", typed.Error())
	if cause := typed.Cause(); cause != nil {
		return fmt.Errorf("%w: %w", told, cause)
	}
	return told
}

// unknown is failure for what may not be there.
func unknown(err error, kind distribution.Error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return failure(err)
}

// undeleted is unknown for what the mirror may not delete.
func undeleted(err error, kind distribution.Error) error {
	if !errdefs.IsNotImplemented(err) {
		return unknown(err, kind)
	}
	text := "the mirror does not let that be deleted"
	if typed := (*importer.Error)(nil); errors.As(err, &typed) {
		text = typed.Error()
	}
	return fmt.Errorf("%w: %w", distribution.Explain(distribution.ErrUnsupported, "%s", text), err)
}
