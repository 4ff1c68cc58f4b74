// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// checkSize refuses a body whose length is known and that is too much.
func (h *handler) checkSize(length, have int64) error {
	if length > h.options.MaxBlobBytes-have {
		return Explain(ErrSizeInvalid, "the blob is larger than the %d bytes that this registry accepts", h.options.MaxBlobBytes)
	}
	return nil
}

// bounded ends a body that makes a blob too large.
func (h *handler) bounded(body io.Reader, have int64) io.Reader {
	return &boundedReader{body, h.options.MaxBlobBytes - have, h.options.MaxBlobBytes}
}

type boundedReader struct {
	io.Reader
	room, limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.room -= int64(n); b.room < 0 {
		return 0, Explain(ErrSizeInvalid, "the blob is larger than the %d bytes that this registry accepts", b.limit)
	}
	return n, err
}

// movingBody is the body of a request that has to go on: a client that neither sends
// nor leaves would hold its upload for ever.
type movingBody struct {
	io.ReadCloser
	controller *http.ResponseController
	timeout    time.Duration
	until      time.Time // when all of it is to be there; the zero time for no matter when
	ended      bool
}

func (b *movingBody) Read(p []byte) (int, error) {
	deadline := time.Now().Add(b.timeout)
	if !b.until.IsZero() && b.until.Before(deadline) {
		deadline = b.until
	}
	b.setDeadline(deadline)
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	b.ended = true
	if !errors.Is(err, io.EOF) { // the deadline stays: the server would wait for the rest
		return n, &cutError{err}
	}
	b.setDeadline(time.Time{})
	return n, err
}

// leave bounds how long the server waits for what was not read, before it answers.
func (b *movingBody) leave() {
	if !b.ended {
		b.setDeadline(time.Now().Add(b.timeout))
	}
}

// setDeadline does nothing where the connection has no deadlines, a test's for one.
func (b *movingBody) setDeadline(t time.Time) { _ = b.controller.SetReadDeadline(t) }

// cutError is why a body was not read to its end: it is the client's doing.
type cutError struct{ err error }

func (e *cutError) Error() string { return "the body ended early: " + e.err.Error() }
func (e *cutError) Unwrap() error { return e.err }

// bodyError is what an error means that may be of the request's body.
func bodyError(err error) error {
	if cut := (*cutError)(nil); errors.As(err, &cut) && asError(err) == ErrInternal {
		return fmt.Errorf("%w: %w", Explain(ErrUploadInvalid, "the body ended before it was complete"), err)
	}
	return err
}
