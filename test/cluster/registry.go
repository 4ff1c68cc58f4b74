// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is a registry inside, without TLS, that keeps what it has in memory. It answers at Host until it is stopped.
type Registry struct {
	Host   string
	server *http.Server
}

// ServeRegistry starts a registry at a port of the node, and has containerd know that it speaks no TLS.
func (c *Cluster) ServeRegistry(ctx context.Context, port string) (*Registry, error) {
	host := net.JoinHostPort(Address, port)
	folder := filepath.Join(c.HostsDir(), host)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\n", "http://"+host), 0o600); err != nil {
		return nil, err
	}
	listener, err := c.Listen(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // until Stop, or the process ends
	return &Registry{Host: host, server: server}, nil
}

// Stop takes it off the network.
func (r *Registry) Stop() { closeQuietly(r.server) }
