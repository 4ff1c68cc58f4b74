// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command cluster runs a Kubernetes of one node with Tagger in it on this machine until it is interrupted. `make cluster` builds the
// programs that it starts.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tagger.dev/tagger/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = errors.New("interrupted")
		}
	}()
	config := cluster.Config{}
	if os.Geteuid() != 0 {
		fmt.Fprintln(out, "Without root there is the control plane alone: no node, and no Tagger.")
		config.ControlPlaneOnly = true
	}
	fmt.Fprintln(out, "Starting Kubernetes ...")
	begin := time.Now()
	c, err := cluster.Start(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if config.ControlPlaneOnly {
		fmt.Fprintf(out, "It is ready, after %.0f s. Type in another shell:\n\n  export KUBECONFIG=%s\n\nCtrl-C ends it all and leaves nothing.\n",
			time.Since(begin).Seconds(), c.Kubeconfig())
		<-ctx.Done()
		return nil
	}
	fmt.Fprintln(out, "Installing Tagger ...")
	source, err := installTagger(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "It is ready, after %.0f s.\n", time.Since(begin).Seconds())
	if err := explain(ctx, out, c, source); err != nil {
		return err
	}
	<-ctx.Done()
	fmt.Fprintln(out, "\nStopping ...")
	return nil
}

// explain says what to type next; source is where people reach the registry to import from.
func explain(ctx context.Context, out io.Writer, c *cluster.Cluster, source string) error {
	var folders []string
	for _, program := range []string{"kubectl", "kubectl-image", "crane", "ctr"} {
		path, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		folders = append(folders, filepath.Dir(path))
	}
	from, mirror := net.JoinHostPort(cluster.Address, sourcePort), net.JoinHostPort(cluster.Address, mirrorPort)
	fmt.Fprintf(out, `
Type in another shell:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get pods --all-namespaces
  crane push %s %s/library/pause:1
  kubectl image import pause --from %s/library/pause:1 --insecure-source --mirror
  kubectl get images,imageimports
  kubectl run pause --image "$(kubectl get image pause --output jsonpath='{.status.hashReferences[0].imageReference}')"

That needs nothing from outside. An image of a registry that this machine reaches comes there by

  crane copy REFERENCE %s/NAME:TAG

Tagger mirrors to a registry at %s, which is kept in memory.

Pods and Services have addresses of their own, and the node has %s. Commands reach them from inside, as root:

  %s

There is no way out of the cluster, and DNS knows no other names than its own. An image, called localhost/NAME, comes in by

  ctr --address %s --namespace k8s.io image import ARCHIVE

Logs are in %s. Tagger has no volume here: its Images go with its Pod. Ctrl-C ends it all and leaves nothing.
`, c.Kubeconfig(), strings.Join(folders, ":"), c.PauseArchive(), source, from, source, mirror, cluster.Address,
		strings.Join(c.Command(ctx, "curl", "http://ADDRESS").Args, " "),
		c.Containerd(), filepath.Join(c.Dir(), "log"))
	return nil
}
