// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"tagger.dev/tagger/pkg/importer"
)

// dockerConfig is what counts of a docker config.json or a containers auth.json
// (containers-auth.json(5)), and of a Secret in one of these formats.
type dockerConfig struct {
	Auths             map[string]authEntry `json:"auths"`
	CredentialHelpers map[string]string    `json:"credHelpers"`
	CredentialStore   string               `json:"credsStore"`
}

// authEntry is the credential of one key.
type authEntry struct {
	// Auth is base64 of user:password, and goes before the next two.
	Auth     string `json:"auth"`
	Username string `json:"username"`
	Password string `json:"password"`
	// IdentityToken is an OAuth2 refresh token.
	IdentityToken string `json:"identitytoken"`
	// RegistryToken is a Bearer token that is sent as it is.
	RegistryToken string `json:"registrytoken"`
}

// parseConfig reads a config.json. An error quotes nothing of it.
func parseConfig(raw []byte) (*dockerConfig, error) {
	if !json.Valid(raw) {
		return nil, errors.New("is not valid JSON; it should be a docker config.json")
	}
	var config dockerConfig
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, &invisible{"is not of the format of a docker config.json", err}
	}
	return &config, nil
}

// parseLegacyConfig reads a .dockercfg, which is what "auths" has in a
// config.json. An error quotes nothing of it.
func parseLegacyConfig(raw []byte) (*dockerConfig, error) {
	if !json.Valid(raw) {
		return nil, errors.New("is not valid JSON; it should be a .dockercfg")
	}
	var config dockerConfig
	if err := json.Unmarshal(raw, &config.Auths); err != nil {
		return nil, &invisible{"is not of the format of a .dockercfg", err}
	}
	return &config, nil
}

// credential returns that of an entry, the empty one where it has none. An error
// quotes nothing of it.
func (e authEntry) credential() (importer.Credential, error) {
	c := importer.Credential{
		Username: e.Username, Password: e.Password, RefreshToken: e.IdentityToken, AccessToken: e.RegistryToken,
	}
	if e.Auth == "" {
		return c, nil
	}
	// With or without padding, as the kubelet reads it.
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	if err != nil {
		return c, &invisible{`has an "auth" that is not base64`, err}
	}
	user, password, found := strings.Cut(string(raw), ":")
	if !found || user == "" {
		return c, errors.New(`has an "auth" that is not base64 of user:password`)
	}
	c.Username, c.Password = user, strings.Trim(password, "\x00")
	return c, nil
}

// credentials returns those whose keys match a host and a repository, the most
// specific first, each once. Entries that match and cannot be read are the error;
// the others are returned nevertheless.
func (config *dockerConfig) credentials(host, repository string) ([]importer.Credential, error) {
	var found []importer.Credential
	var errs []error
	for _, name := range matching(config.Auths, host, repository) {
		c, err := config.Auths[name].credential()
		if err != nil {
			errs = append(errs, fmt.Errorf("the entry for %s %w", host, err))
			continue
		}
		if c != (importer.Credential{}) {
			found = append(found, c)
		}
	}
	return found, errors.Join(errs...)
}
