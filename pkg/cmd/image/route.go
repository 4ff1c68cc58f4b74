// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/retry"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// The ways between here and a repository.
const (
	viaAuto      = "auto"
	viaRegistry  = "registry"
	viaAPIServer = "apiserver"
)

const (
	// dialTimeout is how long a registry port may take to be reached, before another way is taken.
	dialTimeout = 5 * time.Second
	// pingTimeout is how long it may take to answer the first time, or each time that this is tried.
	pingTimeout = 30 * time.Second
	// answerTimeout is how long it may take to answer when a request was sent: what is large is written to its disk first.
	answerTimeout = 3 * time.Minute
	// maxRepeats is how often a request is repeated that a registry has no time for.
	maxRepeats = 4
	// maxPause is how long to wait before that at most, whatever the registry says.
	maxPause = 30 * time.Second
	// streams is how many blobs travel at once.
	streams = 6
)

// proxyConnect is the Op of net/http's errors of a proxy by which no connection came about.
const proxyConnect = "proxyconnect"

// tokenUser is the user name beside a token, which is the password. Any would do.
const tokenUser = "kubectl-image" //nolint:gosec // G101: it is a name

// routeFlags say how a repository is reached.
type routeFlags struct {
	via       string
	authority string
	insecure  bool
}

func (f *routeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.via, "via", viaAuto, `The way that the image takes: "registry", to the registry port of the cluster; "apiserver", through kube-apiserver, which is slower and needs nothing but the kubeconfig; or "auto", the first that can be reached.`)
	flags.StringVar(&f.authority, "registry-ca", "", "A `FILE` with certificates, PEM, of authorities to trust at the registry port as well.")
	flags.BoolVar(&f.insecure, "insecure", false, "Do not verify the certificate of the registry port, and use plain HTTP where it has none. Whoever is on the way can then take the token, and change the image.")
	completeFlag(cmd, "via", viaAuto, viaRegistry, viaAPIServer)
}

func (f *routeFlags) validate(cmd *cobra.Command, name remoteName) error {
	switch f.via {
	case viaAuto, viaRegistry:
	case viaAPIServer:
		if name.host != "" {
			return usageError(cmd, "%s names a host, and --via=%s goes to none", name.typed, viaAPIServer)
		}
	default:
		return usageError(cmd, "--via must be %q, %q or %q, not %q", viaAuto, viaRegistry, viaAPIServer, f.via)
	}
	return nil
}

// A route is a way to a repository.
type route struct {
	*remote.Repository
	host  string // what references to the image begin with; empty if the cluster does not say
	words string // for people
}

// routes finds ways to repositories.
type routes struct {
	routeFlags
	session       *session
	clock         clock.PassiveClock
	say           func(line string)
	answerTimeout time.Duration
}

// find returns a way to the repository of an image that can be used.
func (r *routes) find(ctx context.Context, name remoteName) (*route, error) {
	if r.via == viaAPIServer {
		host := "" // which the way does not need, but what is printed of the image
		if token, err := r.session.registryToken(ctx); err == nil {
			host = token.Status.Registry.Host
		}
		return r.throughAPIServer(ctx, name, host)
	}
	token, err := r.session.registryToken(ctx)
	if err != nil {
		if r.via == viaAuto && name.host == "" && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) {
			r.say("going through kube-apiserver: no token for the registry port can be had: " + err.Error())
			return r.throughAPIServer(ctx, name, "")
		}
		return nil, err
	}
	host := name.host
	if host == "" {
		host = token.Status.Registry.Host
	}
	if host == "" {
		if r.via == viaAuto {
			r.say("going through kube-apiserver: the cluster does not say where its registry port is")
			return r.throughAPIServer(ctx, name, "")
		}
		return nil, errors.New("the cluster does not say where its registry port is; name it: HOST:PORT/" + name.repository())
	}
	route, err := r.direct(ctx, name, host, token)
	if unreached := (*unreachedError)(nil); r.via != viaAuto || name.host != "" || !errors.As(err, &unreached) || ctx.Err() != nil {
		return route, err
	}
	r.say("going through kube-apiserver: " + err.Error())
	return r.throughAPIServer(ctx, name, host)
}

