// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// configureClients writes, below the server's home, the configuration of those clients that have one: whom to trust, and the
// token.
func (s *server) configureClients(config *rest.Config) error {
	certificates := filepath.Join(s.home, "certs") // for skopeo, which reads a directory
	if err := os.MkdirAll(certificates, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(certificates, "ca.crt"), config.CAData, 0o600); err != nil {
		return err
	}
	for name, content := range map[string]any{
		"config.json": map[string]any{"auths": map[string]any{s.registry: map[string]string{
			"auth": base64.StdEncoding.EncodeToString([]byte("anybody:" + config.BearerToken)),
		}}},
		"regctl.json": map[string]any{"hosts": map[string]any{s.registry: map[string]string{
			"tls": "enabled", "regcert": string(config.CAData), "user": "anybody", "pass": config.BearerToken,
		}}},
	} {
		data, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.home, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// require finds a client by PATH. Where it is not installed the test is skipped, or fails where TAGGER_REQUIRE_CLIENTS is set.
func require(t *testing.T, client string) string {
	t.Helper()
	program, err := exec.LookPath(client)
	if err == nil {
		return program
	}
	if clientsRequired() {
		t.Fatalf("%q is not installed, and TAGGER_REQUIRE_CLIENTS is set", client)
	}
	t.Skipf("%q is not installed", client)
	return ""
}

func clientsRequired() bool {
	return os.Getenv("TAGGER_REQUIRE_CLIENTS") != "" //nolint:forbidigo // this is where the tests are told
}

// result is how a client ended.
type result struct {
	stdout, stderr string
	code           int
}

// command prepares a client that talks to the server with the server's own configuration and nothing of the user's.
func (s *server) command(t *testing.T, client string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), require(t, client), args...)
	cmd.Env = append(cmd.Environ(), "HOME="+s.home, "KUBECONFIG="+s.kubeconfig(), "SSL_CERT_FILE="+filepath.Join(s.dir, "ca.crt"),
		"DOCKER_CONFIG="+s.home, "REGCTL_CONFIG="+filepath.Join(s.home, "regctl.json"))
	return cmd
}

// try runs a client to its end, whatever that is.
func (s *server) try(t *testing.T, client string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := s.command(t, client, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", client, strings.Join(args, " "), err)
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// run runs a client that must succeed and returns what it printed.
func (s *server) run(t *testing.T, client string, args ...string) string {
	t.Helper()
	r := s.try(t, client, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", client, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// eventuallyPrints waits until a client succeeds and prints want, spaces around it apart.
func (s *server) eventuallyPrints(t *testing.T, want, client string, args ...string) {
	t.Helper()
	var last result
	err := poll(func(context.Context) (bool, error) {
		last = s.try(t, client, args...)
		return last.code == 0 && strings.TrimSpace(last.stdout) == want, nil
	})
	if err != nil {
		t.Fatalf("%s %s never printed %q, but last: %+v", client, strings.Join(args, " "), want, last)
	}
}

// file writes a file for a client to read.
func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
