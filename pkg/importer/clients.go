// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"net/http"
	"net/netip"
	"sync"

	"k8s.io/utils/lru"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// keptClients bounds the clients, each of which keeps the tokens of one
	// credential at one host for one scope.
	keptClients = 512
	// keptTokens bounds the tokens of a client: one for each repository.
	keptTokens = 256
	// keptRoutes bounds what is remembered to spare requests.
	keptRoutes = 4096
)

// clients keeps authenticating clients, and what was learned about sources.
type clients struct {
	transports *transports
	userAgent  string

	mu   sync.Mutex
	kept *lru.Cache // clientKey → *auth.Client
	// accepted is the credential that a repository accepted last.
	accepted *lru.Cache // route → auth.Credential
	// plain are the hosts of insecure sources that do not speak TLS.
	plain *lru.Cache // host → struct{}
	// noReferrers are the hosts that do not offer the referrers API.
	noReferrers *lru.Cache // host → struct{}
	// post are the hosts whose token services do not know GET.
	post *lru.Cache // host → struct{}
}

type clientKey struct {
	scope, host string
	insecure    bool
	credential  auth.Credential
	// post: tokens are asked for by OAuth2's POST, also with a password.
	post bool
}

type route struct {
	scope, host, repository string
	insecure                bool
}

func newClients(o Options) *clients {
	return &clients{
		transports: newTransports(o),
		userAgent:  o.UserAgent,
		kept:       lru.New(keptClients),
		accepted:   lru.New(keptRoutes),
		plain:      lru.New(keptRoutes),

		noReferrers: lru.New(keptRoutes),
		post:        lru.New(keptRoutes),
	}
}

func (c *clients) get(key clientKey) *auth.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kept, ok := c.kept.Get(key); ok {
		return kept.(*auth.Client)
	}
	w := &wire{transports: c.transports, insecure: key.insecure, secret: key.credential != auth.EmptyCredential}
	client := &auth.Client{
		Client:     &http.Client{Transport: w, CheckRedirect: w.checkRedirect},
		Header:     http.Header{"User-Agent": {c.userAgent}},
		ClientID:   "tagger",
		Credential: auth.StaticCredential(key.host, key.credential),
		Cache:      &boundedCache{Cache: auth.NewCache()},

		ForceAttemptOAuth2: key.post,
		// The guard of the dialer decides, when connecting and with a typed error.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
	c.kept.Add(key, client)
	return client
}

// boundedCache starts afresh after many tokens: auth.Cache never forgets one.
type boundedCache struct {
	mu    sync.Mutex
	count int
	auth.Cache
}

func (b *boundedCache) current() auth.Cache {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Cache
}

func (b *boundedCache) GetScheme(ctx context.Context, registry string) (auth.Scheme, error) {
	return b.current().GetScheme(ctx, registry)
}

func (b *boundedCache) GetToken(ctx context.Context, registry string, scheme auth.Scheme, key string) (string, error) {
	return b.current().GetToken(ctx, registry, scheme, key)
}

func (b *boundedCache) Set(ctx context.Context, registry string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error)) (string, error) {
	b.mu.Lock()
	if b.count++; b.count > keptTokens {
		b.count, b.Cache = 0, auth.NewCache()
	}
	cache := b.Cache
	b.mu.Unlock()
	return cache.Set(ctx, registry, scheme, key, fetch)
}
