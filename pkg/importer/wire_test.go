// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tagger.dev/tagger/test/lab"
)

// certificate makes a self-signed one for an address.
func certificate(t *testing.T, ip string, notAfter time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.ParseIP(ip)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	tomorrow := time.Now().Add(24 * time.Hour)
	plainHTTP := func(s *httptest.Server) { s.Start() }
	with := func(c tls.Certificate) func(*httptest.Server) {
		return func(s *httptest.Server) {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
			s.StartTLS()
		}
	}
	good, expired := certificate(t, "127.0.0.1", tomorrow), certificate(t, "127.0.0.1", time.Now().Add(-time.Hour))
	other := certificate(t, "192.0.2.1", tomorrow)
	tests := []struct {
		name     string
		start    func(*httptest.Server)
		trust    *x509.Certificate
		insecure bool
		want     Kind // "": it works
		text     string
	}{
		{name: "trusted", start: with(good), trust: good.Leaf},
		{name: "unknown authority", start: with(good), want: TLS, text: "unknown authority"},
		{name: "unknown authority, insecure", start: with(good), insecure: true},
		{name: "expired", start: with(expired), trust: expired.Leaf, want: TLS, text: "expired"},
		{name: "expired, insecure", start: with(expired), insecure: true},
		{name: "wrong name", start: with(other), trust: other.Leaf, want: TLS, text: "another name"},
		{name: "wrong name, insecure", start: with(other), insecure: true},
		{name: "old protocol", start: func(s *httptest.Server) {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
			s.StartTLS()
		}, trust: good.Leaf, want: TLS, text: "agree on no TLS"},
		{name: "plain HTTP", start: plainHTTP, want: TLS, text: "insecure: true"},
		{name: "plain HTTP, insecure", start: plainHTTP, insecure: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, registry, tt.start)
			i := newImporter(t, func(o *Options) {
				if tt.trust != nil {
					o.RootCAs.AddCert(tt.trust)
				}
			})
			src := source(up.reference(t, "app:v1"))
			src.Insecure = tt.insecure
			_, err := i.Resolve(t.Context(), src, "")
			if tt.want != "" {
				wantFailure(t, err, src.Reference, tt.want, tt.text)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			up.requests()
			connections := up.connections.Load()
			if _, err := i.Resolve(t.Context(), src, img.manifest.Digest); err != nil {
				t.Fatal(err)
			}
			if more := up.connections.Load() - connections; more != 0 {
				t.Errorf("%d more connections when warm", more)
			}
			if diff := cmp.Diff([]string{"HEAD /v2/app/manifests/v1"}, up.requests()); diff != "" {
				t.Errorf("requests when warm (-want +got):\n%s", diff)
			}
		})
	}
}

