// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"fmt"
)

// startControlPlane starts what needs no node, and waits until the API works.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	etcdURL, peerURL := "http://127.0.0.1:"+c.ports.etcd, "http://127.0.0.1:"+c.ports.etcdPeer
	etcd, err := c.launch("etcd", etcdURL+"/readyz", "--name", Node, "--data-dir", c.path("etcd"),
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", Node+"="+peerURL,
		"--unsafe-no-fsync") // nothing of it is to outlive the machine
	if err != nil {
		return err
	}
	if err := c.await(ctx, etcd); err != nil {
		return err
	}
	apiserver, err := c.launch("kube-apiserver", "https://"+c.endpoint()+"/readyz", c.apiserverFlags(etcdURL)...)
	if err != nil {
		return err
	}
	if err := c.await(ctx, apiserver); err != nil {
		return err
	}
	manager, err := c.launch("kube-controller-manager", fmt.Sprintf("https://127.0.0.1:%s/healthz", c.ports.controllerManager),
		append(c.clientFlags("kube-controller-manager"), "--secure-port", c.ports.controllerManager, "--use-service-account-credentials",
			"--resource-quota-sync-period", "10s", // what it did not see happen it counts by default after five minutes
			"--service-account-private-key-file", c.pki.path("service-account.key"), "--root-ca-file", c.pki.path("ca.crt"))...)
	if err != nil {
		return err
	}
	return c.await(ctx, manager)
}

func (c *Cluster) apiserverFlags(etcdURL string) []string {
	flags := []string{
		"--etcd-servers", etcdURL, "--advertise-address", c.address().String(), "--secure-port", c.ports.apiserver,
		"--tls-cert-file", c.pki.path("server.crt"), "--tls-private-key-file", c.pki.path("server.key"),
		"--cert-dir", c.path("apiserver"),
		"--service-cluster-ip-range", serviceCIDR, "--allow-privileged",

		"--client-ca-file", c.pki.path("ca.crt"),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", c.pki.path("service-account.key"),
		"--service-account-signing-key-file", c.pki.path("service-account.key"),

		"--requestheader-client-ca-file", c.pki.path("front-ca.crt"), "--requestheader-allowed-names", frontProxyName,
		"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"--proxy-client-cert-file", c.pki.path("front-proxy.crt"), "--proxy-client-key-file", c.pki.path("front-proxy.key"),
	}
	if c.config.ControlPlaneOnly {
		// Addresses of loopback are refused in the Endpoints of a Service, that of the API among them.
		flags = append(flags, "--bind-address", "127.0.0.1", "--endpoint-reconciler-type", "none")
	} else {
		// The name of the node does not resolve.
		flags = append(flags, "--kubelet-preferred-address-types", "InternalIP",
			"--kubelet-certificate-authority", c.pki.path("ca.crt"),
			"--kubelet-client-certificate", c.pki.path("kubelet-client.crt"), "--kubelet-client-key", c.pki.path("kubelet-client.key"))
	}
	return append(flags, c.config.APIServerFlags...)
}

// clientFlags are those of a program that works by the API, alone, and says on loopback how it is.
func (c *Cluster) clientFlags(name string) []string {
	return []string{
		"--kubeconfig", c.kubeconfig(name), "--leader-elect=false", "--bind-address", "127.0.0.1",
		"--tls-cert-file", c.pki.path("server.crt"), "--tls-private-key-file", c.pki.path("server.key"),
	}
}
