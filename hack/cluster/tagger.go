// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"tagger.dev/tagger/test/cluster"
)

const (
	// archive has the image of the server, which make built and named so.
	archive = "output/e2e/tagger-apiserver.tar"
	image   = "localhost/tagger-apiserver:e2e"

	mirrorPort, sourcePort = "5000", "5001"
)

// installTagger installs Tagger by its chart, with a registry beside it to mirror to, and one to import from, which people reach at
// the address that is returned.
func installTagger(ctx context.Context, c *cluster.Cluster) (source string, err error) {
	if err := c.Import(ctx, archive); err != nil {
		return "", err
	}
	for _, port := range []string{mirrorPort, sourcePort} {
		if _, err := c.ServeRegistry(ctx, port); err != nil {
			return "", err
		}
	}
	if source, err = c.Forward(ctx, net.JoinHostPort(cluster.Address, sourcePort)); err != nil {
		return "", err
	}
	if err := publishMirror(ctx, c); err != nil {
		return "", err
	}
	helm := exec.CommandContext(ctx, "helm4", "install", "tagger", "artifacts/chart", "--namespace", "tagger", "--create-namespace",
		"--set", "image="+image+",persistence.enabled=false,registry.service.type=NodePort", "--wait", "--timeout", "3m")
	helm.Env = append(helm.Environ(), "KUBECONFIG="+c.Kubeconfig())
	for _, variable := range []string{"HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"} {
		helm.Env = append(helm.Env, variable+"="+filepath.Join(c.Dir(), "helm"))
	}
	if out, err := helm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing the chart: %w: %s", err, out)
	}
	return source, nil
}

// publishMirror says, as KEP-1755 has it, that the cluster has a registry beside it.
func publishMirror(ctx context.Context, c *cluster.Cluster) error {
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	host := net.JoinHostPort(cluster.Address, mirrorPort)
	_, err = client.CoreV1().ConfigMaps(metav1.NamespacePublic).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "local-registry-hosting"},
		Data:       map[string]string{"localRegistryHosting.v1": fmt.Sprintf("host: %s\nhostFromClusterNetwork: %s\n", host, host)},
	}, metav1.CreateOptions{})
	return err
}
