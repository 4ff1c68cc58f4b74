// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	maxRedirects = 10
	// maxHeaderBytes bounds the header of a response.
	maxHeaderBytes = 256 << 10
)

// transports are the connections to all sources. Those through a proxy are
// apart, for their dialer is not guarded, and so are those whose certificates
// are not verified. No connection carries authentication of its own, so scopes
// can share them.
type transports struct {
	options         Options
	guard           Guard
	direct, proxied map[trust]*http.Transport
}

// trust says how the certificate of a server is verified.
type trust struct {
	// insecure: not at all.
	insecure bool
	// host has certificate authorities of its own; empty for all others. With its
	// port.
	host string
}

func newTransports(o Options) *transports {
	t := &transports{
		options: o,
		guard:   Guard{AllowLoopback: o.AllowLoopback, RefusePrivate: o.RefusePrivate},
		direct:  map[trust]*http.Transport{},
		proxied: map[trust]*http.Transport{},
	}
	t.add(trust{}, o.RootCAs)
	t.add(trust{insecure: true}, nil)
	for host, roots := range o.HostCAs {
		if host == DockerHub {
			host = dockerHubEndpoint
		}
		t.add(trust{host: withPort(host)}, roots)
	}
	return t
}

// add makes the connections for servers that are trusted in one way.
func (t *transports) add(to trust, roots *x509.CertPool) {
	o := t.options
	t.direct[to] = newTransport(o, roots, to.insecure)
	t.direct[to].DialContext = (&net.Dialer{Timeout: o.ConnectTimeout, ControlContext: t.guard.Control}).DialContext
	t.proxied[to] = newTransport(o, roots, to.insecure)
	t.proxied[to].Proxy = o.Proxy
	t.proxied[to].DialContext = (&net.Dialer{Timeout: o.ConnectTimeout}).DialContext
}

func newTransport(o Options, roots *x509.CertPool, insecure bool) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			RootCAs:            roots,
			InsecureSkipVerify: insecure, //nolint:gosec // asked for by Source.Insecure; no credentials travel then
		},
		TLSHandshakeTimeout:    o.ConnectTimeout,
		ResponseHeaderTimeout:  o.HeaderTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    o.StreamsPerHost,
		MaxIdleConns:           4 * o.Streams,
		IdleConnTimeout:        90 * time.Second,
		// Bytes are hashed as they were stored, so nothing may be unpacked.
		DisableCompression: true,
		ForceAttemptHTTP2:  true,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: o.HeaderTimeout, PingTimeout: o.ConnectTimeout},
	}
}

func (t *transports) roundTrip(req *http.Request, insecure bool) (*http.Response, error) {
	to := trust{insecure: insecure}
	if host := withPort(req.URL.Host); !insecure && t.direct[trust{host: host}] != nil {
		to.host = host
	}
	if t.options.Proxy == nil {
		return t.direct[to].RoundTrip(req)
	}
	proxy, err := t.options.Proxy(req)
	if err != nil {
		return nil, failure(Unavailable, err, "the proxy settings of this server are not valid")
	}
	if proxy == nil {
		return t.direct[to].RoundTrip(req)
	}
	if err := t.guard.Name(req.Context(), req.URL.Hostname()); err != nil {
		return nil, err
	}
	return t.proxied[to].RoundTrip(req)
}

// wire is the http.RoundTripper below one authenticating client: whatever that
// sends, to registries, token services and redirects, passes here.
type wire struct {
	*transports
	scope, host string
	insecure    bool
	// secret: the client has a credential that others must not read, so that what it
	// sends to authenticate has to travel safely.
	secret bool
}

// RoundTrip refuses to expose credentials and to go where policy forbids or no
// host can be, answers an *Error for a rate limit, whoever it is that limits, and
// cuts bodies that stand still.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := w.refuse(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := w.roundTrip(req.WithContext(ctx), w.insecure)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	resp.Body = newIdleBody(ctx, cancel, resp.Body, w.options.IdleTimeout, req.URL.Host)
	if !streams(req) {
		end := time.AfterFunc(w.options.DocumentTimeout, func() {
			cancel(failure(Timeout, nil, "%s sent a document for longer than %s", req.URL.Host, w.options.DocumentTimeout))
		})
		context.AfterFunc(ctx, func() { end.Stop() })
	}
	if resp.StatusCode == http.StatusUnauthorized {
		SortChallenges(resp.Header)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		return nil, status(resp, asked{}, w.options.Clock.Now())
	}
	return resp, nil
}

