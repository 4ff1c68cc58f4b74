// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"net/http"
	"time"
)

// movingResponse is an answer that its client has to take: where nothing of it is taken
// for some time a write fails, and the answer ends.
type movingResponse struct {
	http.ResponseWriter
	controller *http.ResponseController
	timeout    time.Duration
	renewed    time.Time // when the deadline was last set
}

// Unwrap lets an http.ResponseController find what is wrapped.
func (m *movingResponse) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// Write implements io.Writer. The deadline is not set anew with each of the small parts
// that streams are made of: it is three quarters of the timeout away at least.
func (m *movingResponse) Write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(m.renewed) > m.timeout/4 {
		m.renewed = now
		m.setDeadline(now.Add(m.timeout))
	}
	return m.ResponseWriter.Write(p)
}

// leave takes the deadline away, which HTTP/1 would have hold for the next response on
// the connection.
func (m *movingResponse) leave() {
	if !m.renewed.IsZero() {
		m.setDeadline(time.Time{})
	}
}

// setDeadline does nothing where the client is gone, or the connection has no deadlines.
func (m *movingResponse) setDeadline(t time.Time) { _ = m.controller.SetWriteDeadline(t) }
