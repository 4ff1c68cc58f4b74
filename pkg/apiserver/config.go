// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiserver joins everything: the generic API server, the storage of the tagger.dev group, the queue that runs
// imports, and the registry endpoint. It is the one place that knows them all; it owns nothing else.
package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/front"
	clientset "tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/pkg/queue"
	mirrorreleasestorage "tagger.dev/tagger/pkg/registry/tagger/mirrorrelease/storage"
	registrykeystorage "tagger.dev/tagger/pkg/registry/tagger/registrykey/storage"
	"tagger.dev/tagger/pkg/token"
)

// ExtraConfig is what the server needs beside the generic server's configuration; every field is required.
type ExtraConfig struct {
	Importer  queue.Importer
	Keychains queue.Keychains
	Mirrors   queue.Mirrors
	Registry  RegistryConfig
	Clock     clock.WithTicker

	// Identity names this process in the claims of imports; no other has or had it. SoleReplica says that no other runs imports.
	Identity    string
	SoleReplica bool
	// ConcurrentImports is how many attempts of imports run at once, half of them at most of one namespace; ConcurrentImportsPerHost
	// how many at one upstream host.
	ConcurrentImports, ConcurrentImportsPerHost int
	// AttemptTimeout ends an attempt of an import, mirroring included.
	AttemptTimeout time.Duration
	// DrainTimeout is how long attempts that run at the shutdown may go on.
	DrainTimeout time.Duration
	// ReleaseDelay is how long the mirror keeps what an Image does not mean any more.
	ReleaseDelay time.Duration
	// Running returns those of some digests that a Pod of a namespace runs.
	Running func(ctx context.Context, namespace string, digests []digest.Digest) ([]digest.Digest, error)
	// CollectOrphans removes ImageImports whose Image is gone, where no garbage collector runs beside the server.
	CollectOrphans bool
}

// RegistryConfig is what the registry endpoint needs; every field is required but the certificate authority. What callers may do the authorizer of the generic
// API server says.
type RegistryConfig struct {
	Listener net.Listener
	TLS      *tls.Config
	// CertificateAuthority is, in PEM, the authority of what TLS serves; nil where that is of none of Tagger's own.
	CertificateAuthority []byte
	// Host is what references to the endpoint begin with, and whom tokens are for: HOST or HOST:PORT.
	Host string
	// Backend returns what the endpoint serves. Keys are those of all servers on the same etcd, for what it has clients hold.
	Backend func(keys front.Keys) distribution.Backend
	// Tokens says whose a token is. An error is of who was asked, and not of the token.
	Tokens authenticator.Token
	// Deleted is told of deletions that took something from an Image's history.
	Deleted func(ctx context.Context, image *v1beta1.Image, dgst digest.Digest)
	// Limits are those of what is pushed.
	Limits distribution.Options
}

// Config is everything that New needs.
type Config struct {
	Generic *genericapiserver.RecommendedConfig
	Extra   ExtraConfig
}

// CompletedConfig is a Config whose defaults are filled in. Only Complete makes one.
type CompletedConfig struct {
	generic genericapiserver.CompletedConfig
	extra   ExtraConfig
}

// Complete fills in what is derived. Generic must have its authentication, authorisation, storage, serving and versions set.
func (c *Config) Complete() CompletedConfig {
	describeAPI(&c.Generic.Config)
	c.Generic.LongRunningFunc = longRunning
	return CompletedConfig{generic: c.Generic.Complete(), extra: c.Extra}
}

// watchTimeout is how long watches may go on at the shutdown, when the port takes no more requests.
const watchTimeout = time.Second

// uploadSecrets is the purpose of the secrets that seal uploads.
const uploadSecrets = "tagger.dev/upload" //nolint:gosec // a purpose is no secret

// Server is the whole of Tagger's server. Run it once.
type Server struct {
	generic  *genericapiserver.GenericAPIServer
	registry *registryServer
	// retired is closed when the server is asked to stop and nobody sends it new requests any more, as far as that is known.
	retired chan struct{}
}

