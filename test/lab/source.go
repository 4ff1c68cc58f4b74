// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lab is the outside world of tests: a registry on loopback that counts what it is asked and misbehaves on command.
// It owns sources, the certificates that they show and the faults; it knows nothing of Tagger, so that tests of every level
// can use it.
//
// A source is the registry of go-containerregistry, reached over a transport that a test chooses. What that registry cannot
// hold (digests that are not sha256, documents that are none, more than fits in memory) is put on a shelf in front of it.
// Everything may be used concurrently.
package lab

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Transport is how a source is reached.
type Transport int

// Transports.
const (
	// TrustedTLS shows a certificate that Authority has signed.
	TrustedTLS Transport = iota
	// UnknownCA shows one that somebody else has signed.
	UnknownCA
	// Expired shows one that Authority signed, and that ended an hour ago.
	Expired
	// WrongName shows one that Authority signed for another address.
	WrongName
	// PlainHTTP speaks no TLS.
	PlainHTTP
)

// Source is a registry of the outside world.
type Source struct {
	// Host is where it answers, as address:port.
	Host string

	// prefix begins the names of its repositories, and of no other source's: a server may go on to ask for what was at the
	// same port before.
	prefix  string
	shelf   *shelf
	server  *httptest.Server
	clients atomic.Int32

	mu    sync.Mutex
	seen  []string // "METHOD manifests" or "METHOD blobs", and other paths as they are
	fault Fault
}

var sources atomic.Int32

// New returns a source that behaves, until the test ends.
func New(t testing.TB, transport Transport) *Source {
	t.Helper()
	s := &Source{
		prefix: fmt.Sprintf("outside-%d", sources.Add(1)),
		shelf:  newShelf(registry.New(registry.Logger(log.New(io.Discard, "", 0)))),
	}
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.clients.Add(1)
		}
	}
	if transport == PlainHTTP {
		s.server.Start()
	} else {
		s.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificateFor(t, transport)}, MinVersion: tls.VersionTLS12}
		s.server.StartTLS()
	}
	_, s.Host, _ = strings.Cut(s.server.URL, "://")
	t.Cleanup(s.Close)
	return s
}

// Close takes the registry off the network. What hangs in it is let go.
func (s *Source) Close() {
	s.server.CloseClientConnections()
	s.server.Close()
}

func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v2/outside-") && !strings.HasPrefix(r.URL.Path, "/v2/"+s.prefix+"/") {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+subject(r))
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		fault(w, r, s.shelf)
		return
	}
	s.shelf.ServeHTTP(w, r)
}

// subject is what a request asks for: manifests, blobs, referrers, or its path.
func subject(r *http.Request) string {
	for _, subject := range []string{Manifests, Blobs, Referrers} {
		if strings.Contains(r.URL.Path, "/"+subject+"/") {
			return subject
		}
	}
	return r.URL.Path
}

// Misbehave has all requests answered by a fault from now on; nil heals the source.
func (s *Source) Misbehave(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Requests counts and forgets what the source was asked, by method and subject as in "GET manifests", and other paths than
// those of the subjects as they are.
func (s *Source) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[string]int{}
	for _, request := range s.seen {
		count[request]++
	}
	s.seen = nil
	return count
}

// Connections counts those that were ever opened.
func (s *Source) Connections() int { return int(s.clients.Load()) }

// URL returns the address of a path at this source.
func (s *Source) URL(path string) string { return s.server.URL + path }

// Reference returns the reference REPOSITORY[:TAG] of this source.
func (s *Source) Reference(repository string) string {
	return s.Host + "/" + s.prefix + "/" + repository
}

// Push puts an image or an index into the registry by the back door, neither counted nor disturbed.
func (s *Source) Push(t testing.TB, repository string, content remote.Taggable) {
	t.Helper()
	if err := remote.Push(s.Name(t, repository), content, s.Options()...); err != nil {
		t.Fatalf("pushing to the source: %v", err)
	}
}

// Delete deletes a tag or a manifest, REPOSITORY:TAG or REPOSITORY@DIGEST, by the back door.
func (s *Source) Delete(t testing.TB, reference string) {
	t.Helper()
	if err := remote.Delete(s.Name(t, reference), s.Options()...); err != nil {
		t.Errorf("deleting at the source: %v", err)
	}
}

// Name returns a reference of this source for clients that use the back door.
func (s *Source) Name(t testing.TB, repository string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.Reference(repository), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// Options are for clients that use the back door.
func (s *Source) Options() []remote.Option {
	return []remote.Option{remote.WithTransport(backDoor{s.shelf}), remote.WithJobs(1)}
}

// backDoor is a transport to a handler that no network lies before.
type backDoor struct{ handler http.Handler }

func (b backDoor) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	request := r.Clone(r.Context())
	if request.Body == nil {
		request.Body = http.NoBody
	}
	b.handler.ServeHTTP(recorder, request)
	response := recorder.Result()
	response.Request = r
	return response, nil
}
