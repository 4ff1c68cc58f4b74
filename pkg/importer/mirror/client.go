// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"

	"tagger.dev/tagger/pkg/importer"
)

// maxAnswerBytes is how much is read of the body of an answer that is no document:
// errors have a code there.
const maxAnswerBytes = 8 << 10

const maxRedirects = 10

// client sends requests to one registry, with one configuration.
type client struct {
	config   Config
	options  Options
	endpoint string // host or host:port
	// credentials are the ways in which what is configured may be meant; accepted is
	// the one that was accepted last.
	credentials []*auth.Client
	accepted    atomic.Int32
	// plain: a registry that is configured as insecure does not speak TLS.
	plain atomic.Bool
}

// request is one to the registry.
type request struct {
	method     string
	repository string
	path       string // below /v2/REPOSITORY/
	query      url.Values
	// at is where an upload goes on, in place of path.
	at     *url.URL
	header http.Header
	// body is a document, stream a blob; nil where there is none.
	body   []byte
	stream *stream
	// limit is the largest body of an answer with status 200; 0: there is none.
	limit int64
	// open leaves the body of an answer that has the content to the caller, who
	// reads and closes it.
	open bool
	// also is a right that a token needs beside those to pull and push here.
	also scope
}

type scope struct{ repository, action string }

// answer is one of the registry, whose body was read unless it is the content that
// was asked for.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request, with each credential in turn for as long as access is
// refused and nothing of a stream was read. Whatever was answered is no error.
func (c *client) do(ctx context.Context, q request) (*answer, error) {
	first := int(c.accepted.Load())
	for n := 0; ; n++ {
		at := (first + n) % len(c.credentials)
		a, err := c.try(ctx, c.credentials[at], q)
		refused := isUnauthorized(err) || err == nil && a.is(http.StatusUnauthorized)
		if !refused {
			c.accepted.Store(int32(at))
		}
		if !refused || n == len(c.credentials)-1 || q.stream.begun() {
			return a, err
		}
	}
}

// try is do with one credential. An insecure registry that does not speak TLS is
// asked in plain HTTP, and remembered as such until that fails.
func (c *client) try(ctx context.Context, credential *auth.Client, q request) (*answer, error) {
	to := q.at
	if to == nil {
		to = &url.URL{Scheme: "https", Host: c.endpoint, Path: "/v2/" + q.repository + "/" + q.path, RawQuery: q.query.Encode()}
		if c.plain.Load() {
			to.Scheme = "http"
		}
	}
	if c.strays(q.method, to) {
		return nil, c.astray()
	}
	a, err := c.send(ctx, credential, q, to)
	switch {
	case !c.config.Insecure, q.at != nil:
	case err == nil && to.Scheme == "http" && a.is(http.StatusBadRequest): // as servers that speak TLS answer
		c.plain.Store(false)
	case err == nil:
	case to.Scheme == "http":
		c.plain.Store(false)
	case speaksPlainHTTP(err), to.Port() == "" && errors.Is(err, syscall.ECONNREFUSED):
		to.Scheme = "http"
		if a, err = c.send(ctx, credential, q, to); err == nil {
			c.plain.Store(true)
		}
	}
	return a, err
}

// speaksPlainHTTP reports whether the answer to a TLS handshake was not TLS.
func speaksPlainHTTP(err error) bool {
	return errors.Is(err, http.ErrSchemeMismatch)
}

// send sends a request to a URL.
func (c *client) send(ctx context.Context, credential *auth.Client, q request, to *url.URL) (*answer, error) {
	if q.open {
		ctx = withLongBody(ctx)
	}
	ctx = c.scoped(ctx, q.repository, auth.ActionPull, auth.ActionPush)
	if q.also != (scope{}) {
		ctx = c.scoped(ctx, q.also.repository, q.also.action)
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, to.String(), body)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	for key, values := range q.header {
		req.Header[key] = values
	}
	if q.stream != nil {
		q.stream.attach(req)
		defer q.stream.wait()
	}
	resp, err := credential.Do(req)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	if q.open && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
		return &answer{Response: resp}, nil
	}
	defer resp.Body.Close()
	limit := q.limit
	if resp.StatusCode != http.StatusOK || limit == 0 {
		limit = maxAnswerBytes
	}
	a := &answer{Response: resp}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)); err != nil {
		return nil, c.failed(ctx, err)
	}
	if int64(len(a.body)) > limit && limit == q.limit {
		return nil, unavailable("%s answered a document of more than %d bytes", c.endpoint, limit)
	}
	resp.Body = io.NopCloser(bytes.NewReader(a.body))
	return a, nil
}

// scoped returns ctx for requests whose token has rights for a repository.
func (c *client) scoped(ctx context.Context, repository string, actions ...string) context.Context {
	return auth.AppendRepositoryScope(ctx, registry.Reference{Registry: c.endpoint, Repository: repository}, actions...)
}

// next returns where an upload goes on. Registries behind a proxy often do not
// know by which scheme they are reached, so that one at the same host is taken for
// one at the same place.
func (a *answer) next() (*url.URL, error) {
	to, err := a.Location()
	if err != nil {
		return nil, err
	}
	if here := a.Request.URL; strings.EqualFold(to.Hostname(), here.Hostname()) &&
		(to.Port() == here.Port() || isDefaultPort(to.Port()) && isDefaultPort(here.Port())) {
		to.Scheme, to.Host = here.Scheme, here.Host
	}
	return to, nil
}

func isDefaultPort(port string) bool { return port == "" || port == "443" || port == "80" }

// newAuthClient returns one that sends a credential to the endpoint alone.
func (c *client) newAuthClient(wire http.RoundTripper, credential auth.Credential) *auth.Client {
	return &auth.Client{
		Client:     &http.Client{Transport: wire, CheckRedirect: c.checkRedirect},
		Header:     http.Header{"User-Agent": {c.options.UserAgent}},
		ClientID:   "tagger",
		Credential: auth.StaticCredential(c.endpoint, credential),
		Cache:      importer.NewTokenCache(),

		// Where a registry that an administrator named has its token service is not to
		// be guarded, and for others the dialer is.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
}

// strays reports whether a registry that a tenant chose would have us write elsewhere: to what the tenant cannot reach itself, or may
// not write to.
func (c *client) strays(method string, to *url.URL) bool {
	return c.config.Guarded && method != http.MethodGet && method != http.MethodHead && !strings.EqualFold(to.Host, c.endpoint)
}

func (c *client) astray() error {
	return unavailable("%s has what is written to it go to another host, which the mirror of a namespace may not; check the address in %s", c.endpoint, c.config.Name)
}

// checkRedirect is an http.Client.CheckRedirect. That credentials stay behind when
// a redirect leaves host or port is seen to by auth.Client.
func (c *client) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= maxRedirects:
		return unavailable("%s redirects more than %d times", c.endpoint, maxRedirects)
	case c.strays(req.Method, req.URL):
		return c.astray()
	case req.Method != via[0].Method: // net/http goes on with GET, whose success would mean nothing
		return unavailable("%s redirects what is written to it, as a registry does not; check the address in %s", c.endpoint, c.config.Name)
	}
	return nil
}
