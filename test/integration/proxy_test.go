// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// proxyPath is where the registry endpoint of an Image lies at the API port.
func proxyPath(namespace, image string) string {
	return "/apis/tagger.dev/v1beta1/namespaces/" + namespace + "/images/" + image + "/proxy"
}

// forward serves the registry endpoint of an Image on a port of its own, for clients that know of registries alone, by images/proxy.
func (s *server) forward(t *testing.T, namespace, image string) (host string) {
	t.Helper()
	prefix, transport := proxyPath(namespace, image), s.transport()
	transport.ForceAttemptHTTP2 = true
	target := must(url.Parse(s.apiURL + prefix))(t)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer "+s.token)
		},
		ModifyResponse: func(r *http.Response) error {
			location, err := r.Location()
			if errors.Is(err, http.ErrNoLocation) {
				return nil
			}
			below, ok := strings.CutPrefix(location.Path, prefix)
			if !ok || location.Host != target.Host {
				t.Errorf("the location %q does not lead through images/proxy", r.Header.Get("Location"))
			}
			r.Header.Set("Location", below)
			return err
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	return strings.TrimPrefix(server.URL, "http://")
}

// TestProxy pulls what was mirrored through the API port alone, by the clients and by plain requests.
func TestProxy(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	index := newIndex(t, ociTypes)
	out.Push(t, "app", index)
	want := readAll(t, out.Name(t, "app"), out.Options()...)
	for _, image := range []string{"app", "other"} {
		s.mustImport(t, namespace, image, v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
	}
	host := s.forward(t, namespace, "app")
	t.Run("all of it", func(t *testing.T) {
		t.Parallel()
		got := readAll(t, must(name.ParseReference(host+"/"+namespace+"/app:latest"))(t))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pulled (-want +got):\n%s", diff)
		}
	})
	for _, tt := range []struct {
		client string
		args   []string
	}{
		{"crane", []string{"digest"}},
		{"crane", []string{"validate", "--remote"}},
		{"oras", []string{"manifest", "fetch", "--descriptor", "--plain-http"}},
	} {
		t.Run(strings.Join(append([]string{tt.client}, tt.args[0]), " "), func(t *testing.T) {
			t.Parallel()
			printed := s.run(t, tt.client, append(tt.args, host+"/"+namespace+"/app:latest")...)
			if tt.args[0] != "validate" && !strings.Contains(printed, digestOf(t, index)) {
				t.Errorf("%s, want %s", printed, digestOf(t, index))
			}
		})
	}
	t.Run("kubectl get --raw", func(t *testing.T) {
		withKubectls(t, func(t *testing.T, kubectl string) {
			printed := s.run(t, kubectl, "get", "--raw", proxyPath(namespace, "app")+"/v2/"+namespace+"/app/manifests/latest")
			if got := digest.FromString(printed).String(); got != digestOf(t, index) {
				t.Errorf("%s, want %s", got, digestOf(t, index))
			}
		})
	})
	layer := ""
	for dgst, content := range want {
		if !json.Valid(content) { // or else it is a manifest or a configuration
			layer = dgst
		}
	}
	blob := "/v2/" + namespace + "/app/blobs/" + layer
	for _, tt := range []struct {
		name, method, path string
		header             [2]string
		status             int
		body               string
	}{
		{name: "a range", path: blob, header: [2]string{"Range", "bytes=2-5"}, status: http.StatusPartialContent, body: string(want[layer][2:6])},
		{name: "unchanged", path: blob, header: [2]string{"If-None-Match", `"` + layer + `"`}, status: http.StatusNotModified},
		{name: "HEAD", method: http.MethodHead, path: blob, status: http.StatusOK},
		{name: "gzip is not asked of blobs", path: blob, header: [2]string{"Accept-Encoding", "gzip"}, status: http.StatusOK, body: string(want[layer])},
		{name: "an Image that is not there", path: "/v2/" + namespace + "/none/tags/list", status: http.StatusNotFound},
		{name: "the other Image by the path of this one", path: "/v2/" + namespace + "/other/tags/list", status: http.StatusNotFound},
		{name: "another namespace by the path of this one", path: "/v2/default/app/tags/list", status: http.StatusNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			method := tt.method
			if method == "" {
				method = http.MethodGet
			}
			request := must(http.NewRequestWithContext(t.Context(), method, s.apiURL+proxyPath(namespace, "app")+tt.path, nil))(t)
			request.Header.Set("Authorization", "Bearer "+s.token)
			if tt.header[0] != "" {
				request.Header.Set(tt.header[0], tt.header[1])
			}
			transport := s.transport()
			defer transport.CloseIdleConnections()
			response := must(transport.RoundTrip(request))(t) //nolint:bodyclose // it is closed below
			defer response.Body.Close()
			body := must(io.ReadAll(response.Body))(t)
			if response.StatusCode != tt.status || tt.body != "" && string(body) != tt.body {
				t.Errorf("status %d, want %d; %d bytes, want %d", response.StatusCode, tt.status, len(body), len(tt.body))
			}
			if tt.method == http.MethodHead && response.ContentLength != int64(len(want[layer])) {
				t.Errorf("the length is %d, want %d", response.ContentLength, len(want[layer]))
			}
			if encoding := response.Header.Get("Content-Encoding"); encoding != "" {
				t.Errorf("encoded as %s", encoding)
			}
		})
	}
}

