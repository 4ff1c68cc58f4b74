// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
)

// pauseImage is what containerd knows the image of the pause container as.
const pauseImage = "localhost/pause:1"

// The configurations of the programs, in which $DIR stands for the folder of the cluster and the others for what they say.
var (
	//go:embed node/containerd.toml
	containerdConfig string
	//go:embed node/kubelet.yaml
	kubeletConfig string
	//go:embed node/Corefile
	dnsConfig string
	//go:embed node/pods.conflist
	podNetwork string
)

// startNode starts the programs of the node, and waits until it takes Pods.
func (c *Cluster) startNode(ctx context.Context) error {
	plugins, err := folderOf("host-local")
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig, "Corefile": dnsConfig, "cni/pods.conflist": podNetwork,
	} {
		content = os.Expand(content, func(name string) string {
			return map[string]string{
				"DIR": c.dir, "CGROUP": c.cgroup(), "PLUGINS": plugins, "PAUSE": pauseImage, "POD_CIDR": podCIDR,
				"ADDRESS": Address, "KUBECONFIG": c.kubeconfig("coredns"),
			}[name]
		})
		path := c.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}

	containerd, err := c.launch("containerd", c.Containerd(), "--config", c.path("containerd.toml"))
	if err != nil {
		return err
	}
	if err := c.await(ctx, containerd); err != nil {
		return err
	}
	if err := c.ImportPrograms(ctx, pauseImage, "pause"); err != nil {
		return fmt.Errorf("importing the image of the pause container: %w", err)
	}
	scheduler, err := c.launch("kube-scheduler", "https://127.0.0.1:10259/healthz", c.clientFlags("kube-scheduler")...)
	if err != nil {
		return err
	}
	proxy, err := c.launch("kube-proxy", "http://127.0.0.1:10256/healthz", "--kubeconfig", c.kubeconfig("kube-proxy"),
		"--hostname-override", Node, "--proxy-mode", "iptables", "--cluster-cidr", podCIDR,
		"--conntrack-max-per-core", "0") // it may not be set in a namespace
	if err != nil {
		return err
	}
	flags := []string{"--config", c.path("kubelet.yaml"),
		"--kubeconfig", c.kubeconfig("kubelet"), "--root-dir", c.path("kubelet"), "--hostname-override", Node, "--node-ip", Address}
	if providers := c.config.CredentialProviders; providers.Config != "" {
		flags = append(flags, "--image-credential-provider-config", providers.Config, "--image-credential-provider-bin-dir", providers.Dir)
	}
	kubelet, err := c.launch("kubelet", "http://127.0.0.1:10248/healthz", flags...)
	if err != nil {
		return err
	}
	dns, err := c.launch("coredns", "http://127.0.0.1:8181/ready", "-conf", c.path("Corefile"))
	if err != nil {
		return err
	}
	for _, p := range []*component{scheduler, proxy, kubelet, dns} {
		if err := c.await(ctx, p); err != nil {
			return err
		}
	}
	return c.awaitNode(ctx, kubelet)
}

// awaitNode waits until the node is Ready, and until Pods have an account to run with.
func (c *Cluster) awaitNode(ctx context.Context, kubelet *component) error {
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	return c.until(ctx, kubelet, func(ctx context.Context) bool {
		node, err := client.CoreV1().Nodes().Get(ctx, Node, metav1.GetOptions{})
		if err != nil || !ready(node) {
			return false
		}
		_, err = client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
}

func ready(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
