// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// upstream is a server on loopback that keeps what it was asked.
type upstream struct {
	*httptest.Server
	host string
	// connections counts those that were ever opened.
	connections atomic.Int32

	mu   sync.Mutex
	seen []string // "METHOD path"
}

// serve starts a server that speaks TLS, with the certificate that newImporter
// trusts, unless start is another way to start one.
func serve(t *testing.T, h http.Handler, start ...func(*httptest.Server)) *upstream {
	t.Helper()
	u := &upstream{}
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.seen = append(u.seen, r.Method+" "+r.URL.Path)
		u.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			u.connections.Add(1)
		}
	}
	if len(start) == 0 {
		u.StartTLS()
	} else {
		start[0](u.Server)
	}
	_, u.host, _ = strings.Cut(u.URL, "://")
	t.Cleanup(u.Close)
	return u
}

// requests returns and forgets what was asked.
func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// count returns and forgets how many requests there were for a path that
// contains part.
func (u *upstream) count(part string) int {
	n := 0
	for _, r := range u.requests() {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// reference names a repository of the server, as in "app:v1".
func (u *upstream) reference(t *testing.T, name string) Reference {
	t.Helper()
	return parse(t, u.host+"/"+name)
}

func parse(t *testing.T, s string) Reference {
	t.Helper()
	r, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newImporter returns one that may reach loopback and trusts serve.
func newImporter(t *testing.T, change ...func(*Options)) *Importer {
	t.Helper()
	trusted := httptest.NewTLSServer(nil)
	defer trusted.Close()
	o := Options{AllowLoopback: true, RootCAs: x509.NewCertPool()}
	o.RootCAs.AddCert(trusted.Certificate())
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

// keys is a Keychain of fixed credentials.
type keys []Credential

func (k keys) Credentials(context.Context, Reference) ([]Credential, error) { return k, nil }

// source of an Importer, anonymous unless there are credentials.
func source(ref Reference, credentials ...Credential) Source {
	return Source{Reference: ref, Scope: "ns", Keychain: keys(credentials)}
}

// newRegistry returns an empty registry.
func newRegistry() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)))
}

// blob makes content of some size that differs by name.
func blob(name string, size int) []byte {
	return bytes.Repeat([]byte(name+"\n"), size/(len(name)+1)+1)[:size]
}

func describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// image is a manifest with all its blobs.
type image struct {
	manifest ocispec.Descriptor
	raw      []byte
	blobs    [][]byte
}

// newImage makes an image of one platform.
func newImage(t *testing.T, architecture string, layers ...[]byte) image {
	t.Helper()
	config := fmt.Appendf(nil, `{"os":"linux","architecture":%q}`, architecture)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, config)}
	m.SchemaVersion = 2
	for _, l := range layers {
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayer, l))
	}
	raw := marshal(t, m)
	d := describe(m.MediaType, raw)
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
	return image{manifest: d, raw: raw, blobs: append([][]byte{config}, layers...)}
}

// newIndex makes an index of manifests.
func newIndex(t *testing.T, manifests ...ocispec.Descriptor) (ocispec.Descriptor, []byte) {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	index.SchemaVersion = 2
	raw := marshal(t, index)
	return describe(index.MediaType, raw), raw
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// put stores a manifest under a tag or digest, and blobs before it.
func put(t *testing.T, h http.Handler, repository, object, mediaType string, raw []byte, blobs ...[]byte) {
	t.Helper()
	send := func(method, path, contentType string, body []byte) {
		r := httptest.NewRequest(method, path, bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	for _, b := range blobs {
		send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest.FromBytes(b).String(), "application/octet-stream", b)
	}
	send(http.MethodPut, "/v2/"+repository+"/manifests/"+object, mediaType, raw)
}

// memory is a Destination in memory.
type memory struct {
	mu       sync.Mutex
	content  map[digest.Digest][]byte
	linkable []digest.Digest // held by another repository of the namespace
	pushed   []digest.Digest // in the order in which they were complete
	fail     error           // of every Push
}

var _ Destination = &memory{}

func newMemory() *memory { return &memory{content: map[digest.Digest][]byte{}} }

func (m *memory) Mount(_ context.Context, d ocispec.Descriptor) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, held := m.content[d.Digest]
	return held || slices.Contains(m.linkable, d.Digest), nil
}

func (m *memory) Push(_ context.Context, d ocispec.Descriptor, r io.Reader) error {
	if m.fail != nil {
		return m.fail
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if describe(d.MediaType, raw).Digest != d.Digest || int64(len(raw)) != d.Size {
		return fmt.Errorf("content: %w", errdefs.ErrFailedPrecondition)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content[d.Digest] = raw
	m.pushed = append(m.pushed, d.Digest)
	return nil
}

func (m *memory) Commit(context.Context, map[string]digest.Digest) error { return nil }

func (m *memory) Untag(context.Context, ...string) error { return nil }

func (m *memory) Tagged(context.Context, []digest.Digest, func(string) bool) ([]digest.Digest, error) {
	return nil, nil
}

func (m *memory) Complete(_ context.Context, root digest.Digest) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.content[root] != nil, nil
}