// direct is the way to the registry port.
func (r *routes) direct(ctx context.Context, name remoteName, host string, token *v1beta1.RegistryToken) (*route, error) {
	authorities, err := r.authorities(host, token.Status.Registry)
	if err != nil {
		return nil, err
	}
	direct := &directTransport{
		host: host, insecure: r.insecure,
		tokens: &tokens{ask: r.session.registryToken, clock: r.clock, current: token, asked: r.clock.Now()},
		next:   newTransport(authorities, r.insecure, r.answerTimeout),
	}
	if r.insecure {
		r.say("warning: the certificate of " + host + " is not verified: whoever is on the way can take the token, and change the image")
	}
	route := newRoute(direct, host, name)
	route.host, route.words = host, host
	err = ping(ctx, direct, &url.URL{Scheme: "https", Host: host, Path: "/v2/"})
	if r.insecure && speaksNoTLS(err) {
		route.PlainHTTP = true
		err = ping(ctx, direct, &url.URL{Scheme: "http", Host: host, Path: "/v2/"})
	}
	unverified, busy := (*tls.CertificateVerificationError)(nil), (*busyError)(nil)
	switch {
	case err == nil:
		return route, nil
	case errors.As(err, &unverified):
		hint := "Trust another authority with --registry-ca=FILE"
		if name.host == "" {
			hint += ", or go through kube-apiserver with --via=" + viaAPIServer
		}
		return nil, &failure{err: fmt.Errorf("the certificate of %s does not verify, and the token was not sent there: %w", host, unverified.Err), hint: hint}
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case unreachable(err):
		return nil, &unreachedError{fmt.Errorf("%s cannot be reached: %w", host, cause(err))}
	case errors.As(err, &busy) && (busy.code < http.StatusInternalServerError || name.host != ""):
		return nil, busy.at(host, "Try again later.")
	case errors.As(err, &busy): // there may be nothing behind a load balancer
		return nil, &unreachedError{busy.at(host, "Try again later, or go through kube-apiserver with --via="+viaAPIServer)}
	case silent(err):
		return nil, fmt.Errorf("%s does not answer", host)
	case speaksNoTLS(err):
		return nil, &failure{err: fmt.Errorf("%s speaks no TLS, and the token was not sent there", host), hint: "Use plain HTTP with --insecure if that is meant."}
	}
	return nil, fmt.Errorf("%s: %w", host, err)
}

// newTransport returns the connections to a registry port, maybe by the proxy that the environment names.
func newTransport(authorities *x509.CertPool, insecure bool, answerTimeout time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: refusedByProxy,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    min(pingTimeout, answerTimeout),
		ResponseHeaderTimeout:  answerTimeout,
		MaxIdleConnsPerHost:    streams,
		IdleConnTimeout:        time.Minute,
		TLSClientConfig:        &tls.Config{RootCAs: authorities, InsecureSkipVerify: insecure, MinVersion: tls.VersionTLS12}, //nolint:gosec // G402: only where the user says so
	}
}

