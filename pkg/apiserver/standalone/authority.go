// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"errors"
	"fmt"
	"io/fs"

	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apiserver/certificate"
)

// maxPEMBytes bounds the authority's files.
const maxPEMBytes = 64 << 10

// Authority returns the authority of the directory, which is made at the first
// call.
func (d *DataDir) Authority(clk clock.PassiveClock) (*certificate.Authority, error) {
	certPEM, err := readFile(d.CACertPath(), maxPEMBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return d.newAuthority(clk)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	keyPEM, err := readFile(d.file(caKeyFile), maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	authority, err := certificate.ReadAuthority(certPEM, keyPEM, clk)
	if errors.Is(err, certificate.ErrExpired) {
		return nil, fmt.Errorf("%w: delete %s for a new one, which clients have to be given", err, d.CACertPath())
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority from %s and %s: %w", d.CACertPath(), d.file(caKeyFile), err)
	}
	return authority, nil
}

// newAuthority makes an authority. Its certificate is written last: without it
// there is no authority yet, and the key of an attempt that was cut short is
// overwritten.
func (d *DataDir) newAuthority(clk clock.PassiveClock) (*certificate.Authority, error) {
	authority, err := certificate.NewAuthority(clk)
	if err != nil {
		return nil, err
	}
	if err := d.write(caKeyFile, authority.KeyPEM(), 0o600); err != nil {
		return nil, err
	}
	if err := d.write(caCertFile, authority.CertificatePEM(), 0o644); err != nil {
		return nil, err
	}
	return authority, nil
}
