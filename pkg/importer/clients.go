// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"net/http"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/lru"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// keptClients bounds the clients, each of which keeps the tokens of one
	// credential at one host for one scope.
	keptClients = 512
	// keptTokens bounds the tokens of a client: one for each repository.
	keptTokens = 256
	// keptTokenBytes bounds how long those are together, with the scopes that a
	// host names for them.
	keptTokenBytes = 256 << 10
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
	accepted *lru.Cache // route → Credential
	// plain are the hosts of insecure sources that do not speak TLS.
	plain *lru.Cache // host → struct{}
	// noReferrers are the repositories that do not offer the referrers API.
	noReferrers *cache.LRUExpireCache // route → struct{}
	// post are the hosts whose token services do not know GET.
	post *lru.Cache // host → struct{}
}

type clientKey struct {
	scope, host string
	insecure    bool
	credential  Credential
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

		noReferrers: cache.NewLRUExpireCacheWithClock(keptRoutes, o.Clock),
		post:        lru.New(keptRoutes),
	}
}

func (c *clients) get(key clientKey) *auth.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kept, ok := c.kept.Get(key); ok {
		return kept.(*auth.Client)
	}
	w := &wire{
		transports: c.transports, scope: key.scope, host: key.host, insecure: key.insecure,
		secret: !key.credential.anonymous() && !key.credential.InsecureTransport,
	}
	client := &auth.Client{
		Client:     &http.Client{Transport: w, CheckRedirect: w.checkRedirect},
		Header:     http.Header{"User-Agent": {c.userAgent}},
		ClientID:   "tagger",
		Credential: auth.StaticCredential(key.host, key.credential.wire()),
		Cache:      NewTokenCache(),

		ForceAttemptOAuth2: key.post,
		// The guard of the dialer decides, when connecting and with a typed error.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
	c.kept.Add(key, client)
	return client
}

// NewTokenCache returns a cache for auth.Client that is bounded.
func NewTokenCache() auth.Cache { return &boundedCache{Cache: auth.NewCache()} }

// boundedCache starts afresh after many tokens, or long ones: auth.Cache never
// forgets one.
type boundedCache struct {
	mu    sync.Mutex
	count int // of tokens
	bytes int // of tokens and their scopes
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
		b.clear()
	}
	cache := b.Cache
	b.mu.Unlock()
	token, err := cache.Set(ctx, registry, scheme, key, fetch)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes += len(key) + len(token); b.bytes > keptTokenBytes {
		b.clear()
	}
	return token, err
}

func (b *boundedCache) clear() { b.count, b.bytes, b.Cache = 0, 0, auth.NewCache() }
