// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/clock"
)

const (
	// caCommonName is what a person sees as the issuer.
	caCommonName = "tagger-ca"
	// maxPEMBytes bounds the authority's files.
	maxPEMBytes = 64 << 10
	// clockSkew is how far a client's clock may be behind when a certificate is
	// new.
	clockSkew = time.Hour
)

// Authority is the certificate authority of a data directory. It is immutable.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	certPEM     []byte
	clock       clock.PassiveClock
}

// Authority returns the authority of the directory, which is made at the first
// call: an ECDSA key on P-256, valid for ten years.
func (d *DataDir) Authority(clk clock.PassiveClock) (*Authority, error) {
	certPEM, err := readFile(d.CACertPath(), maxPEMBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return d.newAuthority(clk)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	keyPEM, err := readFile(d.file(caKeyFile), maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority from %s and %s: %w", d.CACertPath(), d.file(caKeyFile), err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of an authority", d.CACertPath())
	}
	if now := clk.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate authority expired on %s: delete %s for a new one, which clients have to be given",
			pair.Leaf.NotAfter.Format(time.DateOnly), d.CACertPath())
	}
	return &Authority{certificate: pair.Leaf, key: key, certPEM: certPEM, clock: clk}, nil
}

// newAuthority makes an authority. Its certificate is written last: without it
// there is no authority yet, and the key of an attempt that was cut short is
// overwritten.
func (d *DataDir) newAuthority(clk clock.PassiveClock) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	certificate, err := certutil.NewSelfSignedCACert(certutil.Config{
		CommonName: caCommonName,
		NotBefore:  clk.Now().Add(-clockSkew),
	}, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	certPEM, err := certutil.EncodeCertificates(certificate)
	if err != nil {
		return nil, fmt.Errorf("making a certificate authority: %w", err)
	}
	if err := d.write(caKeyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := d.write(caCertFile, certPEM, 0o644); err != nil {
		return nil, err
	}
	return &Authority{certificate: certificate, key: key, certPEM: certPEM, clock: clk}, nil
}

// CertificatePEM returns the authority's certificate, which clients verify
// servers with.
func (a *Authority) CertificatePEM() []byte { return a.certPEM }
