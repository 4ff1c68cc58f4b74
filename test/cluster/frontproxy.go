// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// RotateFrontProxyCertificate gives the aggregation layer a new certificate, which kube-apiserver reads within a minute.
func (c *Cluster) RotateFrontProxyCertificate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pki.writeFrontProxy()
}

// RotateFrontProxyCA gives the aggregation layer a new CA, and a certificate of it once kube-apiserver has told the aggregated
// servers to trust that CA as well. kube-apiserver takes none back that it told them of.
func (c *Cluster) RotateFrontProxyCA(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, err := newAuthority("front-proxy")
	if err != nil {
		return err
	}
	if err := c.pki.write("front-ca.crt", slices.Concat(next.pem(), c.pki.front.pem())); err != nil {
		return err
	}
	if err := c.awaitPublished(ctx, string(next.pem())); err != nil {
		return err
	}
	c.pki.front = next
	return c.pki.writeFrontProxy()
}

// awaitPublished waits until aggregated servers can read of a CA.
func (c *Cluster) awaitPublished(ctx context.Context, ca string) error {
	apiserver, err := c.component("kube-apiserver")
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	err = c.until(ctx, apiserver, func(ctx context.Context) bool {
		published, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
		return err == nil && strings.Contains(published.Data["requestheader-client-ca-file"], ca)
	})
	if err != nil {
		return fmt.Errorf("publishing the CA of the aggregation layer: %w", err)
	}
	return nil
}
