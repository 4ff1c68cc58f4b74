// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// DestinationFailure classifies an error of a Destination, which may be nil. What
// it says of the mirror's inside stays out of the text, and is Cause for the log.
func DestinationFailure(err error) error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return failure(MirrorUnauthorized, err, "the mirror refused access; check its credentials")
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return failure(MirrorUnavailable, err, "the mirror has no space left; have the administrator add some")
	}
	if errdefs.IsResourceExhausted(err) {
		return failure(MirrorUnavailable, err, "the namespace has as much as it may have at the mirror; delete Images or tags of it, or have the administrator allow more")
	}
	return failure(MirrorUnavailable, err, "the mirror failed; the log of the server says why")
}

// MirrorFailure classifies an error of auth.Client on the way to a mirror that is a
// registry at host, as those on the way to a source are: its text names hosts, and
// nothing that one of them wrote. Configured says where the mirror is configured.
func MirrorFailure(err error, host, configured string) *Error {
	return ofMirror(unanswered(err, host), configured)
}

// MirrorAnswer is what becomes of an answer of such a mirror that is none of those
// that were hoped for; what was asked for is said in words. It closes the body.
func MirrorAnswer(resp *http.Response, what, configured string, now time.Time) *Error {
	if resp.StatusCode == http.StatusInsufficientStorage {
		resp.Body.Close()
		return failure(MirrorUnavailable, &answerError{resp.StatusCode}, "the mirror has no space left; have the administrator add some")
	}
	return ofMirror(status(resp, asked{
		what:        what,
		whenAbsent:  "the mirror lost it, makes no repository when something is pushed there, or is no registry",
		whenRefused: "its credentials are missing, wrong, or do not allow that",
	}, now), configured)
}

// ofMirror makes an error of a source one of a mirror.
func ofMirror(e *Error, configured string) *Error {
	made, text := *e, e.Err.Error()
	if e.mirror != "" {
		text = e.mirror
	}
	made.credentials, made.secure, made.mirror = false, "", ""
	switch e.Kind {
	case MirrorUnavailable, MirrorUnauthorized:
		return &made
	case Blocked:
	case Unauthorized:
		made.Kind = MirrorUnauthorized
	default:
		made.Kind = MirrorUnavailable
	}
	made.Err = &cause{text: "the mirror failed: " + text + "; it is configured in " + configured, err: e.Err}
	return &made
}
