// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/token"
)

const (
	// headerTimeout bounds how long a client of the registry endpoint may take to send its request's header; idleTimeout how
	// long a connection may wait for the next request. Bodies take as long as they take.
	headerTimeout = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	// maxHeaderBytes bounds a request's header.
	maxHeaderBytes = 64 << 10
	// maxConnections bounds how many connections there are: with headers that never end each may hold maxHeaderBytes, in a process
	// that serves the API too.
	maxConnections = 4096
	// maxStreams bounds how many requests one of them has at once.
	maxStreams = 100
	// closeTimeout is how long uploads and downloads may go on at the shutdown.
	closeTimeout = 10 * time.Second
)

// registryServer serves the registry endpoint on its own port.
type registryServer struct {
	config *RegistryConfig
	server *http.Server
}

func newRegistryServer(config *RegistryConfig, backend distribution.Backend, tokens *token.Ring, authz authorizer.Authorizer) *registryServer {
	callers := &callers{own: tokens, others: config.Tokens}
	options := config.Limits
	options.Service, options.Tokens = config.Host, &handshake{callers, authz}
	take := cmp.Or(options.TakeTimeout, distribution.DefaultTakeTimeout)
	return &registryServer{config: config, server: &http.Server{
		Handler:           newCounted("port", distribution.New(backend, &layersAuthorizer{callers, authz}, options)),
		TLSConfig:         config.TLS,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Of what the server answers itself. The handler puts it off for as long as its answer moves.
		WriteTimeout: take,
		HTTP2:        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: take},
	}}
}

func (r *registryServer) start(ctx context.Context) {
	go func() {
		if err := r.server.ServeTLS(netutil.LimitListener(r.config.Listener, maxConnections), "", ""); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(ctx).Error(err, "The registry endpoint has stopped")
		}
	}()
}

// stop takes no more requests, and lets those end that are under way.
func (r *registryServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil {
		r.close() // what would take longer is cut off
	}
}

func (r *registryServer) close() { _ = r.server.Close() }
