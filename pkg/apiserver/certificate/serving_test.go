// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

const day = 24 * time.Hour

func newAuthority(t *testing.T, clk clock.PassiveClock) *Authority {
	t.Helper()
	authority, err := NewAuthority(clk)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func leaf(t *testing.T, s *Serving) *x509.Certificate {
	t.Helper()
	pair, err := s.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func pool(authority *Authority) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.CertificatePEM())
	return roots
}

func TestServingNames(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		hosts []string
		// valid are names that it is good for, invalid some that it is not.
		valid, invalid []string
		err            bool
	}{
		{
			name:    "names and addresses",
			hosts:   []string{"localhost", "Tagger.Example", "127.0.0.1", "::1", "::ffff:192.0.2.1"},
			valid:   []string{"localhost", "tagger.example", "127.0.0.1", "::1", "192.0.2.1"},
			invalid: []string{"tagger-ca", "example", "127.0.0.2"},
		},
		{name: "none", err: true},
		{name: "empty", hosts: []string{""}, err: true},
		{name: "host and port", hosts: []string{"localhost:8443"}, err: true},
		{name: "brackets", hosts: []string{"[::1]"}, err: true},
	}
	authority := newAuthority(t, clock.RealClock{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := NewServing(authority, tt.hosts...)
			if (err != nil) != tt.err {
				t.Fatalf("got error %v, want one: %v", err, tt.err)
			}
			if tt.err {
				return
			}
			for _, name := range tt.valid {
				if _, err := leaf(t, s).Verify(x509.VerifyOptions{DNSName: name, Roots: pool(authority)}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, name := range tt.invalid {
				if _, err := leaf(t, s).Verify(x509.VerifyOptions{DNSName: name, Roots: pool(authority)}); err == nil {
					t.Errorf("%s: got nil, want an error", name)
				}
			}
		})
	}
}

func TestServingRenewal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// after is when it is asked for, since it was made.
		after time.Duration
		want  bool
	}{
		{name: "at once", after: 0},
		{name: "in its second third", after: 59 * day},
		{name: "in its last third", after: 61 * day, want: true},
		{name: "long after its end", after: 400 * day, want: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clk := clocktesting.NewFakePassiveClock(time.Now())
			authority := newAuthority(t, clk)
			s, err := NewServing(authority, "localhost")
			if err != nil {
				t.Fatal(err)
			}
			first := leaf(t, s)
			clk.SetTime(clk.Now().Add(tt.after))
			certPEM, keyPEM := s.CurrentCertKeyContent()
			pair, err := tls.X509KeyPair(certPEM, keyPEM)
			if err != nil {
				t.Fatal(err)
			}
			if got := !pair.Leaf.Equal(first); got != tt.want {
				t.Errorf("renewed: got %v, want %v", got, tt.want)
			}
			if !pair.Leaf.Equal(leaf(t, s)) {
				t.Error("the two kinds of servers get different certificates")
			}
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "localhost", Roots: pool(authority), CurrentTime: clk.Now()}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestServingServes holds that real servers take a renewed
// certificate without being told, the generic API server's way and
// tls.Config's.
func TestServingServes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// config returns the server's, and what its minutely check does.
		config func(t *testing.T, s *Serving) (*tls.Config, func() error)
	}{
		{
			name: "GetCertificate",
			config: func(_ *testing.T, s *Serving) (*tls.Config, func() error) {
				return &tls.Config{GetCertificate: s.GetCertificate}, func() error { return nil }
			},
		},
		{
			name: "generic API server",
			config: func(t *testing.T, s *Serving) (*tls.Config, func() error) {
				base := &tls.Config{}
				controller := dynamiccertificates.NewDynamicServingCertificateController(base, nil, s, nil, nil)
				if err := controller.RunOnce(); err != nil {
					t.Fatal(err)
				}
				return &tls.Config{GetConfigForClient: controller.GetConfigForClient}, controller.RunOnce
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clk := clocktesting.NewFakePassiveClock(time.Now())
			authority := newAuthority(t, clk)
			s, err := NewServing(authority, "127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			config, check := tt.config(t, s)
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			// Not StartTLS, which puts a certificate of its own in front.
			server.Listener = tls.NewListener(server.Listener, config)
			server.Start()
			t.Cleanup(server.Close)

			served := func() string {
				client := &http.Client{Transport: &http.Transport{
					DisableKeepAlives: true,
					TLSClientConfig:   &tls.Config{RootCAs: pool(authority), Time: clk.Now, MinVersion: tls.VersionTLS12},
				}}
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+server.Listener.Addr().String(), nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				if _, err := io.Copy(io.Discard, response.Body); err != nil {
					t.Fatal(err)
				}
				return response.TLS.PeerCertificates[0].SerialNumber.String()
			}
			if diff := cmp.Diff(leaf(t, s).SerialNumber.String(), served()); diff != "" {
				t.Errorf("at first (-want +got):\n%s", diff)
			}
			clk.SetTime(clk.Now().Add(100 * day))
			if err := check(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(leaf(t, s).SerialNumber.String(), served()); diff != "" {
				t.Errorf("after the end of the first (-want +got):\n%s", diff)
			}
		})
	}
}
