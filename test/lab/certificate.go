// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

// Domain is the name, beside the loopback addresses, that trusted certificates are for. RFC 7686 keeps it from being looked up
// anywhere; a test reaches it by Proxy.
const Domain = "registry.outside.onion"

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// trusted is made once for each process, so that a server that it starts can be told to trust all of its sources.
var trusted = sync.OnceValues(newAuthority)

// Authority returns the certificate, in PEM, of who signs those of sources that are to be trusted.
func Authority() ([]byte, error) {
	a, err := trusted()
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}), nil
}

// Roots returns the same as Authority for clients in this process.
func Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(trustedAuthority(t).certificate)
	return roots
}

func trustedAuthority(t testing.TB) *authority {
	t.Helper()
	a, err := trusted()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// certificateFor makes the certificate that a transport shows.
func certificateFor(t testing.TB, transport Transport) tls.Certificate {
	t.Helper()
	signer := trustedAuthority(t)
	notAfter := time.Now().Add(24 * time.Hour)
	addresses, names := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, []string{"localhost", Domain}
	switch transport {
	case UnknownCA:
		var err error
		if signer, err = newAuthority(); err != nil {
			t.Fatal(err)
		}
	case Expired:
		notAfter = time.Now().Add(-time.Hour)
	case WrongName:
		addresses, names = []net.IP{net.IPv4(192, 0, 2, 1)}, []string{"elsewhere.example"}
	}
	certificate, err := signer.sign(addresses, names, notAfter)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority of the outside world"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate: certificate, key: key}, err
}

func (a *authority) sign(addresses []net.IP, names []string, notAfter time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a registry of the outside world"},
		NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: addresses, DNSNames: names,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key}, err
}