// TestProxyStreams pulls a large blob and pushes another one while all that may be is audited, and looks at memory and log.
func TestProxyStreams(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux says how much memory a process had at most")
	}
	const size, most = 512 << 20, 64 // bytes, and MiB
	log := filepath.Join(t.TempDir(), "audit.log")
	s := start(t, t.TempDir(), "--audit-log-path", log, "--audit-policy-file", file(t, `
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: RequestResponse
  resources: [{group: tagger.dev, resources: [images/proxy]}]
- level: None
`))
	namespace, out := newNamespace(), lab.New(t, lab.TrustedTLS)
	zeros := out.PutZeros(t, "app", ocispec.MediaTypeImageLayer, size)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{zeros},
		Config: out.PutBlob("app", "application/vnd.example.config.v1+json", []byte("{}"), digest.SHA256)}
	m.SchemaVersion = 2
	out.PutManifest(t, "app", "latest", m.MediaType, must(json.Marshal(m))(t), digest.SHA256)
	s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)

	before := s.mostMemory(t)
	blobs := "http://" + s.forward(t, namespace, "app") + "/v2/" + namespace + "/app/blobs/"
	pulled := ask(t, http.MethodGet, blobs+zeros.Digest.String(), nil, http.StatusOK)
	verifier := zeros.Digest.Verifier()
	if n, err := io.Copy(verifier, pulled.Body); err != nil || n != size || !verifier.Verified() {
		t.Errorf("%d bytes by another digest: %v", n, err)
	}
	uploads := "http://" + s.forward(t, namespace, "pushed") + "/v2/" + namespace + "/pushed/blobs/uploads/"
	begun := must(must(url.Parse(uploads))(t).Parse(ask(t, http.MethodPost, uploads, nil, http.StatusAccepted).Header.Get("Location")))(t)
	hash := digest.Canonical.Digester()
	content := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), hash.Hash())
	sent := must(begun.Parse(ask(t, http.MethodPatch, begun.String(), content, http.StatusAccepted).Header.Get("Location")))(t)
	ask(t, http.MethodPut, sent.String()+"?digest="+hash.Digest().String(), nil, http.StatusCreated)
	if after := s.mostMemory(t); after-before > most {
		t.Errorf("memory grew by %d MiB, and at most %d are promised", after-before, most)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	recorded := string(must(os.ReadFile(log))(t))
	stages := map[auditv1.Stage]int{}
	for line := range strings.Lines(recorded) {
		var event auditv1.Event
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		if stages[event.Stage]++; event.RequestObject != nil || event.ResponseObject != nil || event.ObjectRef.Subresource != "proxy" {
			t.Errorf("audited: %.1000s", line)
		}
	}
	want := map[auditv1.Stage]int{auditv1.StageRequestReceived: 4, auditv1.StageResponseStarted: 4, auditv1.StageResponseComplete: 4}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}
}

// reply is what an answer says, and what of it has not been read.
type reply struct {
	Header http.Header
	Body   io.Reader
}

// ask makes a request whose answer must have a status, and is read by the caller until the test ends.
func ask(t *testing.T, method, url string, body io.Reader, want int, header ...string) reply {
	t.Helper()
	request := must(http.NewRequestWithContext(t.Context(), method, url, body))(t)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{ExpectContinueTimeout: patience}
	response := must(transport.RoundTrip(request))(t) //nolint:bodyclose // it is closed at the end of the test
	t.Cleanup(func() { _ = response.Body.Close(); transport.CloseIdleConnections() })
	if response.StatusCode != want {
		t.Fatalf("%s %s: status %d, want %d: %s", method, url, response.StatusCode, want, must(io.ReadAll(response.Body))(t))
	}
	return reply{response.Header, response.Body}
}

