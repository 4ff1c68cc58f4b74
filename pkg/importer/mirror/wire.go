// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"time"

	"tagger.dev/tagger/pkg/importer"
)

const (
	// maxHeaderBytes bounds the header of an answer.
	maxHeaderBytes = 256 << 10
	// continueTimeout is how long a blob waits for the registry to say that it takes
	// it: one that refuses it, for its token has expired, does so before a byte was
	// read, so that it can be sent again.
	continueTimeout = time.Second
)

// wire is the http.RoundTripper below the clients of one registry: whatever they
// send, to it, to token services and to where these redirect, passes here.
type wire struct {
	config          Config
	options         Options
	direct, proxied *http.Transport
}

// newWire returns one that trusts roots.
func newWire(config Config, options Options, roots *x509.CertPool) *wire {
	w := &wire{config: config, options: options}
	dialer := &net.Dialer{Timeout: options.ConnectTimeout}
	guarded := *dialer
	if config.Guarded {
		guarded.ControlContext = options.Guard.Control
	}
	w.direct = w.newTransport(&guarded, roots)
	w.proxied = w.newTransport(dialer, roots)
	w.proxied.Proxy = options.Proxy
	return w
}

func (w *wire) newTransport(dialer *net.Dialer, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			RootCAs:            roots,
			InsecureSkipVerify: w.config.Insecure, //nolint:gosec // whoever configured the mirror asked for it
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return stallingConn{conn, w.options.StallTimeout}, nil
		},
		TLSHandshakeTimeout:    w.options.ConnectTimeout,
		ResponseHeaderTimeout:  w.options.StoreTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    w.options.Connections,
		MaxIdleConns:           2 * w.options.Connections, // token services have some too
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
		// HTTP/2 would send all blobs over one connection.
	}
}

// RoundTrip refuses to speak plain HTTP with who is to be verified, and ends what
// takes too long: all but sending a blob, and storing it.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	transport, err := w.transport(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	end := time.AfterFunc(w.options.DocumentTimeout, func() { cancel(context.DeadlineExceeded) })
	long := hasLongBody(ctx)
	blob := req.Header.Get("Expect") != ""
	if blob {
		end.Stop()
	}
	resp, err := transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		end.Stop()
		cancel(nil)
		return nil, err
	}
	if blob {
		end.Reset(w.options.DocumentTimeout)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		importer.SortChallenges(resp.Header)
	}
	resp.Request = req
	body := &endingBody{ReadCloser: resp.Body, ctx: ctx, done: func() { end.Stop(); cancel(nil) }}
	if long && end.Stop() {
		body.stall, body.end = w.options.StallTimeout, end
	}
	resp.Body = body
	return resp, nil
}

type longBody struct{}

// withLongBody returns ctx for requests whose answer is a blob: each part of it has
// its time, and not the whole.
func withLongBody(ctx context.Context) context.Context {
	return context.WithValue(ctx, longBody{}, true)
}

func hasLongBody(ctx context.Context) bool { return ctx.Value(longBody{}) != nil }

// endingBody is the body of an answer whose time ends.
type endingBody struct {
	io.ReadCloser
	ctx  context.Context //nolint:containedctx // the request's, whose cause says why the body ended
	done func()
	// stall is the time that each Read has, by the timer that ends it; 0 where the whole
	// body has one.
	stall time.Duration
	end   *time.Timer
}

func (b *endingBody) Read(p []byte) (int, error) {
	if b.stall > 0 {
		b.end.Reset(b.stall)
		defer b.end.Stop()
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *endingBody) Close() error {
	err := b.ReadCloser.Close()
	b.done()
	return err
}

func (w *wire) transport(req *http.Request) (*http.Transport, error) {
	if req.URL.Scheme == "http" && !w.config.Insecure {
		return nil, unavailable(`the mirror leads to plain HTTP; if that is meant, set the key insecure to "true" in %s`, w.config.Name)
	}
	if w.options.Proxy == nil {
		return w.direct, nil
	}
	proxy, err := w.options.Proxy(req)
	switch {
	case err != nil:
		return nil, unavailable("the proxy settings of this server are not valid")
	case proxy == nil:
		return w.direct, nil
	case w.config.Guarded:
		if err := w.options.Guard.Name(req.Context(), req.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	return w.proxied, nil
}

// close gives connections back that nobody uses.
func (w *wire) close() {
	w.direct.CloseIdleConnections()
	w.proxied.CloseIdleConnections()
}

// stallingConn ends a write that does not move.
type stallingConn struct {
	net.Conn
	timeout time.Duration
}

func (c stallingConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
