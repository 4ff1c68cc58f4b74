// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"crypto/x509"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"oras.land/oras-go/v2/registry/remote/auth"

	"tagger.dev/tagger/pkg/importer"
)

// Options hold for all mirrors. The zero value is usable.
type Options struct {
	// Guard looks at the addresses of mirrors that a tenant chose.
	Guard importer.Guard
	// RootCAs verify mirrors. Default nil: those of the system.
	RootCAs *x509.CertPool
	// Proxy chooses the proxy of a request, as http.ProxyFromEnvironment does.
	// Default nil: no proxy.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is sent with every request. Default "tagger".
	UserAgent string

	// Connections is how many are kept open to a mirror that is not in use, and how
	// many requests Complete has under way at once. Default 8.
	Connections int
	// MaxManifestBytes is the largest manifest, in bytes. Default 4 MiB.
	MaxManifestBytes int64

	// ConnectTimeout bounds connecting, and the TLS handshake apart from it.
	// Default 15 s.
	ConnectTimeout time.Duration
	// DocumentTimeout bounds every request that sends no blob, and the body of the
	// answer to one that does. Default 60 s.
	DocumentTimeout time.Duration
	// StallTimeout bounds how long a registry may take or give no byte of a blob.
	// Default 60 s.
	StallTimeout time.Duration
	// StoreTimeout bounds how long a registry may take to store a blob that it has
	// received, which some copy then. Default 10 min.
	StoreTimeout time.Duration

	// Clock tells how old is what is remembered, and when to look again. Default the
	// real one.
	Clock clock.Clock
}

func (o Options) withDefaults() Options {
	o.UserAgent = cmp.Or(o.UserAgent, "tagger")
	o.Connections = cmp.Or(o.Connections, 8)
	o.MaxManifestBytes = cmp.Or(o.MaxManifestBytes, 4<<20)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 15*time.Second)
	o.DocumentTimeout = cmp.Or(o.DocumentTimeout, time.Minute)
	o.StallTimeout = cmp.Or(o.StallTimeout, time.Minute)
	o.StoreTimeout = cmp.Or(o.StoreTimeout, 10*time.Minute)
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return o
}

const (
	// keptHolders bounds what is remembered of where blobs lie.
	keptHolders = 8192
	// keptRecent bounds the manifests that are kept for the tags that they may get,
	// and maxRecentBytes the size of each.
	keptRecent     = 32
	maxRecentBytes = 256 << 10
	// referrersFor is how long a registry is taken at its word whether it has the
	// referrers API.
	referrersFor = time.Hour
)

// Registry is a mirror. It keeps connections and tokens, and what it learned of
// the registry. Its methods may be called concurrently.
type Registry struct {
	*client
	wire *wire
	// holders remember which repository holds a blob.
	holders *lru.Cache // holding → string
	// mounts says whether the registry mounts a blob of a repository into that
	// itself, so that one request tells whether it is there or else begins to upload.
	mounts atomic.Int32
	// recent has the manifest that was pushed last to a repository.
	recent *lru.Cache // path → recent
	// referrers has whether the registry has the referrers API, while that is known.
	referrers *cache.LRUExpireCache // struct{} → bool
	// indexing is held while a tag of the referrers' scheme is written: it is read
	// before. Other replicas may write it all the same; see reindex and Complete.
	indexing chan struct{}
}

// holding is a blob of a Kubernetes namespace.
type holding struct {
	namespace string
	digest    digest.Digest
}

// Values of Registry.mounts.
const (
	mountsUnknown = iota
	mountsAsked
	mountsYes
	mountsNo
)

// NewRegistry returns the mirror of a configuration, without asking it anything.
// An error is an *importer.Error of Kind MirrorUnavailable.
func NewRegistry(config Config, options Options) (*Registry, error) {
	options = options.withDefaults()
	ref, err := importer.ParseReference(config.Host + "/x")
	if err != nil {
		return nil, importer.NewError(importer.MirrorUnavailable, err, "the mirror cannot be used: the host of %s is not valid", config.Name)
	}
	roots := options.RootCAs
	if config.CA != "" {
		if roots, err = withAuthorities(roots, config.CA); err != nil {
			return nil, importer.NewError(importer.MirrorUnavailable, err, "the mirror cannot be used: the certificates of this server cannot be read")
		}
	}
	r := &Registry{
		client:    &client{config: config, options: options, endpoint: ref.Endpoint()},
		wire:      newWire(config, options, roots),
		holders:   lru.New(keptHolders),
		recent:    lru.New(keptRecent),
		referrers: cache.NewLRUExpireCacheWithClock(1, options.Clock),
		indexing:  make(chan struct{}, 1),
	}
	for _, credential := range config.credentials() {
		r.credentials = append(r.credentials, r.newAuthClient(r.wire, credential))
	}
	return r, nil
}

// withAuthorities adds some to those of the system, or to others.
func withAuthorities(roots *x509.CertPool, pem string) (*x509.CertPool, error) {
	if roots == nil {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			return nil, err
		}
	}
	roots = roots.Clone()
	roots.AppendCertsFromPEM([]byte(pem))
	return roots, nil
}

// credentials returns the ways in which those of a Config may be meant, in the
// order in which they are tried. There is always one.
func (c Config) credentials() []auth.Credential {
	plain := auth.Credential{Username: c.Username, Password: c.Password}
	if c.Token == "" {
		return []auth.Credential{plain}
	}
	refresh, access := plain, plain
	refresh.RefreshToken, access.AccessToken = c.Token, c.Token
	if c.Password == "" {
		return []auth.Credential{refresh, access}
	}
	return []auth.Credential{refresh, access, plain}
}

// Close gives connections back that nobody uses. What is under way goes on.
func (r *Registry) Close() { r.wire.close() }

// Repository returns the repository of an Image as one import writes to it, and
// the name by which nodes pull from it, without tag or digest. An error is an
// *importer.Error of Kind Invalid.
func (r *Registry) Repository(namespace, image string) (*Repository, string, error) {
	path, pullName, err := r.config.repository(namespace, image)
	if err != nil {
		return nil, "", err
	}
	return &Repository{registry: r, namespace: namespace, path: path, sessions: map[digest.Digest]*url.URL{}}, pullName, nil
}
