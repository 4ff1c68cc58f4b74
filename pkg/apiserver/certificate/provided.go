// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"crypto/tls"
	"sync"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Of returns what tls.Config needs to serve the certificate of a provider, such
// as that of files, whatever that has become meanwhile. What cannot be parsed is
// an error of the handshake.
func Of(provider dynamiccertificates.CertKeyContentProvider) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var certPEM, keyPEM []byte
	var parsed *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		newCert, newKey := provider.CurrentCertKeyContent()
		mu.Lock()
		defer mu.Unlock()
		if parsed != nil && bytes.Equal(certPEM, newCert) && bytes.Equal(keyPEM, newKey) {
			return parsed, nil
		}
		pair, err := tls.X509KeyPair(newCert, newKey)
		if err != nil {
			return nil, err
		}
		certPEM, keyPEM, parsed = newCert, newKey, &pair
		return parsed, nil
	}
}
