// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/client-go/util/cert"
)

// source is a registry of the outside world. It counts what it is asked and can be told to misbehave.
type source struct {
	host string
	// prefix begins the names of its repositories, and of no other source's: a server may go on to ask for what was at the
	// same port before.
	prefix   string
	registry http.Handler
	server   *httptest.Server

	mu    sync.Mutex
	seen  []string // "METHOD manifests" or "METHOD blobs", and other paths as they are
	fault fault
}

// fault answers a request in place of the registry.
type fault func(w http.ResponseWriter, r *http.Request, registry http.Handler)

// transportKind is how a source is reached.
type transportKind int

const (
	trustedTLS transportKind = iota
	unknownTLS
	plainHTTP
)

var sources atomic.Int32

func newSource(t *testing.T, kind transportKind) *source {
	t.Helper()
	s := &source{
		prefix:   fmt.Sprintf("outside-%d", sources.Add(1)),
		registry: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
	}
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	switch kind {
	case plainHTTP:
		s.server.Start()
	case unknownTLS:
		certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		s.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		s.server.StartTLS()
	case trustedTLS:
		s.server.StartTLS()
	}
	_, s.host, _ = strings.Cut(s.server.URL, "://")
	t.Cleanup(s.close)
	return s
}

// close takes the registry off the network. What hangs in it is let go.
func (s *source) close() {
	s.server.CloseClientConnections()
	s.server.Close()
}

func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v2/outside-") && !strings.HasPrefix(r.URL.Path, "/v2/"+s.prefix+"/") {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+subject(r))
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		fault(w, r, s.registry)
		return
	}
	s.registry.ServeHTTP(w, r)
}

// subject is what a request asks for: manifests, blobs, or its path.
func subject(r *http.Request) string {
	for _, subject := range []string{"manifests", "blobs"} {
		if strings.Contains(r.URL.Path, "/"+subject+"/") {
			return subject
		}
	}
	return r.URL.Path
}

// misbehave has all requests answered by a fault from now on; nil heals the source.
func (s *source) misbehave(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// requests counts and forgets what the source was asked, by method and subject.
func (s *source) requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[string]int{}
	for _, request := range s.seen {
		count[request]++
	}
	s.seen = nil
	return count
}

// reference returns the reference REPOSITORY[:TAG] of this source.
func (s *source) reference(repository string) string {
	return s.host + "/" + s.prefix + "/" + repository
}

// push puts an image or an index into the registry by the back door, neither counted nor disturbed.
func (s *source) push(t *testing.T, repository string, content remote.Taggable) {
	t.Helper()
	if err := remote.Push(s.name(t, repository), content, s.options()...); err != nil {
		t.Fatalf("pushing to the source: %v", err)
	}
}

func (s *source) name(t *testing.T, repository string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.reference(repository), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// options are for clients that use the back door.
func (s *source) options() []remote.Option {
	return []remote.Option{remote.WithTransport(backDoor{s.registry}), remote.WithJobs(1)}
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

// answering answers everything with a status and a body.
func answering(status int, contentType, body string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// only lets a fault answer the requests for a subject, by any method but HEAD, and the registry all others.
func only(wanted string, f fault) fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if r.Method != http.MethodHead && subject(r) == wanted {
			f(w, r, registry)
			return
		}
		registry.ServeHTTP(w, r)
	}
}

// altering changes the body of the registry's answer and nothing of its header. A body that becomes shorter ends with the
// connection.
func altering(change func([]byte) []byte) fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		recorder := httptest.NewRecorder()
		registry.ServeHTTP(recorder, r)
		for key, values := range recorder.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(change(recorder.Body.Bytes()))
	}
}

// gate is a fault that lets nobody pass until it is opened.
type gate struct {
	// reached has an element once somebody waits.
	reached chan struct{}
	opened  chan struct{}
	open    func()
}

func newGate(t *testing.T) *gate {
	g := &gate{reached: make(chan struct{}, 1), opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	t.Cleanup(g.open)
	return g
}

func (g *gate) fault(w http.ResponseWriter, r *http.Request, registry http.Handler) {
	select {
	case g.reached <- struct{}{}:
	default:
	}
	select {
	case <-g.opened:
		registry.ServeHTTP(w, r)
	case <-r.Context().Done():
	}
}

// await waits until somebody waits at the gate.
func (g *gate) await(t *testing.T) {
	t.Helper()
	ctx, cancel := contextWithPatience(t)
	defer cancel()
	select {
	case <-g.reached:
	case <-ctx.Done():
		t.Fatal("nobody asked for what lies behind the gate")
	}
}
