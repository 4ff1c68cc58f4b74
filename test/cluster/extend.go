// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
)

// Extend registers a Tagger that serves, or will serve, at a port of loopback, in a cluster of a control plane alone: the namespace,
// the service account with its rights, the roles and the APIService, from the folder of manifests. It returns the path of a
// kubeconfig of the service account, with which the server is started.
func (c *Cluster) Extend(ctx context.Context, manifests, port string) (string, error) {
	const home = "tagger"
	path := func(name string) string { return filepath.Join(manifests, name) }
	for _, args := range [][]string{
		{"apply", "-f", path("namespace.yaml")},
		{"apply", "-n", home, "-f", path("rbac.yaml"), "-f", path("secrets.yaml")},
		{"apply", "-f", path("other-namespaces.yaml"), "-f", path("roles.yaml")},
		{"create", "service", "externalname", "tagger", "-n", home, "--external-name", "localhost", "--tcp", port},
		{"apply", "-f", path("apiservice.yaml")},
		{"patch", "apiservice", "v1beta1.tagger.dev", "--type", "merge", "-p", `{"spec":{"service":{"port":` + port + `}}}`},
	} {
		if err := c.run(ctx, "kubectl", args...); err != nil {
			return "", fmt.Errorf("kubectl %s: %w", args[0], err)
		}
	}
	return c.account(ctx, home, "tagger")
}

// account returns the path of a kubeconfig of a service account, which works for some hours.
func (c *Cluster) account(ctx context.Context, namespace, name string) (string, error) {
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return "", err
	}
	request, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64((4 * time.Hour).Seconds()))}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return c.ByToken(request.Status.Token)
}

// ByToken makes a kubeconfig for whoever a token is, and returns its path. It works outside.
func (c *Cluster) ByToken(token string) (string, error) {
	c.mu.Lock()
	c.users++
	path := c.path("users", fmt.Sprintf("%d.kubeconfig", c.users))
	c.mu.Unlock()
	config := c.RESTConfig()
	return path, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"tagger": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"token": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"tagger": {Cluster: "tagger", AuthInfo: "token"}},
		CurrentContext: "tagger",
	}, path)
}
