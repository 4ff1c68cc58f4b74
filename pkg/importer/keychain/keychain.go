// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package keychain finds the credentials for an image reference. It owns how
// they are stored and matched, and never sends, keeps or prints them: where they
// may travel is for package importer to decide.
package keychain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/types"
	"oras.land/oras-go/v2/registry/remote/auth"

	"tagger.dev/tagger/pkg/importer"
)

// None has no credentials, so that every source is asked anonymously.
var None importer.Keychain = none{}

type none struct{}

func (none) Credentials(context.Context, importer.Reference) ([]auth.Credential, error) {
	return nil, nil
}

// AuthFile returns the credentials of a docker config.json or a containers
// auth.json (containers-auth.json(5)). Keys name a host or a path below it; the
// longest that matches whole segments comes first. Credential helpers that the
// file names are run, as docker does. The file is read at every use, so that it
// may be replaced at any time. One that is missing or broken is an
// *importer.Error of Kind Unauthorized, which names the path and quotes nothing.
func AuthFile(path string) importer.Keychain { return authFile{path} }

type authFile struct{ path string }

func (f authFile) Credentials(_ context.Context, ref importer.Reference) ([]auth.Credential, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	system := &types.SystemContext{
		AuthFilePath: f.path,
		// This file alone counts, not what a machine configures for its runtimes.
		SystemRegistriesConfPath:    os.DevNull,
		SystemRegistriesConfDirPath: os.DevNull + ".d",
	}
	var found []auth.Credential
	key := ref.Host() + "/" + ref.Repository()
	for more := true; more; key, more = parent(key) {
		c, err := config.GetCredentials(system, key)
		if err != nil {
			return nil, f.broken(err, "has an entry for %s that cannot be used", ref.Host())
		}
		credential := auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.IdentityToken}
		if credential != auth.EmptyCredential && !slices.Contains(found, credential) {
			found = append(found, credential)
		}
	}
	return found, nil
}

// parent drops the last segment of a key.
func parent(key string) (string, bool) {
	i := strings.LastIndexByte(key, '/')
	return key[:max(i, 0)], i >= 0
}

// check tells a missing or unreadable file, for which the library would report
// no credentials, or quote it.
func (f authFile) check() error {
	raw, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.broken(err, "does not exist")
	case err != nil:
		return f.broken(err, "cannot be read; check its permissions")
	case !json.Valid(raw):
		return f.broken(nil, "is not valid JSON; it should be a docker config.json")
	}
	return nil
}

func (f authFile) broken(err error, format string, args ...any) error {
	return &importer.Error{Kind: importer.Unauthorized, Err: &fileError{
		text: "the registry auth file " + f.path + " " + fmt.Sprintf(format, args...),
		err:  err,
	}}
}

// fileError keeps the text of its cause, which may quote the file, out of its
// own.
type fileError struct {
	text string
	err  error
}

func (e *fileError) Error() string { return e.text }
func (e *fileError) Unwrap() error { return e.err }