// TestInsecureSourceMovesToTLS: what was learned about a host is given up when
// it stops being true.
func TestInsecureSourceMovesToTLS(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	up := serve(t, registry, func(s *httptest.Server) { s.Start() })
	i := newImporter(t)
	src := source(up.reference(t, "app:v1"))
	src.Insecure = true
	if _, err := i.Resolve(t.Context(), src, ""); err != nil {
		t.Fatal(err)
	}
	up.Close()
	listener, err := net.Listen("tcp", up.host)
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	serve(t, registry, func(s *httptest.Server) {
		s.Listener.Close()
		s.Listener = listener
		s.StartTLS()
	})
	var failures int
	for {
		_, err := i.Resolve(t.Context(), src, "")
		if err == nil {
			break
		}
		if failures++; failures > 1 {
			t.Fatalf("still fails: %v", err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	tests := []struct {
		name, host string
		want       Kind
		text       string
	}{
		{name: "refused", host: strings.TrimPrefix(closed.URL, "http://"), want: Unavailable, text: "connection refused"},
		{name: "handshake hangs", host: silent.Addr().String(), want: Timeout, text: "in time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref := parse(t, tt.host+"/app:v1")
			i := newImporter(t, func(o *Options) { o.ConnectTimeout = 50 * time.Millisecond })
			_, err := i.Resolve(t.Context(), source(ref), "")
			wantFailure(t, err, ref, tt.want, tt.text)
		})
	}
}

func TestClassifyNames(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want string
	}{
		{name: "no such host", err: &net.DNSError{Name: "SECRET", IsNotFound: true}, want: "h: no such host; check its spelling"},
		{name: "resolver fails", err: &net.DNSError{Name: "SECRET"}, want: "h: its name cannot be resolved now; check its spelling, and the DNS of the server"},
		{name: "resolver hangs", err: &net.DNSError{Name: "SECRET", IsTimeout: true}, want: "h: its name was not resolved in time; check its spelling, and the DNS of the server"},
		{name: "host of the request", err: &url.Error{URL: "https://me:SECRET@cdn/x?sig=SECRET", Err: io.EOF}, want: "cdn closed the connection"},
		{name: "cancelled while the name is resolved", err: errors.Join(&net.DNSError{Name: "SECRET"}, context.Canceled), want: "the import was cancelled"},
		{name: "cancelled", err: context.Canceled, want: "the import was cancelled"},
		{name: "unknown", err: io.ErrNoProgress, want: "the request to h failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, classify(tt.err, "h").Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHangs: a source that stops is left, and one that is slow is not.
func TestHangs(t *testing.T) {
	t.Parallel()
	img := newImage(t, "amd64")
	tests := []struct {
		name   string
		answer func(w http.ResponseWriter, hang <-chan struct{})
		change func(*Options)
		within time.Duration // the caller's own limit
		want   Kind          // "": it works
		text   string
	}{
		{
			name:   "no header",
			answer: func(_ http.ResponseWriter, hang <-chan struct{}) { <-hang },
			change: func(o *Options) { o.HeaderTimeout = 50 * time.Millisecond },
			want:   Timeout, text: "in time",
		},
		{
			name: "body stops",
			answer: func(w http.ResponseWriter, hang <-chan struct{}) {
				w.Write(img.raw[:10])
				w.(http.Flusher).Flush()
				<-hang
			},
			change: func(o *Options) { o.IdleTimeout = 50 * time.Millisecond },
			want:   Timeout, text: "sent nothing for 50ms",
		},
		{
			name: "slow trickle",
			answer: func(w http.ResponseWriter, _ <-chan struct{}) {
				tick := time.NewTicker(7 * time.Second / time.Duration(len(img.raw)))
				defer tick.Stop()
				for _, b := range img.raw {
					w.Write([]byte{b})
					w.(http.Flusher).Flush()
					<-tick.C
				}
			},
			change: func(o *Options) { o.IdleTimeout = 5 * time.Second },
		},
		{
			name:   "the caller's deadline",
			answer: func(_ http.ResponseWriter, hang <-chan struct{}) { <-hang },
			change: func(*Options) {},
			within: 50 * time.Millisecond,
			want:   Timeout, text: "in time",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hang := make(chan struct{})
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", img.manifest.MediaType)
				tt.answer(w, hang)
			}))
			t.Cleanup(func() { close(hang) }) // before the server waits for its handlers
			ctx := t.Context()
			if tt.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.within)
				defer cancel()
			}
			ref := up.reference(t, "app:v1")
			_, err := newImporter(t, tt.change).Resolve(ctx, source(ref), "")
			if tt.want != "" {
				wantFailure(t, err, ref, tt.want, tt.text)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLoopbackIsGuarded: nothing on this machine is reached unless allowed.
func TestLoopbackIsGuarded(t *testing.T) {
	t.Parallel()
	up := serve(t, http.NotFoundHandler())
	ref := up.reference(t, "app:v1")
	for _, insecure := range []bool{false, true} {
		src := source(ref)
		src.Insecure = insecure
		_, err := New(Options{}).Resolve(t.Context(), src, "")
		wantFailure(t, err, ref, Blocked, "loopback")
	}
	if got := up.requests(); got != nil {
		t.Errorf("was asked %v", got)
	}
}

// TestInsecureSourceGetsNoCredentials: not even over TLS, which nobody verified.
func TestInsecureSourceGetsNoCredentials(t *testing.T) {
	t.Parallel()
	var leaked atomic.Bool
	protected := basic(http.NotFoundHandler(), alice)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		protected.ServeHTTP(w, r)
	}))
	i := newImporter(t, func(o *Options) { o.Proxy = http.ProxyURL(lab.Proxy(t, up.host)) })
	src := source(parse(t, "test.example.com/app:v1"), alice)
	src.Insecure = true
	_, err := i.Resolve(t.Context(), src, "")
	wantFailure(t, err, src.Reference, Unauthorized, "gets no credentials")
	if leaked.Load() {
		t.Error("credentials were sent")
	}
}

// TestProxy: the proxy may be anywhere, the target may not.
func TestProxy(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	up := serve(t, registry) // its certificate is for example.com too
	address := lab.Proxy(t, up.host)
	i := newImporter(t, func(o *Options) {
		o.AllowLoopback = false
		o.Proxy = func(r *http.Request) (*url.URL, error) {
			if r.URL.Hostname() == "127.0.0.1" {
				return nil, nil
			}
			return address, nil
		}
	})
	tests := []struct {
		name, from string
		want       Kind
		text       string
	}{
		{name: "through the proxy", from: "test.example.com/app:v1"},
		{name: "target is refused", from: "169.254.169.254/app:v1", want: Blocked, text: "link-local"},
		{name: "around the proxy", from: up.host + "/app:v1", want: Blocked, text: "loopback"},
	}
	for _, tt := range tests {
		ref := parse(t, tt.from)
		_, err := i.Resolve(t.Context(), source(ref, Credential{}), "")
		if tt.want != "" {
			wantFailure(t, err, ref, tt.want, tt.text)
		} else if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
