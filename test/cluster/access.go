// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"fmt"
	"net"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Access is how somebody reaches the API from outside.
type Access struct {
	// Kubeconfig is a path.
	Kubeconfig string
	// Config is the same for clients in this process.
	Config *rest.Config
}

// address is where the programs of the cluster reach each other.
func (c *Cluster) address() net.IP {
	if c.config.ControlPlaneOnly {
		return net.IPv4(127, 0, 0, 1)
	}
	return net.ParseIP(Address)
}

// endpoint is where kube-apiserver listens.
func (c *Cluster) endpoint() string { return net.JoinHostPort(c.address().String(), c.ports.apiserver) }

// grant writes the kubeconfigs of the programs and of the administrator.
func (c *Cluster) grant(ctx context.Context) error {
	var err error
	c.outside = c.endpoint()
	if !c.config.ControlPlaneOnly {
		if c.outside, err = c.Forward(ctx, c.endpoint()); err != nil {
			return err
		}
	}
	for _, user := range []struct {
		program, name string
		groups        []string
	}{
		{"kubectl", "admin", []string{"system:masters"}},
		{"kube-controller-manager", "system:kube-controller-manager", nil},
		{"kube-scheduler", "system:kube-scheduler", nil},
		{"kubelet", "system:node:" + Node, []string{"system:nodes"}},
		{"kube-proxy", "system:kube-proxy", nil},
		{"coredns", "coredns", []string{"system:masters"}}, // no role of Kubernetes' own has all that it reads
	} {
		if _, err := c.access(c.kubeconfig(user.program), c.endpoint(), user.name, user.groups...); err != nil {
			return err
		}
	}
	c.admin, err = c.access(c.path("kubeconfig"), c.outside, "admin", "system:masters")
	return err
}

// kubeconfig is the path of that of a program inside.
func (c *Cluster) kubeconfig(program string) string { return c.path("inside", program+".kubeconfig") }

// User makes a kubeconfig with a client certificate for somebody of that name, who is in those groups and may do what the
// cluster's roles allow them. It works outside.
func (c *Cluster) User(name string, groups ...string) (Access, error) {
	c.mu.Lock()
	c.users++
	path := c.path("users", fmt.Sprintf("%d.kubeconfig", c.users)) // a name may hold anything
	c.mu.Unlock()
	return c.access(path, c.outside, name, groups...)
}

func (c *Cluster) access(path, server, name string, groups ...string) (Access, error) {
	certificate, key, err := c.pki.ca.sign(client(name, groups...))
	if err != nil {
		return Access{}, err
	}
	config := clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			"tagger": {Server: "https://" + server, CertificateAuthorityData: c.pki.ca.pem()},
		},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: certificate, ClientKeyData: key}},
		Contexts:       map[string]*clientcmdapi.Context{"tagger": {Cluster: "tagger", AuthInfo: name}},
		CurrentContext: "tagger",
	}
	if err := clientcmd.WriteToFile(config, path); err != nil {
		return Access{}, err
	}
	client, err := clientcmd.NewDefaultClientConfig(config, nil).ClientConfig()
	if err != nil {
		return Access{}, err
	}
	client.QPS = -1 // who waits for something asks often
	return Access{Kubeconfig: path, Config: client}, nil
}
