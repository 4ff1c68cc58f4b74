// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/util/cert"
)

func patterns(t *testing.T, s ...string) HostPatterns {
	t.Helper()
	parsed, err := ParseHostPatterns(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestHostPatterns(t *testing.T) {
	t.Parallel()
	// allowed and blocked say what a single pattern does on either list.
	tests := []struct {
		name, pattern, ref string
		allowed, blocked   bool
	}{
		{name: "the host", pattern: "quay.io", ref: "quay.io/a", allowed: true, blocked: true},
		{name: "upper case", pattern: "QUAY.io", ref: "Quay.IO/a", allowed: true, blocked: true},
		{name: "trailing dots", pattern: "quay.io.", ref: "quay.io./a", allowed: true, blocked: true},
		{name: "docker.io by another name", pattern: "index.docker.io", ref: "nginx", allowed: true, blocked: true},
		{name: "docker.io by its endpoint", pattern: "docker.io", ref: "registry-1.docker.io/library/nginx", allowed: true, blocked: true},
		{name: "the default port is none", pattern: "quay.io", ref: "quay.io:443/a", allowed: true, blocked: true},
		{name: "another port is another registry to allow, and the same to block", pattern: "quay.io", ref: "quay.io:8443/a", blocked: true},
		{name: "any port", pattern: "quay.io:*", ref: "quay.io:8443/a", allowed: true, blocked: true},
		{name: "that port", pattern: "quay.io:8443", ref: "quay.io:8443/a", allowed: true, blocked: true},
		{name: "not that port", pattern: "quay.io:8443", ref: "quay.io/a"},
		{name: "subdomains", pattern: "*.corp.example", ref: "a.b.corp.example/a", allowed: true, blocked: true},
		{name: "not the domain itself", pattern: "*.corp.example", ref: "corp.example/a"},
		{name: "not what only begins so", pattern: "quay.io", ref: "quay.io.evil.example/a"},
		{name: "not what only ends so", pattern: "quay.io", ref: "evilquay.io/a"},
		{name: "IPv4", pattern: "192.0.2.1", ref: "192.0.2.1:5000/a", blocked: true},
		{name: "IPv4 mapped into IPv6", pattern: "192.0.2.1", ref: "[::ffff:192.0.2.1]/a", allowed: true, blocked: true},
		{name: "IPv6 in another spelling", pattern: "[2001:db8:0::1]", ref: "[2001:db8::1]/a", allowed: true, blocked: true},
		{name: "all", pattern: "*", ref: "quay.io/a", allowed: true, blocked: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			src := source(parse(t, tt.ref))
			list := patterns(t, tt.pattern)
			if got := KindOf(New(Options{AllowedRegistries: list}).admit(t.Context(), src)) == ""; got != tt.allowed {
				t.Errorf("allowed: %t, want %t", got, tt.allowed)
			}
			if got := KindOf(New(Options{BlockedRegistries: list}).admit(t.Context(), src)) == Blocked; got != tt.blocked {
				t.Errorf("blocked: %t, want %t", got, tt.blocked)
			}
			if KindOf(New(Options{AllowedRegistries: patterns(t, "*:*"), BlockedRegistries: list}).admit(t.Context(), src)) == Blocked != tt.blocked {
				t.Error("what is blocked is allowed by the other list")
			}
		})
	}
}

func TestHostPatternsRefused(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"", "https://quay.io", "quay.io/company", "me@quay.io", "quay.io ", "[quay.io"} {
		if _, err := ParseHostPatterns([]string{"ghcr.io", pattern}); err == nil || !strings.Contains(err.Error(), `"`+pattern+`"`) {
			t.Errorf("%q: %v, want an error that names it", pattern, err)
		}
	}
}

