// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// Address is that of the node, inside. Whatever listens on it there is reached by Pods and by containerd.
	Address = "192.0.2.1"
	// Node is the name of the node.
	Node = "node1"

	serviceCIDR       = "10.96.0.0/16"
	kubernetesService = "10.96.0.1" // the first of them
	podCIDR           = "10.244.0.0/24"

	// patience is how long a program may take to become ready; machines that test are often busy.
	patience = 2 * time.Minute
)

// Config says what is started.
type Config struct {
	// ControlPlaneOnly starts what needs no root: etcd, kube-apiserver and kube-controller-manager. There is no node then, and no
	// namespace: inside means this machine. An aggregated server runs beside it and is registered by a Service of type
	// ExternalName, localhost.
	ControlPlaneOnly bool

	// APIServerFlags are given to kube-apiserver after its other flags.
	APIServerFlags []string

	// CredentialProviders is where the kubelet finds programs that give it credentials for images; none, where it is empty.
	CredentialProviders CredentialProviders
}

// CredentialProviders are those of a kubelet: the path of its CredentialProviderConfig, and the directory of the programs.
type CredentialProviders struct{ Config, Dir string }

// Cluster is a Kubernetes that runs until Close. Its methods may be used concurrently.
type Cluster struct {
	config  Config
	dir     string
	lock    *os.File // says, while it is locked, that the folder is in use
	ports   ports
	inside  network
	thread  *thread
	init    *exec.Cmd // the first process inside, with a node
	pki     *pki
	outside string // where kube-apiserver is reached from outside
	admin   Access
	probe   *http.Client
	relays  relays
	started []*component // in their order
	once    sync.Once
	closed  error

	mu    sync.Mutex // guards users, and the certificate and CA of the aggregation layer
	users int
}

// Check says why no such cluster can be started here: who may not, and which programs are missing.
func Check(config Config) error {
	programs := []string{"etcd", "kube-apiserver", "kube-controller-manager"}
	if !config.ControlPlaneOnly {
		if os.Geteuid() != 0 {
			return errors.New("a Kubernetes node needs root; its control plane alone does not")
		}
		programs = append(programs, "kube-scheduler", "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "ptp",
			"host-local", "loopback", "portmap", "pause", "coredns", "runc", "iptables", "ip", "mount", "nsenter")
	}
	var missing []string
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not found by PATH: %s; make builds those of Kubernetes, the others are packages of the system: "+
			"iptables, iproute2, runc", strings.Join(missing, ", "))
	}
	return nil
}

// Start starts a cluster and waits until it is ready: the API answers, and the node takes Pods. The context is for the start
// alone. Where it fails nothing is left, and the error says how the logs end.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if err := Check(config); err != nil {
		return nil, err
	}
	dir, lock, err := newFolder()
	if err != nil {
		return nil, err
	}
	c := &Cluster{config: config, dir: dir, lock: lock, thread: newThread()}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.prepare(ctx); err != nil {
		return err
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	if c.config.ControlPlaneOnly {
		return nil
	}
	return c.startNode(ctx)
}

// prepare makes all that the programs need before they start.
func (c *Cluster) prepare(ctx context.Context) error {
	var err error
	for _, folder := range []string{c.path("log"), c.HostsDir()} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
	}
	if c.ports, err = choosePorts(c.config.ControlPlaneOnly); err != nil {
		return err
	}
	if !c.config.ControlPlaneOnly {
		if err := c.enter(ctx); err != nil {
			return err
		}
	}
	if c.pki, err = newPKI(filepath.Join(c.dir, "pki"), c.address()); err != nil {
		return err
	}
	c.probe = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext:       c.Dial,
		TLSClientConfig:   &tls.Config{RootCAs: c.pki.ca.pool(), MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}}
	return c.grant(ctx)
}

// Close ends all that runs in the cluster and removes what it left. The first call does; others return the same.
func (c *Cluster) Close() error {
	c.once.Do(func() {
		c.relays.close()
		c.closed = errors.Join(c.leave(), os.RemoveAll(c.dir), c.lock.Close())
	})
	return c.closed
}

// Dir is the folder of all files of the cluster, the same inside and outside. Logs lie below it in log/, and Close removes it.
func (c *Cluster) Dir() string { return c.dir }

// Kubeconfig is the path of the administrator's kubeconfig, which works outside.
func (c *Cluster) Kubeconfig() string { return c.admin.Kubeconfig }

// RESTConfig is the administrator's, for clients in this process. It is a copy.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.admin.Config) }

// HostsDir is where containerd looks for the hosts.toml of registries, in a folder named by host and port, at each pull.
func (c *Cluster) HostsDir() string { return filepath.Join(c.dir, "hosts") }

// AddHost has the node know a name by an address, as a line of /etc/hosts does. Pods do not.
func (c *Cluster) AddHost(address, name string) error {
	file, err := os.OpenFile(c.path("etc-hosts"), os.O_APPEND|os.O_WRONLY, 0) // what is mounted is that file and no other
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s %s\n", address, name)
	return errors.Join(err, file.Close())
}

// Containerd is the path of its socket, on which it serves outside as well. The images of Pods are in its namespace k8s.io.
func (c *Cluster) Containerd() string { return c.path("containerd.sock") }

// PauseArchive is the path of an archive with the image of a program that does nothing until it is stopped.
func (c *Cluster) PauseArchive() string { return c.path("pause.tar") }

// Command returns a command that runs inside as the administrator of the cluster.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if c.init != nil {
		name, args = "nsenter", append([]string{"--net=" + c.inside.path, "--", name}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // running what the caller says is what it is for
	cmd.Env = append(environment(), "KUBECONFIG="+c.kubeconfig("kubectl"))
	return cmd
}

// Import makes the images of an archive, of Docker's or OCI's layout, known to containerd under the names that it has for them.
func (c *Cluster) Import(ctx context.Context, archive string) error {
	return c.run(ctx, "ctr", "--address", c.Containerd(), "--namespace", "k8s.io", "image", "import", archive)
}

func (c *Cluster) run(ctx context.Context, name string, args ...string) error {
	if out, err := c.Command(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}
