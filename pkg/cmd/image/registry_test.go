// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// goodToken is the token that the cluster gives.
const goodToken = "short-lived-token"

// port is the registry port of a cluster, behind which is a real registry in memory.
type port struct {
	*httptest.Server
	t       *testing.T
	handler http.Handler
	// misbehave may answer a request itself.
	misbehave func(w http.ResponseWriter, r *http.Request) bool

	lock     sync.Mutex
	requests []string
	tokens   []string // that were shown
}

// newPort starts a registry port, with TLS or without.
func newPort(t *testing.T, secure bool) *port {
	t.Helper()
	p := &port{t: t, handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are a part of some tests
	if secure {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func (p *port) host() string { return p.Listener.Addr().String() }

func (p *port) authority() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
}

func (p *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, token, _ := r.BasicAuth()
	p.lock.Lock()
	p.requests = append(p.requests, r.Method+" "+r.URL.Path)
	p.tokens = append(p.tokens, token)
	p.lock.Unlock()
	switch {
	case p.misbehave != nil && p.misbehave(w, r):
	case token != goodToken:
		w.Header().Set("WWW-Authenticate", `Basic realm="it"`)
		http.Error(w, `{"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}`, http.StatusUnauthorized)
	default:
		p.handler.ServeHTTP(w, r)
	}
}

// count returns how many requests there were of a method for a path with a part.
func (p *port) count(method, part string) (count int) {
	p.lock.Lock()
	defer p.lock.Unlock()
	for _, request := range p.requests {
		if strings.HasPrefix(request, method+" ") && strings.Contains(request, part) {
			count++
		}
	}
	return count
}

// published is an API that publishes a registry port.
func published(t *testing.T, host string, authority []byte) *api {
	t.Helper()
	token := v1beta1.RegistryToken{TypeMeta: metav1.TypeMeta{APIVersion: "tagger.dev/v1beta1", Kind: "RegistryToken"}}
	token.Status.Token, token.Status.ExpirationTimestamp = goodToken, metav1.NewTime(time.Now().Add(time.Hour).Truncate(time.Second))
	token.Status.Registry = v1beta1.RegistryEndpoint{Host: host, CABundle: authority}
	server := &api{t: t, documents: map[string]any{"/apis/tagger.dev/v1beta1/registrytokens": token}}
	server.start()
	return server
}

// newImage returns an image of two layers for a platform.
func newImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	image, err := random.Image(4096, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// newIndex returns an image for two platforms.
func newIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: newImage(t, arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return index
}

// newLayout writes an index to a new OCI layout, and returns its folder and its digest.
func newLayout(t *testing.T) (folder, digest string) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	index := newIndex(t)
	if err := path.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	hash, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return folder, hash.String()
}

// packed writes a folder to an archive, and returns its file.
func packed(t *testing.T, folder string) string {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	if err := writer.AddFS(os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return written(t, "archive.tar", out.Bytes())
}

// newSaved writes an image as docker saves it, its layers uncompressed and one of them a link to another, and returns its file.
func newSaved(t *testing.T, image v1.Image, names ...string) string {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	add := func(header *tar.Header, body []byte) {
		header.Mode, header.Size = 0o644, int64(len(body))
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	saved := map[string]any{"Config": "config.json", "RepoTags": names, "Layers": []string{"a/layer.tar", "b/layer.tar"}}
	for i, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			add(&tar.Header{Name: "a/layer.tar", Typeflag: tar.TypeReg}, body)
			continue
		}
		add(&tar.Header{Name: "c/layer.tar", Typeflag: tar.TypeReg}, body)
		add(&tar.Header{Name: "b/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../c/layer.tar"}, nil)
	}
	add(&tar.Header{Name: "config.json", Typeflag: tar.TypeReg}, config)
	manifest, err := json.Marshal([]any{saved})
	if err != nil {
		t.Fatal(err)
	}
	add(&tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg}, manifest)
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return written(t, "saved.tar", out.Bytes())
}

// written writes a file, and returns its name.
func written(t *testing.T, name string, body []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// reference names something behind the port.
func (p *port) reference(t *testing.T, text string) name.Reference {
	t.Helper()
	reference, err := name.ParseReference(p.host() + "/" + text)
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

// options are how tests look at what is behind the port.
func (p *port) options() []remote.Option {
	return []remote.Option{remote.WithTransport(p.Client().Transport), remote.WithAuth(&authn.Basic{Username: "test", Password: goodToken})}
}