// TestBlockedElsewhere leads from an allowed registry to a blocked one.
func TestBlockedElsewhere(t *testing.T) {
	t.Parallel()
	blocked := serve(t, newRegistry())
	to := "https://" + blocked.host + "/SECRET"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{name: "by a redirect", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) }},
		{name: "by a redirect in upper case with a dot", answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.Replace(to, "127.0.0.1", "LOCALHOST.", 1), http.StatusTemporaryRedirect)
		}},
		{name: "by a token service", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+to+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, tt.answer)
			_, port, _ := net.SplitHostPort(blocked.host)
			i := newImporter(t, func(o *Options) { o.BlockedRegistries = patterns(t, "127.0.0.1:"+port, "localhost:"+port) })
			ref := up.reference(t, "app:v1")
			_, err := i.Resolve(t.Context(), source(ref), "")
			wantFailure(t, err, ref, Blocked, "not allowed here")
			if seen := blocked.requests(); len(seen) > 0 {
				t.Errorf("the blocked registry was asked: %v", seen)
			}
		})
	}
}

// TestAdmit: who is asked for further refusals sees the source before anybody asks
// it anything, every time.
func TestAdmit(t *testing.T) {
	t.Parallel()
	registry, img := newRegistry(), newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	up := serve(t, registry)
	i := newImporter(t, func(o *Options) {
		o.Admit = func(_ context.Context, src Source) error {
			if src.Scope != "friend" {
				return &Error{Kind: Blocked, Err: errors.New("not yours")}
			}
			return nil
		}
	})
	src := source(up.reference(t, "app:v1"))
	src.Scope = "friend"
	res, err := i.Resolve(t.Context(), src, "")
	if err != nil {
		t.Fatal(err)
	}
	up.requests()
	src.Scope = "foe"
	_, err = i.Resolve(t.Context(), src, "")
	wantFailure(t, err, src.Reference, Blocked, "not yours")
	_, err = i.Mirror(t.Context(), src, res, newMemory(), nil)
	wantFailure(t, err, src.Reference, Blocked, "not yours")
	if seen := up.requests(); len(seen) > 0 {
		t.Errorf("the source was asked: %v", seen)
	}
}

