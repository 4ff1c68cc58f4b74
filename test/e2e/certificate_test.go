// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
)

// pair is a certificate of a server, with its key and who signed it, in PEM.
type pair struct{ certificate, key, ca []byte }

func newPair(t *testing.T) pair {
	t.Helper()
	chain, key, err := cert.GenerateSelfSignedCertKey("tagger."+home+".svc", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, ca := pem.Decode(chain)
	return pair{certificate: chain, key: key, ca: ca}
}

// certificates has Tagger serve certificates of the administrator's, which change while it runs.
func certificates(t *testing.T, x *tagger) {
	first, second := newPair(t), newPair(t)
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	write := func(p pair) {
		t.Helper()
		for path, content := range map[string][]byte{keyFile: p.key, certFile: p.certificate} {
			if err := os.WriteFile(path+".new", content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(first)
	args := x.args
	x.stop(t)
	x.trust(t, slices.Concat(first.ca, second.ca))
	x.args = append(slices.Clip(args), "--tls-cert-file", certFile, "--tls-private-key-file", keyFile)
	x.run(t)
	x.available(t)
	for _, address := range []string{"127.0.0.1:" + x.port, x.registry} {
		x.serves(t, address, first)
	}

	write(second)
	for _, address := range []string{"127.0.0.1:" + x.port, x.registry} {
		x.serves(t, address, second)
	}
	x.trust(t, second.ca)
	// kube-apiserver keeps connections; what is new needs a new one.
	eventually(t, "kube-apiserver trusts what is served", func(ctx context.Context) error {
		_, err := x.api.TaggerV1beta1().Images("default").List(ctx, metav1.ListOptions{})
		return err
	})

	x.stop(t)
	x.args = args
	x.run(t)
	x.available(t) // by a certificate of Tagger's own authority, which it had kube-apiserver told
}

// trust writes the CA bundle of the APIService.
func (x *tagger) trust(t *testing.T, bundle []byte) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": bundle}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kubectl(t, x.Cluster, "patch", "apiservice", "v1beta1.tagger.dev", "--type", "merge", "-p", string(patch)); err != nil {
		t.Fatal(err)
	}
}

// serves waits until a port shows a certificate.
func (x *tagger) serves(t *testing.T, address string, want pair) {
	t.Helper()
	block, _ := pem.Decode(want.certificate)
	eventually(t, address+" serves a certificate", func(ctx context.Context) error {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		shown := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		if !bytes.Equal(shown.Raw, block.Bytes) {
			return errors.Join(fmt.Errorf("it serves that of %s, number %s", shown.Subject, shown.SerialNumber), ctx.Err())
		}
		return nil
	})
}
