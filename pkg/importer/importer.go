// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"context"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"time"

	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/limit"
)

// Source is where to import from.
type Source struct {
	Reference Reference
	// Insecure accepts unverified TLS and, where the host does not speak TLS,
	// plain HTTP. Only credentials with InsecureTransport are sent then, except to
	// loopback.
	Insecure bool
	// Scope is the Kubernetes namespace. Tokens are never shared between scopes.
	Scope string
	// Keychain is never nil.
	Keychain Keychain
}

// Options of an Importer. The zero value is usable and safe.
type Options struct {
	// AllowLoopback lets sources, their token services and redirects be on
	// loopback addresses. Default false.
	AllowLoopback bool
	// RefusePrivate also refuses private addresses (RFC 1918, RFC 6598, RFC 4193).
	// Default false.
	RefusePrivate bool
	// OwnHosts are the addresses, as host or host:port, of Tagger's own registry
	// endpoint. A source there is Blocked. Default none.
	OwnHosts []string
	// Admit refuses further sources before they are asked, with an *Error that says
	// why; see mirror.Locator.Admit. It is asked as well about repositories that a
	// source leads to, by a redirect or as its token service: the Source is without
	// a Keychain then. Default nil: it refuses none.
	Admit func(ctx context.Context, src Source) error

	// AllowedRegistries, where there are any, are the only sources. Their token
	// services and redirects may be elsewhere. A pattern without a port means the
	// default one. Default none: all are allowed.
	AllowedRegistries HostPatterns
	// BlockedRegistries are no sources, nor may one lead there. A pattern without
	// a port means every port. Default none.
	BlockedRegistries HostPatterns
	// RefuseInsecure refuses every Source that is Insecure. Default false.
	RefuseInsecure bool

	// RootCAs verify sources. Default nil: those of the system.
	RootCAs *x509.CertPool
	// HostCAs verify single hosts, by Reference.Host, in place of RootCAs. See
	// LoadHostCAs. Default none.
	HostCAs map[string]*x509.CertPool
	// Proxy chooses the proxy of a request, as http.ProxyFromEnvironment does.
	// The address of a proxy is not guarded; the names of targets are, where they
	// can be resolved. Default nil: no proxy.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is sent with every request. Default "tagger".
	UserAgent string

	// CredentialsPlace names, in the texts of errors, where people keep the
	// credentials for sources: "Secrets of this namespace", for example. Default
	// empty: the texts do not say.
	CredentialsPlace string
	// InsecureRemedy names, in the texts of errors, what lets credentials travel to
	// insecure sources. Default empty: nothing does.
	InsecureRemedy string

	// StreamsPerHost is how many blobs are read at once from one upstream host.
	// Default 8.
	StreamsPerHost int
	// Streams is how many blobs are read at once in all. Default 32.
	Streams int

	// MaxManifestBytes is the largest manifest, in bytes. All manifests of one
	// image together may have eight times as much, for they are held in memory.
	// Default 4 MiB, which is what registries accept.
	MaxManifestBytes int64
	// MaxManifests is how many manifests one image may have in all, indexes
	// included. Default 1000.
	MaxManifests int
	// MaxDepth is how many manifests may lie below one another, the root
	// included: an index of images has two. Default 4.
	MaxDepth int
	// MaxImageBytes is the largest image to mirror: the bytes of its distinct
	// blobs. Default 0: no limit.
	MaxImageBytes int64

	// ConnectTimeout bounds connecting, and the TLS handshake apart from it.
	// Default 15 s.
	ConnectTimeout time.Duration
	// HeaderTimeout bounds the wait for the header of a response. Default 30 s.
	HeaderTimeout time.Duration
	// IdleTimeout bounds the wait for the next byte of a body; a slow blob that
	// keeps moving is not cut. Default 60 s.
	IdleTimeout time.Duration
	// DocumentTimeout bounds how long the body of everything but a blob may take:
	// manifests, tokens, errors. Default 60 s.
	DocumentTimeout time.Duration

	// Clock tells when a tag was resolved and when a pause is over. Default the
	// real one.
	Clock clock.PassiveClock
}

// withDefaults returns o with every zero field set that has a default.
func (o Options) withDefaults() Options {
	o.UserAgent = cmp.Or(o.UserAgent, "tagger")
	o.StreamsPerHost = cmp.Or(o.StreamsPerHost, 8)
	o.Streams = cmp.Or(o.Streams, 32)
	o.MaxManifestBytes = cmp.Or(o.MaxManifestBytes, 4<<20)
	o.MaxManifests = cmp.Or(o.MaxManifests, 1000)
	o.MaxDepth = cmp.Or(o.MaxDepth, 4)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 15*time.Second)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, 30*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.DocumentTimeout = cmp.Or(o.DocumentTimeout, time.Minute)
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return o
}

// Importer resolves and mirrors. It keeps connections and tokens, and holds the
// limits of its Options over all calls. All methods may be called concurrently.
type Importer struct {
	options  Options
	ownHosts []string
	clients  *clients
	resolves *joins
	// hosts and streams are the places of blob streams; blobs lets one of several
	// equal downloads go first.
	hosts, streams, blobs *limit.Keyed
	// shares are those of one scope among streams.
	shares *limit.Keyed
	pauses *pauses
}

// New returns an Importer.
func New(o Options) *Importer {
	o = o.withDefaults()
	i := &Importer{
		options: o,
		clients: newClients(o),

		resolves: newJoins(),
		hosts:    limit.NewKeyed(o.StreamsPerHost),
		streams:  limit.NewKeyed(o.Streams),
		shares:   limit.NewKeyed(limit.Share(o.Streams)),
		blobs:    limit.NewKeyed(1),
		pauses:   newPauses(o.Clock),
	}
	for _, host := range o.OwnHosts {
		i.ownHosts = append(i.ownHosts, registryAt(host))
	}
	return i
}

// own reports whether a reference is of Tagger's own registry endpoint.
func (i *Importer) own(ref Reference) bool {
	return slices.Contains(i.ownHosts, ref.Registry())
}