// refusedByProxy makes what a proxy answers, instead of a connection, an error as of one that does not come about otherwise; net/http
// alone makes a text of it.
func refusedByProxy(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return &net.OpError{Op: proxyConnect, Net: "tcp", Err: fmt.Errorf("the proxy answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))}
}

// throughAPIServer is the way that needs the kubeconfig alone.
func (r *routes) throughAPIServer(ctx context.Context, name remoteName, host string) (*route, error) {
	through, err := newThroughTransport(r.session.config, name)
	if err != nil {
		return nil, err
	}
	route := newRoute(through, throughHost, name)
	route.host, route.words = host, "kube-apiserver"
	err = ping(ctx, through, &url.URL{Scheme: "https", Host: throughHost, Path: "/v2/"})
	if apierrors.IsNotFound(err) {
		err = errors.New("the server does not serve images/proxy, which is the way through kube-apiserver")
	}
	if busy := (*busyError)(nil); errors.As(err, &busy) {
		err = busy.at(route.words, "Try again later.")
	}
	if err != nil {
		return nil, err
	}
	return route, nil
}

// repetition repeats requests that a registry, or Kubernetes, has no time for now, and waits as long as that says, where it does.
type repetition struct{}

// Retry implements retry.Policy.
func (repetition) Retry(attempt int, answer *http.Response, err error) (time.Duration, error) {
	var seconds int
	switch status := apierrors.APIStatus(nil); {
	case attempt == maxRepeats:
		return -1, nil
	case err == nil && heals(answer.StatusCode):
		seconds, _ = strconv.Atoi(answer.Header.Get("Retry-After")) // or a date, which is not looked at
	case errors.As(err, &status) && mayHeal(err):
		seconds, _ = apierrors.SuggestsClientDelay(err)
	default:
		return -1, nil
	}
	pause := time.Duration(min(seconds, int(maxPause/time.Second))) * time.Second
	return max(pause, retry.DefaultBackoff(attempt, nil)), nil
}

func repeating(transport http.RoundTripper) http.RoundTripper {
	return &retry.Transport{Base: transport, Policy: func() retry.Policy { return repetition{} }}
}

func newRoute(transport http.RoundTripper, host string, name remoteName) *route {
	repository := &remote.Repository{
		Client:          &http.Client{Transport: repeating(transport)},
		Reference:       registry.Reference{Registry: host, Repository: name.repository()},
		SkipReferrersGC: true,
	}
	_ = repository.SetReferrersCapability(true) // which fails only the second time
	return &route{Repository: repository}
}

// authorities are whom a registry port is trusted by. At a host that the user named and the cluster does not publish, the
// authority of the cluster counts alone, where it has one: that is no proof of being the cluster's to be on the internet.
func (r *routes) authorities(host string, published v1beta1.RegistryEndpoint) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if host == published.Host || len(published.CABundle) == 0 {
		if all, err := x509.SystemCertPool(); err == nil {
			pool = all
		}
	}
	pool.AppendCertsFromPEM(published.CABundle)
	if r.authority != "" {
		own, err := os.ReadFile(r.authority)
		if err != nil {
			return nil, fmt.Errorf("--registry-ca: %w", err)
		}
		if !pool.AppendCertsFromPEM(own) {
			return nil, fmt.Errorf("--registry-ca: there is no certificate in %s", r.authority)
		}
	}
	return pool, nil
}

// ping asks a registry whether it is one, and lets us in.
func ping(ctx context.Context, transport http.RoundTripper, at *url.URL) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	answer, err := repeating(pinging{transport}).RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusOK:
		return nil
	case answer.StatusCode == http.StatusUnauthorized:
		return errors.New("the registry does not accept the token that the cluster gave")
	case heals(answer.StatusCode):
		return &busyError{answer.StatusCode}
	default:
		return fmt.Errorf("this is no registry, which would not answer %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
}

// pinging bounds how long each answer may take, of which nothing matters but the head.
type pinging struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p pinging) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(request.Context(), pingTimeout)
	defer cancel()
	answer, err := p.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 1<<10)
	_ = answer.Body.Close()
	answer.Body = http.NoBody
	return answer, nil
}

// busyError is of a registry that has no time, however often it is asked.
type busyError struct{ code int }

func (e *busyError) Error() string {
	return fmt.Sprintf("it answers %d %s", e.code, http.StatusText(e.code))
}

// at returns the error of who answers so.
func (e *busyError) at(who, hint string) error {
	state := "is not available"
	if e.code == http.StatusTooManyRequests {
		state = "is busy"
	}
	return &failure{err: fmt.Errorf("%s %s: %w", who, state, e), hint: hint}
}

// unreachedError is of a registry port to which no connection came about, or behind which there is nothing.
type unreachedError struct{ err error }

func (e *unreachedError) Error() string { return e.err.Error() }
func (e *unreachedError) Unwrap() error { return e.err }

// unreachable says whether no connection came about at all.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == proxyConnect)
}

// silent says whether a connection came about, and no answer.
func silent(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout() && !unreachable(err)
}

// speaksNoTLS says whether somebody answered who does not know what TLS is.
func speaksNoTLS(err error) bool {
	var answer tls.RecordHeaderError
	return errors.As(err, &answer)
}

// cause is why a connection did not come about, without the address.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