// TestProxyPush pushes through the API port alone, in all ways that clients have, and pulls from the registry port.
func TestProxyPush(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	host := s.forward(t, namespace, "app")
	at := "http://" + host + "/v2/" + namespace + "/app"
	t.Run("an index", func(t *testing.T) {
		t.Parallel()
		index := newIndex(t, ociTypes)
		reference := must(name.ParseReference(host + "/" + namespace + "/app:index"))(t)
		if err := remote.WriteIndex(reference, index); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(readAll(t, reference), s.pull(t, s.registry+"/"+namespace+"/app@"+digestOf(t, index))); diff != "" {
			t.Errorf("pulled through the API port, and from the registry port (-first +second):\n%s", diff)
		}
		if !slices.ContainsFunc(s.image(t, namespace, "app").Status.HashReferences, func(entry v1beta1.HashReference) bool {
			return entry.ImageReference == s.mirrored(namespace, "app", digestOf(t, index))
		}) {
			t.Error("the push is not in the history of its Image")
		}
	})
	t.Run("oras push", func(t *testing.T) {
		t.Parallel()
		content := file(t, strings.Repeat("more than an object of the API may have", 200_000))
		s.run(t, "oras", "push", "--plain-http", "--disable-path-validation", host+"/"+namespace+"/app:oras", content+":text/plain")
		if got := s.run(t, "oras", "manifest", "fetch", "--plain-http", host+"/"+namespace+"/app:oras"); !strings.Contains(got, "text/plain") {
			t.Error(got)
		}
	})
	t.Run("crane copy", func(t *testing.T) {
		t.Parallel()
		out := lab.New(t, lab.PlainHTTP)
		image := newImage(t, dockerTypes, "amd64")
		out.Push(t, "app", image)
		s.run(t, "crane", "copy", "--insecure", out.Reference("app"), host+"/"+namespace+"/app:crane")
		if got := strings.TrimSpace(s.run(t, "crane", "digest", host+"/"+namespace+"/app:crane")); got != digestOf(t, image) {
			t.Errorf("%s, want %s", got, digestOf(t, image))
		}
	})
	t.Run("monolithic, and by 100-continue", func(t *testing.T) {
		t.Parallel()
		content := strings.Repeat("four", 1<<20)
		dgst := digest.FromString(content).String()
		for _, header := range [][]string{nil, {"Expect", "100-continue"}} {
			created := ask(t, http.MethodPost, at+"/blobs/uploads/?digest="+dgst, strings.NewReader(content), http.StatusCreated, header...)
			if got := created.Header.Get("Location"); got != "/v2/"+namespace+"/app/blobs/"+dgst {
				t.Errorf("leads to %q", got)
			}
			if got := must(io.ReadAll(ask(t, http.MethodGet, at+"/blobs/"+dgst, nil, http.StatusOK).Body))(t); string(got) != content {
				t.Errorf("%d bytes came back", len(got))
			}
			ask(t, http.MethodDelete, at+"/blobs/"+dgst, nil, http.StatusAccepted)
		}
	})
	t.Run("a chunk out of order", func(t *testing.T) {
		t.Parallel()
		begun := "http://" + host + ask(t, http.MethodPost, at+"/blobs/uploads/", nil, http.StatusAccepted).Header.Get("Location")
		ask(t, http.MethodPatch, begun, strings.NewReader("0123"), http.StatusAccepted, "Content-Range", "0-3")
		refused := ask(t, http.MethodPatch, begun, strings.NewReader("89"), http.StatusRequestedRangeNotSatisfiable, "Content-Range", "8-9")
		if got := refused.Header.Get("Range"); got != "0-3" {
			t.Errorf("goes on after %s", got)
		}
		ask(t, http.MethodDelete, begun, nil, http.StatusNoContent)
	})
	t.Run("a mount", func(t *testing.T) {
		t.Parallel()
		other := "http://" + s.forward(t, namespace, "base") + "/v2/" + namespace + "/base"
		const content = "of the base"
		dgst := digest.FromString(content).String()
		ask(t, http.MethodPost, other+"/blobs/uploads/?digest="+dgst, strings.NewReader(content), http.StatusCreated)
		ask(t, http.MethodPost, at+"/blobs/uploads/?mount="+dgst+"&from="+namespace+"/base", nil, http.StatusCreated)
		foreign := "test-foreign-" + namespace
		elsewhere := "http://" + s.forward(t, foreign, "base") + "/v2/" + foreign + "/base"
		ask(t, http.MethodPost, elsewhere+"/blobs/uploads/?mount="+dgst+"&from="+namespace+"/base", nil, http.StatusAccepted)
	})
}
