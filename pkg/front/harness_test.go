// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/test/lab"
)

// mirrors has that of each namespace; that of "broken" is not to be found out.
type mirrors map[string]*mirror.Registry

func (m mirrors) Registry(_ context.Context, namespace string) (*mirror.Registry, error) {
	if namespace == "broken" {
		return mirror.NewRegistry(mirror.Config{Name: "the Secret tagger/mirror-registry-config", Host: "_"}, mirror.Options{})
	}
	return m[namespace], nil
}

// anybody lets everybody do everything.
type anybody struct{}

func (anybody) Authorize(ctx context.Context, _ distribution.Credentials, _ distribution.Repository, _ distribution.Action) (context.Context, error) {
	return ctx, nil
}

// endpoint is a registry endpoint in front of mirrors.
type endpoint struct {
	url    string
	client *http.Client
}

// serve serves one.
func serve(t testing.TB, config Config) *endpoint {
	t.Helper()
	if config.Keys == nil {
		config.Keys = oneKey()
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	config.Remedy = "ask somebody"
	server := httptest.NewServer(distribution.New(New(config), anybody{}, distribution.Options{}))
	t.Cleanup(server.Close)
	return &endpoint{server.URL, server.Client()}
}

// registryAt returns a mirror at a source.
func registryAt(t testing.TB, s *lab.Source, change ...func(*mirror.Config, *mirror.Options)) *mirror.Registry {
	t.Helper()
	config := mirror.Config{Name: "the Secret tagger/mirror-registry-config", Host: s.Host}
	options := mirror.Options{RootCAs: lab.Roots(t)}
	for _, c := range change {
		c(&config, &options)
	}
	registry, err := mirror.NewRegistry(config, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	return registry
}

// answer is one of the endpoint. cut: its body did not come to its end.
type answer struct {
	status int
	header http.Header
	body   string
	cut    bool
}

// do sends a request; headers are written KEY: VALUE.
func (e *endpoint) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = e.url + path
	}
	req, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		key, value, _ := strings.Cut(header, ": ")
		req.Header.Set(key, value)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(raw), err != nil}
}

// code is that of an error document.
func (a answer) code() string {
	var document struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal([]byte(a.body), &document) != nil || len(document.Errors) == 0 {
		return ""
	}
	return document.Errors[0].Code
}

func (a answer) String() string { return strings.TrimSpace(fmt.Sprint(a.status, " ", a.code())) }

func want(t testing.TB, what string, got answer, wanted string, words ...string) {
	t.Helper()
	if got.String() != wanted {
		t.Errorf("%s: got %s, want %s: %s", what, got, wanted, got.body)
	}
	for _, word := range words {
		if !strings.Contains(got.body, word) {
			t.Errorf("%s: %q does not say %q", what, got.body, word)
		}
	}
	if strings.Contains(got.body, "SECRET") {
		t.Errorf("%s: %q repeats what the mirror said", what, got.body)
	}
}

// put pushes a blob at once.
func (e *endpoint) put(t testing.TB, repository, content string) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(content), Size: int64(len(content))}
	want(t, "pushing a blob", e.do(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d.Digest.String(), content), "201")
	return d
}

// putManifest pushes a manifest under a tag or its digest.
func (e *endpoint) putManifest(t testing.TB, repository, name string, m ocispec.Manifest) ocispec.Descriptor {
	t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if name == "" {
		name = d.Digest.String()
	}
	want(t, "pushing a manifest", e.do(t, http.MethodPut, "/v2/"+repository+"/manifests/"+name, string(raw), "Content-Type: "+m.MediaType), "201")
	return d
}

// oneKey returns Keys that no other process has.
func oneKey() Keys {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key) // never fails
	return func(context.Context) ([][]byte, error) { return [][]byte{key}, nil }
}
