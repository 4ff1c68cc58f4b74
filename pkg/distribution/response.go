// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"net/http"
	"time"
)

// never is when a deadline is that is put off.
const never = 365 * 24 * time.Hour

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

// begin has the deadline of an HTTP/2 stream, where the server gave it one, wait for the first write: it would end an upload that
// takes hours. It is put off and not taken away, since the server forgets one that is there when the stream ends, whatever is
// set later. That of HTTP/1 ends writes alone.
func (m *movingResponse) begin(r *http.Request) {
	if r.ProtoMajor == 2 {
		m.setDeadline(time.Now().Add(never))
	}
}

// leave bounds what the server sends when the handler has returned: a small answer as a whole. Both protocols forget the deadline
// with the request.
func (m *movingResponse) leave() { m.setDeadline(time.Now().Add(m.timeout)) }

// setDeadline does nothing where the client is gone, or the connection has no deadlines.
func (m *movingResponse) setDeadline(t time.Time) { _ = m.controller.SetWriteDeadline(t) }