// TestAdmitElsewhere: nobody gets by a redirect, or by a token service, what Admit
// would not let him import.
func TestAdmitElsewhere(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, path   string
		token, asked bool
	}{
		{name: "a manifest", path: "/v2/b/app/manifests/latest", asked: true},
		{name: "a blob", path: "/v2/b/app/blobs/sha256:0", asked: true},
		{name: "by a detour", path: "/v2/own/../b//app/./manifests/latest", asked: true},
		{name: "in other letters", path: "/%76%32/B%2Fapp/manifests/latest", asked: true},
		{name: "in a repository of another level", path: "/v2/b/app/blobs/x/manifests/latest", asked: true},
		{name: "as a token", path: "/v2/b/app/manifests/latest", token: true, asked: true},
		{name: "what is no content", path: "/v2/token", token: true},
		{name: "storage", path: "/bucket/b/app/blobs/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			other := serve(t, newRegistry())
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				to := "https://" + other.host + tt.path
				if tt.token {
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+to+`"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("Location", to)
				w.WriteHeader(http.StatusTemporaryRedirect)
			}))
			var asked atomic.Bool
			i := newImporter(t, func(o *Options) {
				o.Admit = func(_ context.Context, src Source) error {
					if src.Reference.Host() == up.host {
						return nil
					}
					asked.Store(true)
					if src.Reference.Host() != other.host || !strings.HasPrefix(src.Reference.Repository(), "b/app") || src.Scope != "a" {
						t.Errorf("asked about %v for %q", src.Reference, src.Scope)
					}
					return failure(Blocked, nil, "not yours")
				}
			})
			src := source(up.reference(t, "app:v1"))
			src.Scope = "a"
			_, err := i.Resolve(t.Context(), src, "")
			if asked.Load() != tt.asked {
				t.Errorf("asked: %t, %v", asked.Load(), err)
			}
			if !tt.asked {
				return
			}
			wantFailure(t, err, src.Reference, Blocked, "not yours")
			if seen := other.requests(); len(seen) > 0 {
				t.Errorf("the other registry was asked: %v", seen)
			}
		})
	}
}

func TestInsecureRefused(t *testing.T) {
	t.Parallel()
	up := serve(t, newRegistry(), (*httptest.Server).Start)
	src := source(up.reference(t, "app:v1"))
	src.Insecure = true
	_, err := newImporter(t, func(o *Options) { o.RefuseInsecure = true }).Resolve(t.Context(), src, "")
	wantFailure(t, err, src.Reference, Blocked, "insecure sources are not allowed")
	if seen := up.requests(); len(seen) > 0 {
		t.Errorf("the source was asked: %v", seen)
	}
}

// TestInsecureNotAdvised: what is refused is not given as the remedy.
func TestInsecureNotAdvised(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		registry http.Handler
		start    func(*httptest.Server)
		roots    *x509.CertPool
		want     string // where insecure sources are refused
	}{
		{name: "plain HTTP", registry: newRegistry(), start: (*httptest.Server).Start,
			want: "does not speak TLS, and insecure sources are not allowed here"},
		{name: "unknown authority", registry: newRegistry(), start: (*httptest.Server).StartTLS, roots: x509.NewCertPool(),
			want: "have the administrator add its CA"},
		{name: "redirect", registry: http.RedirectHandler("http://127.0.0.1:1/", http.StatusTemporaryRedirect), start: (*httptest.Server).StartTLS,
			want: "redirects to plain HTTP, which is not allowed here"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref := serve(t, tt.registry, tt.start).reference(t, "app:v1")
			for refuse, want := range map[bool]string{true: tt.want, false: "set insecure: true"} {
				_, err := newImporter(t, func(o *Options) {
					o.RefuseInsecure = refuse
					if tt.roots != nil {
						o.RootCAs = tt.roots
					}
				}).Resolve(t.Context(), source(ref), "")
				wantFailure(t, err, ref, TLS, want)
				if advised := strings.Contains(err.Error(), "insecure: true"); advised == refuse {
					t.Errorf("insecure sources are refused: %t, and the text is %q", refuse, err)
				}
			}
		})
	}
}

// TestHostCAs: the authority of one host is trusted for that alone.
func TestHostCAs(t *testing.T) {
	t.Parallel()
	certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	registry, img := newRegistry(), newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	start := func(s *httptest.Server) {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		s.StartTLS()
	}
	trusted, other := serve(t, registry, start), serve(t, registry, start)
	dir := t.TempDir()
	writeFile := func(content []byte, path ...string) {
		t.Helper()
		name := filepath.Join(append([]string{dir}, path...)...)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(certificate, trusted.host, "ca.crt")
	writeFile([]byte("not read"), trusted.host, "client.cert")
	writeFile(certificate, "[::1]:5000", "ca.crt")
	writeFile([]byte("no host"), "README")
	pools, err := LoadHostCAs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(pools) != 2 || pools["[::1]:5000"] == nil {
		t.Errorf("authorities of %d hosts, want 2", len(pools))
	}
	i := newImporter(t, func(o *Options) { o.HostCAs = pools })
	if _, err := i.Resolve(t.Context(), source(trusted.reference(t, "app:v1")), ""); err != nil {
		t.Error(err)
	}
	ref := other.reference(t, "app:v1")
	_, err = i.Resolve(t.Context(), source(ref), "")
	wantFailure(t, err, ref, TLS, "unknown authority")

	writeFile(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "quay.io", "broken.crt")
	if _, err := LoadHostCAs(dir); err == nil || !strings.Contains(err.Error(), filepath.Join("quay.io", "broken.crt")) {
		t.Errorf("a broken certificate: %v", err)
	}
	if _, err := LoadHostCAs(filepath.Join(dir, "absent")); err == nil {
		t.Error("a directory that is not there is none with nothing in it")
	}
}