// refuse returns why a request must not be sent.
func (w *wire) refuse(req *http.Request) error {
	if !isHost(req.URL.Host) {
		return failure(Unavailable, nil, "the registry leads to another host whose name cannot be one; tell the registry")
	}
	if w.secret && authenticates(req) && !w.trusts(req) {
		return failure(Unauthorized, nil, "%s wants credentials, which are sent over verified TLS or to loopback alone", req.URL.Host)
	}
	if err := w.options.admitURL(req.URL); err != nil {
		return err
	}
	if req.Response == nil && req.URL.Host == w.host {
		return nil // this is the source, which was admitted
	}
	return w.admitElsewhere(req)
}

// admitElsewhere asks Options.Admit about what a redirect or a challenge leads to,
// where that is of another repository.
func (w *wire) admitElsewhere(req *http.Request) error {
	repository := repositoryOf(req.URL.Path)
	if w.options.Admit == nil || repository == "" {
		return nil
	}
	port := req.URL.Port()
	if port == "" {
		port = defaultPortOf(req.URL)
	}
	// With its port, without which a host may read as a part of the repository.
	host, err := CanonicalHost(net.JoinHostPort(req.URL.Hostname(), port))
	if err != nil {
		return failure(Unavailable, err, "the registry leads to another host whose name cannot be one; tell the registry")
	}
	ref, err := ParseReference(host + "/" + repository)
	if err != nil {
		return nil //nolint:nilerr // no registry has such a repository
	}
	return w.options.Admit(req.Context(), Source{Reference: ref, Insecure: w.insecure, Scope: w.scope})
}

// repositoryOf returns that of the path of a request to a registry for content,
// however the path is written; else "".
func repositoryOf(urlPath string) string {
	below, ok := strings.CutPrefix(path.Clean("/"+urlPath), "/v2/")
	end := -1
	for _, kind := range []string{"manifests", "blobs", "referrers", "tags"} {
		end = max(end, strings.LastIndex(below, "/"+kind+"/"))
	}
	if !ok || end < 0 {
		return ""
	}
	return strings.ToLower(below[:end])
}

// challengeSchemes are those that auth.Client can meet, the preferred one first.
var challengeSchemes = []string{"bearer", "basic"}

// SortChallenges brings the challenge that is to be met to the front, since
// auth.Client reads the first one alone.
func SortChallenges(header http.Header) {
	rank := func(challenge string) int {
		scheme, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
		if i := slices.Index(challengeSchemes, strings.ToLower(scheme)); i >= 0 {
			return i
		}
		return len(challengeSchemes)
	}
	slices.SortStableFunc(header.Values("WWW-Authenticate"), func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
}

// streamed marks the context of a request whose body may take as long as it
// moves. It holds for where the request is redirected to, and for no token
// service.
type streamed struct{}

func streams(req *http.Request) bool {
	return req.Context().Value(streamed{}) != nil && (strings.Contains(req.URL.Path, "/blobs/") || req.Response != nil)
}

// authenticates reports whether a request carries a password or a token: in its
// header, or in its body, which only requests to token services have.
func authenticates(req *http.Request) bool {
	return req.Header.Get("Authorization") != "" || req.Method == http.MethodPost
}

func (w *wire) trusts(req *http.Request) bool {
	return isLoopback(req.URL.Hostname()) || req.URL.Scheme == "https" && !w.insecure
}

// checkRedirect is an http.Client.CheckRedirect. That credentials stay behind
// when a redirect leaves host or port is seen to by auth.Client.
func (w *wire) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return failure(Unavailable, nil, "%s redirects more than %d times", via[0].URL.Host, maxRedirects)
	}
	if req.URL.Scheme != "https" && !w.insecure {
		return failure(TLS, nil, "%s redirects to plain HTTP; if that is meant, set insecure: true", via[0].URL.Host).
			whereRefused("%s redirects to plain HTTP, which is not allowed here; ask the administrator", via[0].URL.Host)
	}
	return nil
}

// idleBody ends a body that delivers nothing for a while. Time during which
// nobody reads does not count.
type idleBody struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // the request's, whose cause says why the body ended
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
}

// newIdleBody takes over the cancellation of the request of body.
func newIdleBody(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, idle time.Duration, host string) *idleBody {
	timer := time.AfterFunc(idle, func() {
		cancel(failure(Timeout, nil, "%s sent nothing for %s", host, idle))
	})
	timer.Stop()
	return &idleBody{ReadCloser: body, ctx: ctx, cancel: cancel, timer: timer, idle: idle}
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && b.ctx.Err() != nil {
		// Also for io.EOF: a server may end its answer in the instant in which we
		// hang up.
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *idleBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
