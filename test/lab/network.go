// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// Places where no registry is. No packet leaves the machine for any of them.
const (
	// NoSuchName has a label that is longer than DNS allows, so that no resolver needs to be asked.
	NoSuchName = "a-label-of-more-than-sixty-three-letters-which-no-domain-name-can-have.example"
	// NoRoute is the limited broadcast address, to which no connection can be made.
	NoRoute = "255.255.255.255:5000"
	// LinkLocal is where clouds have their metadata.
	LinkLocal = "169.254.169.254"
)

// Silent returns the host of a server that accepts connections and says nothing.
func Silent(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // that nobody accepts is not known to who connects
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

// Proxy returns the URL of an HTTP proxy that connects everybody to target, whatever was asked for.
func Proxy(t testing.TB, target string) *url.URL {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dialer := net.Dialer{}
		server, err := dialer.DialContext(r.Context(), "tcp", target)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = server.Close() }()
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		var upwards sync.WaitGroup
		upwards.Go(func() { _, _ = io.Copy(server, client) })
		_, _ = io.Copy(client, server)
		_ = client.Close()
		upwards.Wait()
	}))
	t.Cleanup(proxy.Close)
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	return address
}
