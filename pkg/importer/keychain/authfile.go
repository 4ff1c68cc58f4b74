// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"oras.land/oras-go/v2/registry/remote/credentials"

	"tagger.dev/tagger/pkg/importer"
)

// AuthFile returns the credentials of a docker config.json or a containers
// auth.json. Credential helpers that the file names are run, as docker does, and
// come after its own entries. The file is read at every use, so that it may be
// replaced at any time. One that is missing or broken is an *importer.Error of
// Kind Unauthorized, which names the path and quotes nothing.
func AuthFile(path string) importer.Keychain { return authFile{path} }

type authFile struct{ path string }

func (f authFile) Credentials(ctx context.Context, ref importer.Reference) ([]importer.Credential, error) {
	config, err := f.read()
	if err != nil {
		return nil, f.broken(err)
	}
	found, err := config.credentials(ref.Host(), ref.Repository())
	if err != nil {
		return nil, f.broken(fmt.Errorf("cannot be used: %w", err))
	}
	helped, err := config.ask(ctx, ref)
	if err != nil {
		return nil, f.broken(err)
	}
	return distinct(append(found, helped...)), nil
}

func (f authFile) read() (*dockerConfig, error) {
	raw, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &invisible{"does not exist", err}
	case err != nil:
		return nil, &invisible{"cannot be read; check its permissions", err}
	}
	return parseConfig(raw)
}

func (f authFile) broken(err error) error {
	return broken(fmt.Sprintf("the registry auth file %s %s", f.path, err), err)
}

// ask asks the credential helper that is responsible for a host, if there is one.
func (config *dockerConfig) ask(ctx context.Context, ref importer.Reference) ([]importer.Credential, error) {
	helper := config.CredentialStore
	if names := matching(config.CredentialHelpers, ref.Host(), ref.Repository()); len(names) > 0 {
		helper = config.CredentialHelpers[names[0]]
	}
	if helper == "" {
		return nil, nil
	}
	host := ref.Host()
	if host == importer.DockerHub {
		host = dockerHubKey
	}
	c, err := credentials.NewNativeStore(helper).Get(ctx, host)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, &invisible{fmt.Sprintf("names the credential helper docker-credential-%s, which is not in the PATH of the server; "+
			"install it there, or have the file hold the credentials themselves", helper), err}
	case err != nil:
		return nil, &invisible{fmt.Sprintf("names the credential helper docker-credential-%s, which failed for %s; "+
			"run it as the server does to see why", helper, ref.Host()), err}
	}
	return []importer.Credential{{
		Username: c.Username, Password: c.Password, RefreshToken: c.RefreshToken, AccessToken: c.AccessToken,
	}}, nil
}

// maxCredentials is how many credentials one source is tried with: whoever writes
// Secrets is not to guess passwords by them.
const maxCredentials = 16

// distinct returns the credentials that are none of the empty one, each once and
// the first ones alone: one that may travel insecurely by any of its entries may do
// so.
func distinct(all []importer.Credential) []importer.Credential {
	once := []importer.Credential{}
	places := map[importer.Credential]int{} // in once, by what they are apart from how they travel
	for _, c := range all {
		insecure := c.InsecureTransport
		c.InsecureTransport = false
		at, known := places[c]
		switch {
		case c == importer.Credential{}:
		case known:
			once[at].InsecureTransport = once[at].InsecureTransport || insecure
		case len(once) < maxCredentials:
			places[c] = len(once)
			c.InsecureTransport = insecure
			once = append(once, c)
		}
	}
	return once
}
