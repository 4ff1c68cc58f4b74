// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"tagger.dev/tagger/test/cluster"
)

const (
	// patience is how long anything may take that should happen soon; machines that test are often busy.
	patience = 2 * time.Minute
	// pollInterval is how often a condition is looked at.
	pollInterval = 100 * time.Millisecond
)

// require skips a test where there can be no such cluster.
func require(t *testing.T, config cluster.Config) {
	t.Helper()
	if err := cluster.Check(config); err != nil {
		lacks(t, err, os.Geteuid() == 0)
	}
}

// lacks skips a test for what the machine lacks, or fails it where TAGGER_REQUIRE_CLIENTS is set and that can be had.
func lacks(t *testing.T, err error, available bool) {
	t.Helper()
	if available && os.Getenv("TAGGER_REQUIRE_CLIENTS") != "" { //nolint:forbidigo // this is where the tests are told
		t.Fatalf("%v, and TAGGER_REQUIRE_CLIENTS is set", err)
	}
	t.Skip(err)
}

// start starts a cluster for a test, which owns it. The test is skipped where there can be none.
func start(t *testing.T, config cluster.Config) *cluster.Cluster {
	t.Helper()
	require(t, config)
	begin := time.Now()
	c, err := cluster.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %.1f s", time.Since(begin).Seconds())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of the cluster:\n%s", c.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// kubeClient returns a client of the administrator's.
func kubeClient(t *testing.T, c *cluster.Cluster) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// kubectl runs the client from outside, and returns what it printed.
func kubectl(t *testing.T, c *cluster.Cluster, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+c.Kubeconfig(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// eventually fails the test unless something succeeds in the end; what says which.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, patience, true, func(ctx context.Context) (bool, error) {
		last = try(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("waiting until %s: %v: %v", what, err, last)
	}
}

// serveRegistry starts a registry at a port of the node, until it is stopped or the test ends.
func serveRegistry(t *testing.T, c *cluster.Cluster, port string) *cluster.Registry {
	t.Helper()
	registry, err := c.ServeRegistry(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Stop)
	return registry
}

// pushTestserver builds the test server, once for each cluster, and pushes an image of it.
func pushTestserver(t *testing.T, c *cluster.Cluster, reference string) {
	t.Helper()
	program := filepath.Join(c.Dir(), "testserver")
	if _, err := os.Stat(program); err != nil {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testserver")
		build.Env = append(build.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building the test server: %v: %s", err, out)
		}
	}
	image, err := cluster.Image(program)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: c.Dial}
	defer transport.CloseIdleConnections()
	if err := remote.Write(tag, image, remote.WithTransport(transport), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}
