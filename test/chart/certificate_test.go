// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestEtcdCertificates verifies the certificates that the chart generates as etcd's members and clients do.
func TestEtcdCertificates(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		all := helm.render(t, several)
		// leaf returns the certificate in a Secret, and the authorities there.
		leaf := func(name string) (*x509.Certificate, *x509.CertPool) {
			secret := get[*corev1.Secret](t, all, "Secret/"+name)
			pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			authorities := x509.NewCertPool()
			if !authorities.AppendCertsFromPEM(secret.Data["ca.crt"]) {
				t.Fatalf("%s has no authority", name)
			}
			return pair.Leaf, authorities
		}
		member, ofMember := leaf("tagger-etcd-member")
		client, ofClient := leaf("tagger-etcd-client")
		for _, test := range []struct {
			name        string
			certificate *x509.Certificate
			authorities *x509.CertPool
			host        string
			usage       x509.ExtKeyUsage
		}{
			{"Tagger to a member", member, ofClient, "tagger-etcd-0.tagger-etcd.tagger.svc", x509.ExtKeyUsageServerAuth},
			{"a member to another", member, ofMember, "tagger-etcd-2.tagger-etcd.tagger.svc", x509.ExtKeyUsageServerAuth},
			{"etcdctl in the Pod", member, ofMember, "127.0.0.1", x509.ExtKeyUsageServerAuth},
			{"a member from another", member, ofMember, "", x509.ExtKeyUsageClientAuth},
			{"a member from Tagger", client, ofMember, "", x509.ExtKeyUsageClientAuth},
		} {
			if _, err := test.certificate.Verify(x509.VerifyOptions{
				DNSName: test.host, Roots: test.authorities, KeyUsages: []x509.ExtKeyUsage{test.usage},
				CurrentTime: time.Now().AddDate(9, 11, 0),
			}); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	})
}
