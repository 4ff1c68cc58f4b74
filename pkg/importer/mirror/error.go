// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/importer"
)

// unavailable makes the error of a mirror that does not do what mirrors do.
func unavailable(format string, args ...any) error {
	return importer.NewError(importer.MirrorUnavailable, nil, format, args...)
}

// mismatch is the error of content that is not what its descriptor says.
func mismatch(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrFailedPrecondition)
}

// refused makes an error of an answer that is none of those that were hoped for.
func (c *client) refused(a *answer, what string) error {
	return &RefusalError{
		Status: a.StatusCode, Code: importer.ErrorCode(bytes.NewReader(a.body)),
		Err: importer.MirrorAnswer(a.Response, what, c.config.Name, c.options.Clock.Now()),
	}
}

// RefusalError is the error of an answer by which a registry did not do what it was
// asked for.
type RefusalError struct {
	// Status is that of HTTP.
	Status int
	// Code is that of the OCI distribution specification; empty where there is none.
	Code string
	// Err says it in words.
	Err *importer.Error
}

// Error returns these words.
func (r *RefusalError) Error() string { return r.Err.Error() }

// Unwrap returns the *importer.Error.
func (r *RefusalError) Unwrap() error { return r.Err }

// failed makes an error of one of the wire.
func (c *client) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return importer.MirrorFailure(err, c.endpoint, c.config.Name)
}

// isUnauthorized reports whether a registry refused access.
func isUnauthorized(err error) bool {
	var e *importer.Error
	return errors.As(err, &e) && e.Kind == importer.MirrorUnauthorized
}

// absent reports whether the registry has not got what was asked for by tag or
// digest: it may not even know such digests.
func (a *answer) absent(name string) bool {
	return a.is(http.StatusNotFound, http.StatusGone) ||
		a.is(http.StatusBadRequest) && strings.HasPrefix(name, digest.SHA512.String()+":")
}

// is reports whether the answer has one of some status codes.
func (a *answer) is(codes ...int) bool { return slices.Contains(codes, a.StatusCode) }
