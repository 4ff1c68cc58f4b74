// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Kind says why an import failed. The values are the reasons of conditions and
// metrics, so they never change.
type Kind string

const (
	// NotFound: there is no such host, or it has no such repository, tag, manifest
	// or blob.
	NotFound Kind = "NotFound"
	// Unauthorized: the source refused access with every credential and without.
	Unauthorized Kind = "Unauthorized"
	// RateLimited: the source asked to come back later.
	RateLimited Kind = "RateLimited"
	// Unavailable: the source cannot be reached or failed.
	Unavailable Kind = "Unavailable"
	// Timeout: the source, or the caller's deadline, took too long.
	Timeout Kind = "Timeout"
	// TLS: the source's certificate or protocol was refused.
	TLS Kind = "TLS"
	// Blocked: policy forbids it, whatever the source would answer.
	Blocked Kind = "Blocked"
	// Invalid: the request itself is wrong.
	Invalid Kind = "Invalid"
	// UnsupportedManifest: the reference names what Tagger cannot keep.
	UnsupportedManifest Kind = "UnsupportedManifest"
	// MirrorUnavailable: the destination cannot be reached, failed, or is configured
	// in a way that cannot be.
	MirrorUnavailable Kind = "MirrorUnavailable"
	// MirrorUnauthorized: the destination refused access.
	MirrorUnauthorized Kind = "MirrorUnauthorized"
	// DigestMismatch: the bytes received are not those that were named.
	DigestMismatch Kind = "DigestMismatch"
)

// Terminal reports whether the failure cannot heal, so that trying again is
// useless.
func (k Kind) Terminal() bool {
	return k == Invalid || k == Blocked || k == UnsupportedManifest
}

// SeldomHeals reports whether somebody has to do something before another
// attempt can succeed. Whatever is Terminal seldom heals.
func (k Kind) SeldomHeals() bool {
	return k == NotFound || k == Unauthorized || k == TLS || k.Terminal()
}

// Error is every failure of this package. Its text is one line for people: what
// failed and, where there is one, the remedy. It holds neither credentials nor
// anything that a foreign host wrote; the causes below Err may, and are for
// errors.As alone.
type Error struct {
	Kind Kind
	// Reference is canonical and without credentials; empty where the reference
	// could not be parsed.
	Reference string
	// RetryAfter is how long the source asked to wait, at most an hour; zero
	// where it did not say.
	RetryAfter time.Duration
	// Paused: nothing was asked, for the source wants to be left alone since an
	// earlier request, for another RetryAfter.
	Paused bool
	// Err says what happened.
	Err error

	// credentials: others than were tried may help, so that the text says where
	// they are kept.
	credentials bool
	// secure is the text where insecure sources are refused, so that it does not
	// advise them; empty where the text never does.
	secure string
	// mirror is the text where the host is the mirror's, which is configured
	// otherwise than a source; empty where the text does for both.
	mirror string
}

func (e *Error) Error() string {
	text := string(e.Kind)
	if e.Err != nil {
		text = e.Err.Error()
	}
	if e.Reference == "" {
		return text
	}
	return e.Reference + ": " + text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Cause returns what happened below the text of Err, for the server's own log;
// nil where nothing is known.
func (e *Error) Cause() error {
	err := e.Err
	for hidden := (*cause)(nil); errors.As(err, &hidden); {
		err = hidden.err
	}
	return err
}

// KindOf returns why err happened, whichever package it comes from: Timeout for
// an exceeded deadline, Unavailable for what is not known, "" for nil.
func KindOf(err error) Kind {
	var e *Error
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	default:
		return Unavailable
	}
}

// cause gives an error another text: that of foreign errors may hold signed
// URLs or what a host wrote.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.err }

// NewError makes an Error without a reference, of a text of one's own beside the
// cause, which may be nil and which the text is not to quote.
func NewError(kind Kind, err error, format string, args ...any) *Error {
	return failure(kind, err, format, args...)
}

// failure makes an Error without a reference; the exported methods add it.
func failure(kind Kind, err error, format string, args ...any) *Error {
	return &Error{Kind: kind, Err: &cause{text: strings.Map(printable, fmt.Sprintf(format, args...)), err: err}}
}

// printable keeps control characters, and letters that look like others or turn
// the direction of writing, out of texts: hosts in redirects may have them.
func printable(r rune) rune {
	if r >= ' ' && r <= '~' || r == '…' {
		return r
	}
	return '?'
}

// wantsCredentials marks a failure that other credentials may heal.
func (e *Error) wantsCredentials() *Error {
	e.credentials = true
	return e
}

// whereRefused says what the text is where insecure sources are refused.
func (e *Error) whereRefused(format string, args ...any) *Error {
	e.secure = strings.Map(printable, fmt.Sprintf(format, args...))
	return e
}

// whereMirrored says what the text is where the host is the mirror's.
func (e *Error) whereMirrored(format string, args ...any) *Error {
	e.mirror = strings.Map(printable, fmt.Sprintf(format, args...))
	return e
}

// about completes err, which may be nil, with the reference that it concerns and
// with where credentials for it are kept.
func (i *Importer) about(ref Reference, err error) error {
	if err == nil {
		return nil
	}
	e := *classify(err, ref.host)
	if e.Reference == "" {
		e.Reference = ref.String()
	}
	if e.credentials && i.options.CredentialsPlace != "" {
		e.Err = &cause{text: fmt.Sprintf("%s (they are kept in %s)", e.Err, i.options.CredentialsPlace), err: e.Err}
		e.credentials = false
	}
	if e.secure != "" && i.options.RefuseInsecure {
		e.Err = &cause{text: e.secure, err: e.Err}
	}
	return &e
}
