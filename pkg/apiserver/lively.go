// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"io"
	"net/http"
	"time"
)

// lively is a response whose client has to take it: where it takes nothing for some time, a write fails, and the response ends. It
// counts what moves in both directions. That the client sends what it has to send the endpoint looks after.
type lively struct {
	http.ResponseWriter
	controller *http.ResponseController
	stall      time.Duration
	renewed    time.Time // when the deadline was last set
}

// newLively returns what to serve instead. Stall is how long the client may take nothing, and three quarters of that at least: the
// deadline is not set anew with each of the small parts that streams are made of.
func newLively(w http.ResponseWriter, r *http.Request, stall time.Duration) (*lively, *http.Request) {
	counted := r.WithContext(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		counted.Body = countedBody{r.Body}
	}
	return &lively{ResponseWriter: w, controller: http.NewResponseController(w), stall: stall}, counted
}

// Unwrap lets an http.ResponseController find what is wrapped.
func (l *lively) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// Write implements io.Writer.
func (l *lively) Write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(l.renewed) > l.stall/4 {
		l.renewed = now
		if err := l.controller.SetWriteDeadline(now.Add(l.stall)); err != nil {
			return 0, err
		}
	}
	n, err := l.ResponseWriter.Write(p)
	proxySent.Add(float64(n))
	return n, err
}

// end takes the deadline away, which HTTP/1 would have hold for the next response on the connection.
func (l *lively) end() {
	if !l.renewed.IsZero() {
		_ = l.controller.SetWriteDeadline(time.Time{}) // an error means that the client is gone
	}
}

// countedBody is the body of a request.
type countedBody struct{ io.ReadCloser }

// Read implements io.Reader.
func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	proxyReceived.Add(float64(n))
	return n, err
}
