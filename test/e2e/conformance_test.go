// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/test/cluster"
	"tagger.dev/tagger/test/lab"
)

// conformance runs the conformance suite of the OCI distribution specification, of its release and of what comes next, against the
// registry port in front of mirrors. What a mirror cannot do itself may fail, and is named. Of what it lets nobody do, as the
// distribution project's lets nobody delete tags, the suite says that it is skipped.
func conformance(t *testing.T, x *tagger, source string) {
	program := installed(t, "conformance")
	authority, err := x.kube.CoreV1().Secrets(home).Get(t.Context(), "tagger-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(trusted, authority.Data["tls.crt"], 0o600); err != nil {
		t.Fatal(err)
	}
	admin := x.adminToken(t)
	for _, tt := range []struct {
		name  string
		start func(t *testing.T) values
		// beyond is what the mirror cannot do, by the beginning of what the suite calls it.
		beyond map[string]string
	}{
		{name: "distribution", start: startDistribution, beyond: map[string]string{
			"sha512/":                   "it keeps manifests by sha256 alone",
			"tag-param-sha512/":         "it keeps manifests by sha256 alone", // of the next version
			"non-distributable-layers/": "it answers 500 to a manifest that names layers to be had elsewhere",
		}},
		{name: "olareg", start: startOlareg},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := tt.start(t)
			x.mirrorAt(t, home, at)
			for _, version := range []string{"1.1", "dev"} {
				namespace := "conformance-" + tt.name + "-" + strings.ReplaceAll(version, ".", "")
				x.namespace(t, namespace, nil)
				x.wantMirrored(t, namespace, source, at["address"]+"/"+namespace+"/", "") // from now on the mirror is there
				missed := map[string]bool{}
				for _, name := range lab.Conformance(t, program, tt.name+"-"+version, "SSL_CERT_FILE="+trusted, "OCI_REGISTRY="+x.registry,
					"OCI_USERNAME=anybody", "OCI_PASSWORD="+admin, "OCI_VERSION="+version,
					"OCI_REPO1="+namespace+"/conformance", "OCI_REPO2="+namespace+"/other") {
					known := false
					for beginning := range tt.beyond {
						if strings.HasPrefix(name, beginning) {
							known, missed[beginning] = true, true
						}
					}
					if !known {
						t.Errorf("%s: failed: %s", version, name)
					}
				}
				for beginning, why := range tt.beyond {
					if version == "dev" && !missed[beginning] {
						t.Errorf("%s passes now, where %s", beginning, why)
					}
				}
			}
		})
	}
	x.mirrorAt(t, home, values{})
}

// installed returns where a program is that the test needs.
func installed(t *testing.T, name string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		lacks(t, err, true)
	}
	return program
}

// startDistribution starts the registry of the distribution project as Debian packages it, and says how it is a mirror. Version 2.8 is
// the last to lack the referrers API.
func startDistribution(t *testing.T) values {
	t.Helper()
	program := installed(t, "docker-registry")
	ports, err := cluster.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	dir, host := t.TempDir(), net.JoinHostPort("127.0.0.1", ports[0])
	config := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}
http: {addr: %q}
`, filepath.Join(dir, "data"), host), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, "http://"+host+"/v2/", exec.Command(program, "serve", config))
	return values{"address": host, "insecure": "true"}
}

// startOlareg starts a registry that has all of the specification, and says how it is a mirror.
func startOlareg(t *testing.T) values {
	t.Helper()
	program := installed(t, "olareg")
	ports, err := cluster.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	host := net.JoinHostPort("127.0.0.1", ports[0])
	background(t, "http://"+host+"/v2/", exec.Command(program, "serve", "--addr", "127.0.0.1", "--port", ports[0], "--dir", t.TempDir(), "--api-delete", "--api-blob-delete"))
	return values{"address": host, "insecure": "true"}
}

// background runs a program until the test ends, and waits until it answers at a URL.
func background(t *testing.T, url string, cmd *exec.Cmd) {
	t.Helper()
	log := &safeBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of %s:\n%s", cmd.Path, log)
		}
	})
	eventually(t, "it answers at "+url, func(ctx context.Context) error { return answers(ctx, url) })
}
