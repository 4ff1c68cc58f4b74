// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/keychain"
	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/test/lab"
)

const (
	mirrorUser, mirrorPassword = "admin", "what were you thinking?"
	// mirrorHash is that of the password by bcrypt, at its least cost.
	mirrorHash = "$2a$04$TKREqV0xEoixRGO8dOMD0uDA8RvDI9vDJ9WK6z2U8IrilaVktGr4."
)

// distributionRegistry is the registry of the distribution project in a process of its own, behind a proxy that ends TLS and of
// which the registry does not know.
type distributionRegistry struct {
	host, program, config string
	ca                    []byte

	mu   sync.Mutex
	seen map[string]int // by method and what is asked for
}

// startDistribution runs the registry as Debian packages it, of which 2.8 is the last to lack the referrers API and to let no
// tags be deleted.
func startDistribution(t *testing.T) *distributionRegistry {
	t.Helper()
	d := &distributionRegistry{program: require(t, "docker-registry"), seen: map[string]int{}}
	dir := t.TempDir()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	backend := listener.Addr().String()
	_ = listener.Close() // the registry takes the port over; nobody else was told of it
	d.config = filepath.Join(dir, "config.yml")
	for path, content := range map[string]string{
		d.config: fmt.Sprintf(`version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}
http: {addr: %q}
auth: {htpasswd: {realm: mirror, path: %q}}
`, filepath.Join(dir, "data"), backend, filepath.Join(dir, "htpasswd")),
		filepath.Join(dir, "htpasswd"): mirrorUser + ":" + mirrorHash + "\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), d.program, "serve", d.config)
	output := &logBuffer{}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the log of the registry:\n%s", output)
		}
	})
	eventually(t, "the registry answers", func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", backend)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil, nil
	})

	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: backend})
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" { // the others are asked for it
			d.mu.Lock()
			d.seen[r.Method+" "+subjectOf(r)]++
			d.mu.Unlock()
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	d.host = strings.TrimPrefix(proxy.URL, "https://")
	d.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
	return d
}

func subjectOf(r *http.Request) string {
	for _, subject := range []string{"manifests", "uploads", "blobs", "referrers"} {
		if strings.Contains(r.URL.Path, "/"+subject+"/") {
			return subject
		}
	}
	return r.URL.Path
}

// requests counts and forgets what was asked with credentials.
func (d *distributionRegistry) requests() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := d.seen
	d.seen = map[string]int{}
	return seen
}

// locator finds the registry by a Secret.
func (d *distributionRegistry) locator() *mirror.Locator {
	secret := &corev1.Secret{Data: map[string][]byte{
		"address": []byte(d.host + "\n"), "username": []byte(mirrorUser + "\n"), "password": []byte(mirrorPassword + "\n"), "ca": d.ca,
	}}
	secret.Namespace, secret.Name = "tagger", mirror.SecretName
	return mirror.NewLocator(mirror.LocatorConfig{
		Namespace: "tagger",
		Secret:    func(context.Context, string, string) (*corev1.Secret, error) { return secret, nil },
		ConfigMap: func(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
			return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
		},
	})
}

