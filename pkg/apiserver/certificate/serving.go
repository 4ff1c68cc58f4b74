// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
)

const (
	// servingLifetime is how long a serving certificate is valid, the end of
	// the authority permitting.
	servingLifetime = 90 * 24 * time.Hour
)

// Serving is the certificate of a server, kept in memory and renewed
// when it is asked for in the last third of its life. Its methods may be called
// concurrently.
//
// It serves both kinds of servers: tls.Config by GetCertificate, the generic
// API server as its certificate provider. The latter asks every minute, so that
// it needs no notice of a renewal.
type Serving struct {
	authority *Authority
	dnsNames  []string
	addresses []netip.Addr

	mu      sync.Mutex
	current servingPair
}

type servingPair struct {
	certPEM, keyPEM []byte
	tls             *tls.Certificate
	renewAt         time.Time
}

var _ dynamiccertificates.CertKeyContentProvider = (*Serving)(nil)

// NewServing returns a certificate for hosts: DNS names and IP
// addresses, an IPv6 address without brackets.
func NewServing(authority *Authority, hosts ...string) (*Serving, error) {
	if len(hosts) == 0 {
		return nil, errors.New("making a serving certificate: it needs at least one host")
	}
	s := &Serving{authority: authority}
	for _, host := range hosts {
		if address, err := netip.ParseAddr(host); err == nil {
			s.addresses = append(s.addresses, address.Unmap().WithZone(""))
			continue
		}
		name := strings.ToLower(host)
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			return nil, fmt.Errorf("making a serving certificate: %q is neither a DNS name nor an IP address", host)
		}
		s.dnsNames = append(s.dnsNames, name)
	}
	pair, err := s.issue(authority.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("making a serving certificate: %w", err)
	}
	s.current = pair
	return s, nil
}

// GetCertificate is for tls.Config.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.pair().tls, nil
}

// Name implements dynamiccertificates.CertKeyContentProvider.
func (s *Serving) Name() string { return caCommonName }

// CurrentCertKeyContent implements dynamiccertificates.CertKeyContentProvider.
func (s *Serving) CurrentCertKeyContent() (certPEM, keyPEM []byte) {
	pair := s.pair()
	return pair.certPEM, pair.keyPEM
}

// AddListener implements dynamiccertificates.Notifier. Listeners are not told:
// they look by themselves long before a certificate ends.
func (s *Serving) AddListener(dynamiccertificates.Listener) {}

// pair returns the current certificate, after renewing it when it is time.
func (s *Serving) pair() servingPair {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.authority.clock.Now()
	if now.Before(s.current.renewAt) {
		return s.current
	}
	renewed, err := s.issue(now)
	if err != nil {
		// The old one is good for weeks, and the next caller tries again.
		klog.Background().Error(err, "Renewing the serving certificate failed", "notAfter", s.current.tls.Leaf.NotAfter)
		return s.current
	}
	s.current = renewed
	return renewed
}

// issue makes a new key and has the authority sign it.
func (s *Serving) issue(now time.Time) (servingPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return servingPair{}, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "tagger-apiserver"},
		NotBefore:   now.Add(-clockSkew),
		NotAfter:    now.Add(servingLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    s.dnsNames,
	}
	for _, address := range s.addresses {
		template.IPAddresses = append(template.IPAddresses, address.AsSlice())
	}
	if authority := s.authority.certificate; template.NotAfter.After(authority.NotAfter) {
		template.NotAfter = authority.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.authority.certificate, key.Public(), s.authority.key)
	if err != nil {
		return servingPair{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return servingPair{}, err
	}
	certPEM, err := certutil.EncodeCertificates(leaf)
	if err != nil {
		return servingPair{}, err
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return servingPair{}, err
	}
	return servingPair{
		certPEM: certPEM,
		keyPEM:  keyPEM,
		tls:     &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		renewAt: now.Add(leaf.NotAfter.Sub(now) * 2 / 3),
	}, nil
}
