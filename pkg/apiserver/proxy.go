// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/waitgroup"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/limit"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
)

const (
	// proxiedPerUser and proxied bound how many requests to images/proxy there are at once. Neither priority and fairness nor the
	// limit of requests in flight sees them, since they run for as long as an upload does. A client moves four to eight blobs at
	// once; each request has buffers of some hundred kilobytes on the way. One namespace, whose tenant may have many accounts, has a
	// share of them.
	proxiedPerUser = 32
	proxied        = 256
)

// longRunning tells the requests that no timeout ends: watches, and what moves blobs, as kube-apiserver has it for any proxy.
var longRunning = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString("proxy"))

// proxy serves the registry endpoint of one image on the API port, below the path of the Image, for whose network reaches only
// kube-apiserver. Who asks, and for which Image, is in the context of the request.
type proxy struct {
	endpoint                 http.Handler
	users, namespaces, total *limit.Keyed
	underWay                 waitgroup.SafeWaitGroup
}

func newProxy(backend distribution.Backend, authz authorizer.Authorizer, limits distribution.Options) *proxy {
	return &proxy{
		endpoint:   newCounted("proxy", distribution.New(backend, &proxyAuthorizer{authz}, limits)),
		users:      limit.NewKeyed(proxiedPerUser),
		namespaces: limit.NewKeyed(limit.Share(proxied)),
		total:      limit.NewKeyed(proxied),
	}
}

// ServeHTTP implements http.Handler. That the user may use images/proxy has been checked, and images/layers is checked here.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// What is stored was pushed by somebody, and kube-apiserver's origin is worth more to a browser than a registry's.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	if err := p.serve(w, r); err != nil { // before anything was answered
		distribution.Refuse(w, err)
	}
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) error {
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok {
		return errors.New("the request has no info")
	}
	caller, ok := request.UserFrom(r.Context())
	if !ok {
		return errors.New("the request has no user")
	}
	prefix := proxyPrefix(info.Namespace, info.Name)
	if err := pathOf(strings.TrimPrefix(r.URL.Path, prefix), distribution.Repository{Namespace: info.Namespace, Name: info.Name}); err != nil {
		return err
	}
	leave, err := p.enter(caller.GetName(), info.Namespace)
	if err != nil {
		return err
	}
	defer leave()
	distribution.Under(prefix, p.endpoint).ServeHTTP(w, r)
	return nil
}

// proxyPrefix returns what the path of the endpoint of an image follows.
func proxyPrefix(namespace, name string) string {
	return "/apis/" + v1beta1.SchemeGroupVersion.String() + "/namespaces/" + namespace + "/images/" + name + "/proxy"
}

// pathOf checks that a path of the endpoint is that of a repository, or of the endpoint itself.
func pathOf(path string, repo distribution.Repository) error {
	const root = "/v2/"
	switch {
	case path == root, strings.HasPrefix(path, root+repo.String()+"/"):
		return nil
	case strings.HasPrefix(path, root):
		return distribution.ErrNameUnknown
	default:
		return distribution.ErrEndpointUnknown
	}
}

// enter takes the places that a request needs, the user's own first: who has none of those does not hold what others share.
func (p *proxy) enter(user, namespace string) (leave func(), err error) {
	if p.underWay.Add(1) != nil {
		return nil, distribution.ErrUnavailable
	}
	releases := []func(){p.underWay.Done}
	leave = func() {
		for _, release := range slices.Backward(releases) {
			release()
		}
	}
	for _, place := range []struct {
		limit, whose string
		limit.Place
	}{
		{"user", "of yours", limit.Place{Of: p.users, Key: user}},
		{"namespace", "for this namespace", limit.Place{Of: p.namespaces, Key: namespace}},
		{"total", "of all users", limit.Place{Of: p.total}},
	} {
		release, ok := place.Of.TryAcquire(place.Key)
		if !ok {
			leave()
			proxyRefused.WithLabelValues(place.limit).Inc()
			return nil, distribution.Explain(distribution.ErrTooMany,
				"as many requests %s to images/proxy are under way as may be: try again when one has ended", place.whose)
		}
		releases = append(releases, release)
	}
	proxyInFlight.Inc()
	releases = append(releases, proxyInFlight.Dec)
	return leave, nil
}

// drain lets requests end that are under way, as the registry port does, and begins no others. The generic server does not wait for
// what is long running.
func (p *proxy) drain() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.underWay.Wait()
	}()
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-ended:
	case <-timeout.C:
		klog.Background().Info("Requests to images/proxy are cut off")
	}
}

// proxyAuthorizer lets the user of a request do what that may do with images/layers, in the namespace that the request names: a
// push mounts blobs of other repositories there.
type proxyAuthorizer struct {
	authorizer authorizer.Authorizer
}

// Authorize implements distribution.Authorizer. Credentials that are sent along are not looked at: they were, if at all, for
// kube-apiserver.
func (a *proxyAuthorizer) Authorize(ctx context.Context, _ distribution.Credentials, repo distribution.Repository,
	action distribution.Action) (context.Context, error) {
	if repo == (distribution.Repository{}) {
		return ctx, nil
	}
	caller, known := request.UserFrom(ctx)
	info, hasInfo := request.RequestInfoFrom(ctx)
	if !known || !hasInfo || info.Namespace != repo.Namespace {
		return nil, distribution.ErrDenied
	}
	return ctx, authorizeLayers(ctx, a.authorizer, caller, repo, action)
}

// proxied returns the storage of images/proxy, which serves backend. The server waits for it at its shutdown, from when it is retired.
func (c CompletedConfig) proxied(server *genericapiserver.GenericAPIServer, backend distribution.Backend, retired <-chan struct{}) (*imagestorage.ProxyREST, error) {
	p := newProxy(backend, c.generic.Authorization.Authorizer, c.extra.Registry.Limits)
	return imagestorage.NewProxyREST(p), server.AddPreShutdownHook("tagger-images-proxy", func() error {
		<-retired
		p.drain()
		return nil
	})
}
