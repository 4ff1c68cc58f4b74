// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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
			if got := KindOf(New(Options{AllowedRegistries: list}).admit(src)) == ""; got != tt.allowed {
				t.Errorf("allowed: %t, want %t", got, tt.allowed)
			}
			if got := KindOf(New(Options{BlockedRegistries: list}).admit(src)) == Blocked; got != tt.blocked {
				t.Errorf("blocked: %t, want %t", got, tt.blocked)
			}
			if KindOf(New(Options{AllowedRegistries: patterns(t, "*:*"), BlockedRegistries: list}).admit(src)) == Blocked != tt.blocked {
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
