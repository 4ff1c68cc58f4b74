// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"

	"tagger.dev/tagger/test/cluster"
)

// TestFrontProxyRotation asks an aggregated server by kube-apiserver, while certificates and CA of the aggregation layer change.
func TestFrontProxyRotation(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Config{ControlPlaneOnly: true})
	client := kubeClient(t, c)

	seen := make(chan *x509.Certificate, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"lab.example/v1","resources":[]}`)
		if r.URL.Path != path {
			return // kube-apiserver asks by itself
		}
		select {
		case seen <- r.TLS.PeerCertificates[0]:
		default:
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	aggregate(t, c, client, server.Listener.Addr().(*net.TCPAddr).Port)

	// certificate returns the one that kube-apiserver shows.
	certificate := func(ctx context.Context) (*x509.Certificate, error) {
		if err := client.Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Error(); err != nil {
			return nil, err
		}
		return <-seen, nil
	}
	var first *x509.Certificate
	eventually(t, "the server is aggregated", func(ctx context.Context) (err error) {
		first, err = certificate(ctx)
		return err
	})

	if err := c.RotateFrontProxyCertificate(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is another certificate of the same CA", func(ctx context.Context) error {
		shown, err := certificate(ctx)
		if err != nil {
			return err
		}
		if shown.Equal(first) {
			return errors.New("it is the same certificate")
		}
		return shown.CheckSignatureFrom(published(t, client)[0])
	})

	before := published(t, client)
	if err := c.RotateFrontProxyCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	added := slices.DeleteFunc(published(t, client), func(ca *x509.Certificate) bool { return slices.ContainsFunc(before, ca.Equal) })
	if len(before) != 1 || len(added) != 1 {
		t.Fatalf("published were %d CAs, to which %d were added, want 1 and 1", len(before), len(added))
	}
	eventually(t, "there is a certificate of the new CA", func(ctx context.Context) error {
		shown, err := certificate(ctx)
		if err != nil {
			return err
		}
		return shown.CheckSignatureFrom(added[0])
	})
}

// path is what the test asks the aggregated server for.
const path = "/apis/lab.example/v1/shown"

// aggregate has kube-apiserver pass on requests to a server on loopback.
func aggregate(t *testing.T, c *cluster.Cluster, client kubernetes.Interface, port int) {
	t.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "lab"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: "localhost",
	}}
	if _, err := client.CoreV1().Services(metav1.NamespaceDefault).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	var registration unstructured.Unstructured
	if err := registration.UnmarshalJSON([]byte(`{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.lab.example"},
		"spec": {
			"group": "lab.example", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10, "insecureSkipTLSVerify": true,
			"service": {"namespace": "default", "name": "lab", "port": ` + strconv.Itoa(port) + `}
		}
	}`)); err != nil {
		t.Fatal(err)
	}
	services := schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	if _, err := objects.Resource(services).Create(t.Context(), &registration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// published returns the CAs that aggregated servers are told to trust.
func published(t *testing.T, client kubernetes.Interface) []*x509.Certificate {
	t.Helper()
	config, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := cert.ParseCertsPEM(bytes.TrimSpace([]byte(config.Data["requestheader-client-ca-file"])))
	if err != nil {
		t.Fatal(err)
	}
	return certificates
}
