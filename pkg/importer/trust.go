// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// LoadHostCAs reads the certificate authorities of single hosts from a directory
// as docker lays it out: DIR/HOST[:PORT]/*.crt, in PEM. What it returns is for
// Options.HostCAs: those of the system together with those of the host. Other
// files are passed over, client certificates among them: nobody imports with a
// server's identity. An error names the file.
func LoadHostCAs(dir string) (map[string]*x509.CertPool, error) {
	hosts, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	pools := map[string]*x509.CertPool{}
	for _, host := range hosts {
		files, err := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(dir, host.Name())), "*.crt"))
		if err != nil || len(files) == 0 {
			continue
		}
		name, err := CanonicalHost(host.Name())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, host.Name()), err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the certificates of the system: %w", err)
		}
		for _, file := range files {
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s has no certificate in PEM", file)
			}
		}
		pools[name] = pool
	}
	return pools, nil
}

// escapeGlob lets a path be itself in a pattern; hosts may have brackets.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