// TestDistributionMirror mirrors to a registry that people run, counts what that costs, and has its collector of garbage leave
// what is tagged and what refers to it.
func TestDistributionMirror(t *testing.T) {
	t.Parallel()
	registry, out := startDistribution(t), lab.New(t, lab.TrustedTLS)
	locator := registry.locator()
	i := importer.New(importer.Options{AllowLoopback: true, RootCAs: lab.Roots(t)})
	repository := func(namespace, image string) importer.Destination {
		t.Helper()
		dst, pullName, err := locator.Repository(t.Context(), namespace, image)
		if err != nil || pullName != registry.host+"/"+namespace+"/"+image {
			t.Fatalf("%q, %v", pullName, err)
		}
		return dst
	}
	resolve := func(reference string) (importer.Source, *importer.Resolved) {
		t.Helper()
		ref := must(importer.ParseReference(out.Reference(reference)))(t)
		src := importer.Source{Reference: ref, Scope: "ns", Keychain: keychain.None}
		return src, must(i.Resolve(t.Context(), src, ""))(t)
	}
	copyTo := func(reference string, dst importer.Destination) digest.Digest {
		t.Helper()
		src, res := resolve(reference)
		if complete := must(dst.Complete(t.Context(), res.Digest))(t); complete {
			t.Error("complete before it was copied")
		}
		must(i.Mirror(t.Context(), src, res, dst, nil))(t)
		return res.Digest
	}
	tag := func(dst importer.Destination, tag string, root digest.Digest) {
		t.Helper()
		if err := dst.Commit(t.Context(), map[string]digest.Digest{tag: root}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want map[string]int) {
		t.Helper()
		if diff := cmp.Diff(want, registry.requests()); diff != "" {
			t.Errorf("requests %s (-want +got):\n%s", what, diff)
		}
	}

	index := newIndex(t, ociTypes)
	out.Push(t, "app", index)
	first := newImage(t, ociTypes, "amd64")
	out.Push(t, "first", first)
	child := must(index.Image(must(index.IndexManifest())(t).Manifests[0].Digest))(t)
	out.Push(t, "sibling", child)

	copyTo("first", repository("ns", "first")) // by which it learns what the registry can
	registry.requests()
	app := repository("ns", "app")
	root := copyTo("app", app)
	blobs, manifests := 2*(layers+1), 3
	want("of a copy: 2B+K+1", map[string]int{"GET manifests": 1, "POST uploads": blobs, "PUT uploads": blobs, "PUT manifests": manifests})
	tag(app, "anchor-x", root)
	tag(repository("ns", "app"), "latest", root)
	want("of two tags", map[string]int{"PUT manifests": 2})
	if complete := must(repository("ns", "app").Complete(t.Context(), root))(t); !complete {
		t.Error("not complete")
	}
	want("when nothing changed", map[string]int{"GET manifests": manifests, "HEAD blobs": blobs})
	copyTo("sibling", repository("ns", "sibling"))
	want("of another Image, which mounts all blobs", map[string]int{"GET manifests": 1, "POST uploads": layers + 1, "PUT manifests": 1})
	copyTo("sibling", repository("other", "sibling"))
	want("of another namespace, which is sent all", map[string]int{
		"GET manifests": 1, "POST uploads": layers + 1, "PUT uploads": layers + 1, "PUT manifests": 1,
	})

	// A signature, which the source lists by its referrers API, and the mirror by a tag.
	src, res := resolve("app")
	subject := &ocispec.Descriptor{MediaType: res.MediaType, Digest: root, Size: int64(len(res.Manifest))}
	document := must(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: out.PutBlob("app", "application/vnd.example.signature", []byte("{}"), digest.SHA256),
		Layers: []ocispec.Descriptor{out.PutBlob("app", "text/plain", []byte("signed"), digest.SHA256)},
	}))(t)
	signature := out.PutManifest(t, "app", "", ocispec.MediaTypeImageManifest, document, digest.SHA256)
	app = repository("ns", "app")
	must(i.MirrorReferrers(t.Context(), src, res, app))(t)
	var listed ocispec.Index
	raw := registry.read(t, "ns/app:sha256-"+root.Encoded())
	if err := json.Unmarshal(raw, &listed); err != nil || len(listed.Manifests) != 1 || listed.Manifests[0].Digest != signature.Digest {
		t.Errorf("the tag of the referrers lists %s, %v", raw, err)
	}

	// What was begun and has no manifest is collected; the rest stays, and can be read.
	half := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("half"), Size: 4}
	if err := app.Push(t.Context(), half, strings.NewReader("half")); err != nil {
		t.Fatal(err)
	}
	if held := must(app.Mount(t.Context(), half))(t); !held {
		t.Error("what was pushed is not there")
	}
	if output, err := exec.CommandContext(t.Context(), registry.program, "garbage-collect", registry.config).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for what, d := range map[string]digest.Digest{"image": root, "signature": signature.Digest} {
		if complete := must(app.Complete(t.Context(), d))(t); !complete {
			t.Errorf("the %s was collected", what)
		}
	}
	if held := must(app.Mount(t.Context(), half))(t); held {
		t.Error("what was collected is there")
	}
	if err := app.Push(t.Context(), half, strings.NewReader("half")); err != nil {
		t.Errorf("pushing what was collected: %v", err)
	}
	ref := must(name.ParseReference(registry.host + "/ns/app@" + root.String()))(t)
	readAll(t, ref, registry.options()...)

	if err := app.Untag(t.Context(), "latest"); !errdefs.IsNotImplemented(err) {
		t.Errorf("untagging where that is not possible: %v", err)
	}
}

// options are for clients of others.
func (d *distributionRegistry) options() []remote.Option {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(d.ca)
	return []remote.Option{
		remote.WithAuth(&authn.Basic{Username: mirrorUser, Password: mirrorPassword}),
		remote.WithTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}),
	}
}

// read returns a manifest as others see it.
func (d *distributionRegistry) read(t *testing.T, reference string) []byte {
	t.Helper()
	ref := must(name.ParseReference(d.host + "/" + reference))(t)
	return must(remote.Get(ref, d.options()...))(t).Manifest
}
