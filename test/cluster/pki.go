// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// lifetime is that of certificates.
const lifetime = 30 * 24 * time.Hour

// frontProxyName is whom the aggregation layer is known as.
const frontProxyName = "front-proxy-client"

// pki is the folder with all keys and certificates of a cluster. Files are called by name, with .crt and .key.
type pki struct {
	dir       string
	ca, front *authority
}

// newPKI makes what the programs need. The servers are reached at the addresses of loopback and at another one.
func newPKI(dir string, address net.IP) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pki{dir: dir}
	var err error
	if p.ca, err = newAuthority("kubernetes"); err != nil {
		return nil, err
	}
	if p.front, err = newAuthority("front-proxy"); err != nil {
		return nil, err
	}
	if err := p.write("ca.crt", p.ca.pem()); err != nil {
		return nil, err
	}
	if err := p.write("front-ca.crt", p.front.pem()); err != nil {
		return nil, err
	}
	if err := p.writeFrontProxy(); err != nil {
		return nil, err
	}

	server := x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(kubernetesService), address},
	}
	if err := p.issue("server", p.ca, server); err != nil {
		return nil, err
	}
	kubelet := server
	kubelet.Subject, kubelet.DNSNames = pkix.Name{CommonName: Node}, []string{Node}
	if err := p.issue("kubelet", p.ca, kubelet); err != nil {
		return nil, err
	}
	if err := p.issue("kubelet-client", p.ca, client("kube-apiserver-kubelet-client", "system:masters")); err != nil {
		return nil, err
	}

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return p, p.writeKey("service-account.key", key)
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// write replaces a file at once, since kube-apiserver reads some of them again when they change.
func (p *pki) write(name string, data []byte) error {
	next := p.path(name + ".next")
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, p.path(name))
}

func (p *pki) writeKey(name string, key crypto.Signer) error {
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return p.write(name, data)
}

// issue writes a key and a certificate like the template.
func (p *pki) issue(name string, by *authority, template x509.Certificate) error {
	certificate, key, err := by.sign(template)
	if err != nil {
		return err
	}
	if err := p.write(name+".key", key); err != nil {
		return err
	}
	return p.write(name+".crt", certificate)
}

func (p *pki) writeFrontProxy() error {
	return p.issue("front-proxy", p.front, client(frontProxyName))
}

// client is the template of a user's certificate.
func client(name string, groups ...string) x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := cert.NewSelfSignedCACert(cert.Config{CommonName: name}, key)
	return &authority{certificate: certificate, key: key}, err
}

func (a *authority) pem() []byte {
	data, _ := cert.EncodeCertificates(a.certificate) // into memory
	return data
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// sign returns a certificate like the template, and a new key for it, in PEM.
func (a *authority) sign(template x509.Certificate) (certificate, key []byte, err error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(lifetime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, &template, a.certificate, signer.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	if certificate, err = cert.EncodeCertificates(parsed); err != nil {
		return nil, nil, err
	}
	key, err = keyutil.MarshalPrivateKeyToPEM(signer)
	return certificate, key, err
}
