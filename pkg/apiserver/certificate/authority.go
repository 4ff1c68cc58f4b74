// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/clock"
)

const (
	// caCommonName is what a person sees as the issuer.
	caCommonName = "tagger-ca"
	// clockSkew is how far a client's clock may be behind when a certificate is
	// new.
	clockSkew = time.Hour
)

// ErrExpired is what reading an authority whose time is over fails with.
var ErrExpired = errors.New("the certificate authority has expired")

// Authority is a certificate authority of Tagger's own. It is immutable.
type Authority struct {
	certificate     *x509.Certificate
	key             crypto.Signer
	certPEM, keyPEM []byte
	clock           clock.PassiveClock
}

// NewAuthority makes an authority: an ECDSA key on P-256, valid for ten years.
func NewAuthority(clk clock.PassiveClock) (*Authority, error) {
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
	return &Authority{certificate: certificate, key: key, certPEM: certPEM, keyPEM: keyPEM, clock: clk}, nil
}

// ReadAuthority reads what an Authority has as PEM. An error says nothing of the
// key; one whose time is over is ErrExpired.
func ReadAuthority(certPEM, keyPEM []byte, clk clock.PassiveClock) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("it is not the certificate of an authority")
	}
	if clk.Now().After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("%w on %s", ErrExpired, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &Authority{certificate: pair.Leaf, key: key, certPEM: certPEM, keyPEM: keyPEM, clock: clk}, nil
}

// CertificatePEM returns the authority's certificate, which clients verify
// servers with.
func (a *Authority) CertificatePEM() []byte { return a.certPEM }

// KeyPEM returns the authority's key, which is a secret.
func (a *Authority) KeyPEM() []byte { return a.keyPEM }
