// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"tagger.dev/tagger/pkg/importer"
)

// ours are the texts of errors: they quote nothing of a file.
var ours = regexp.MustCompile(`^(is not valid JSON; it should be a (docker config\.json|\.dockercfg)|is not of the format of a (docker config\.json|\.dockercfg)|` +
	`(the entry for HOST has an "auth" that is not base64( of user:password)?\n?)+)$`)

// FuzzConfig reads files of credentials and looks for those of a reference.
func FuzzConfig(f *testing.F) {
	for _, raw := range []string{
		`{"auths":{"quay.io":{"auth":"YWxpY2U6c2VjcmV0"}}}`, `{"auths":{"https://index.docker.io/v1/":{"username":"a","password":"b"}}}`,
		`{"auths":{"*.example:443/team/*":{"identitytoken":"t"},"[::1]":{"registrytoken":"r"}}}`, `{"quay.io":{"auth":"YQ"}}`,
		`{"auths":{"quay.io":{"auth":"%"},"[":{},"\\":{"auth":"OjpO"},"/":{},"":{}}}`, `{"auths":null}`, `{"auths":[]}`, `[`, `{"credHelpers":{"quay.io":"x"}}`,
	} {
		f.Add([]byte(raw), "quay.io/team/app")
	}
	f.Add([]byte(`{"auths":{"docker.io":{"auth":"YTpi\n"}}}`), "nginx")
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		ref, err := importer.ParseReference(name)
		if err != nil {
			t.Skip()
		}
		for _, parse := range []func([]byte) (*dockerConfig, error){parseConfig, parseLegacyConfig} {
			config, err := parse(raw)
			if err != nil {
				wantOurs(t, err, ref)
				continue
			}
			found, err := config.credentials(ref.Host(), ref.Repository())
			if err != nil {
				wantOurs(t, err, ref)
			}
			if slices.Contains(found, importer.Credential{}) {
				t.Error("the anonymous credential is among those found")
			}
			matching(config.CredentialHelpers, ref.Host(), ref.Repository())
			again, _ := config.credentials(ref.Host(), ref.Repository())
			if !slices.Equal(found, again) {
				t.Errorf("found %d credentials, then others in another order", len(found))
			}
		}
	})
}

func wantOurs(t *testing.T, err error, ref importer.Reference) {
	t.Helper()
	if text := strings.ReplaceAll(err.Error(), "for "+ref.Host()+" has", "for HOST has"); !ours.MatchString(text) {
		t.Errorf("%q may quote the file", err)
	}
}
