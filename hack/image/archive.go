// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// newLayer returns the file system of the image, in its compressed form, and the digest of its plain form.
func newLayer(binary string, modified time.Time) ([]byte, digest.Digest, error) {
	executable, err := os.ReadFile(binary)
	if err != nil {
		return nil, "", err
	}
	var content bytes.Buffer
	zip, plain := gzip.NewWriter(&content), digest.Canonical.Digester()
	w := archive{tar.NewWriter(io.MultiWriter(zip, plain.Hash())), modified}
	err = errors.Join(
		w.add("etc/", 0o755, nil),
		w.add("etc/ssl/", 0o755, nil),
		w.add("etc/ssl/certs/", 0o755, nil),
		w.add("etc/ssl/certs/ca-certificates.crt", 0o644, roots()),
		w.add(program, 0o755, executable),
		w.add("tmp/", 0o1777, nil),
		w.Close(),
		zip.Close(),
	)
	return content.Bytes(), plain.Digest(), err
}

// roots returns the root certificates in PEM. One that Mozilla trusts with a reservation, such as "nothing issued after this
// day", is left out, because PEM cannot say that.
func roots() []byte {
	var certificates bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&certificates, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes everything
		}
	}
	return certificates.Bytes()
}

// writeArchive writes the files of a layout to an archive of that name.
func writeArchive(name string, layout fs.FS, modified time.Time) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	w := archive{tar.NewWriter(file), modified}
	err = fs.WalkDir(layout, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(layout, path)
		if err != nil {
			return err
		}
		return w.add(path, 0o644, content)
	})
	return errors.Join(err, w.Close(), file.Close())
}

// An archive knows nothing of its entries but name, mode and content. They are root's, and all of the same time.
type archive struct {
	*tar.Writer
	modified time.Time
}

// add adds a file, or a directory if the name ends in a slash.
func (w archive) add(name string, mode int64, content []byte) error {
	header := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: w.modified}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
