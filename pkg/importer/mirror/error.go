// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

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
	return importer.MirrorAnswer(a.Response, what, c.config.Name, c.options.Clock.Now())
}

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

// is reports whether the answer has one of some status codes.
func (a *answer) is(codes ...int) bool { return slices.Contains(codes, a.StatusCode) }