// New builds a server. ctx ends when the server is asked to stop; it is not what stops it.
func (c CompletedConfig) New(ctx context.Context) (*Server, error) {
	generic, err := c.generic.New("tagger-apiserver", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("building the API server: %w", err)
	}
	// Requests have ended before the port closes. What is left are watches, which would go on for hours and which clients begin
	// again elsewhere, and connections that were being opened, the loopback client's for one.
	generic.ShutdownTimeout = watchTimeout
	client, err := clientset.NewForConfig(unlimited(c.generic.LoopbackClientConfig))
	if err != nil {
		return nil, fmt.Errorf("building the loopback client: %w", err)
	}
	mirrorReleases, mirrorReleaseStatus, err := mirrorreleasestorage.NewREST(Scheme, c.generic.RESTOptionsGetter, c.extra.Clock)
	if err != nil {
		return nil, fmt.Errorf("storage of mirrorreleases: %w", err)
	}
	imports, err := queue.New(queue.Config{
		Client:         client,
		Releases:       releases{mirrorReleases},
		Identity:       c.extra.Identity,
		SoleReplica:    c.extra.SoleReplica,
		Importer:       c.extra.Importer,
		Keychains:      c.extra.Keychains,
		Mirrors:        c.extra.Mirrors,
		Clock:          c.extra.Clock,
		Workers:        c.extra.ConcurrentImports,
		PerHost:        c.extra.ConcurrentImportsPerHost,
		PerNamespace:   (c.extra.ConcurrentImports + 1) / 2,
		AttemptTimeout: c.extra.AttemptTimeout,
		DrainTimeout:   c.extra.DrainTimeout,
		ReleaseDelay:   c.extra.ReleaseDelay,
		Running:        c.extra.Running,
		CollectOrphans: c.extra.CollectOrphans,
	})
	if err != nil {
		return nil, fmt.Errorf("building the import queue: %w", err)
	}
	keys, err := registrykeystorage.New(Scheme, c.generic.RESTOptionsGetter)
	if err != nil {
		return nil, fmt.Errorf("storage of registrykeys: %w", err)
	}
	generic.RegisterDestroyFunc(keys.Destroy)
	tokens := token.NewRing(keys, c.extra.Registry.Host, c.extra.Clock)
	group, pushes, err := c.groupInfo(imports, mirrorReleases, mirrorReleaseStatus, tokens, ctx.Done())
	if err != nil {
		return nil, err
	}
	content := c.extra.Registry.Backend(func(ctx context.Context) ([][]byte, error) { return tokens.Secrets(ctx, uploadSecrets, front.KeyBytes) })
	backend := &imageBackend{
		Backend: content, pushes: pushes, history: imports, host: c.extra.Registry.Host, deleted: c.extra.Registry.Deleted,
	}
	server := &Server{generic: generic, retired: make(chan struct{})}
	proxied, err := c.proxied(generic, backend, server.retired)
	if err != nil {
		return nil, err
	}
	group.VersionedResourcesStorageMap[v1beta1.SchemeGroupVersion.Version]["images/proxy"] = proxied
	if err := generic.InstallAPIGroup(group); err != nil {
		return nil, fmt.Errorf("installing %s: %w", group.PrioritizedVersions[0].Group, err)
	}
	if err := addImports(generic, imports); err != nil {
		return nil, err
	}
	server.registry = newRegistryServer(&c.extra.Registry, backend, tokens, c.generic.Authorization.Authorizer)
	// Before the API closes, by which pushes are recorded.
	if err := generic.AddPreShutdownHook("tagger-registry", func() error {
		<-server.retired
		server.registry.stop()
		return nil
	}); err != nil {
		return nil, err
	}
	return server, nil
}

// Run serves until ctx ends, then drains: imports that run may end, requests are answered, and both ports close.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(s.generic.ShutdownDelayDuration, func() { close(s.retired) })
	})
	defer stop() // where the API did not start
	s.registry.start(ctx)
	defer s.registry.close() // where the API did not start
	return s.generic.PrepareRun().RunWithContext(ctx)
}

// unlimited returns the loopback client's configuration without a client-side limit: the server does not throttle itself.
func unlimited(loopback *rest.Config) *rest.Config {
	config := rest.CopyConfig(loopback)
	config.QPS = -1
	return config
}
