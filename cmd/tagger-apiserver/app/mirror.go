// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/subtle"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/pkg/importer"
)

// mirrors copies every Image into the embedded store.
type mirrors struct {
	store *embedded.Store
	// host is what references to mirrored images begin with: the registry endpoint as its clients reach it.
	host string
}

// Repository returns the repository HOST/NAMESPACE/IMAGE.
func (m mirrors) Repository(_ context.Context, namespace, image string) (importer.Destination, string, error) {
	return m.store.Repository(namespace, image), m.host + "/" + namespace + "/" + image, nil
}

// tokenAuthorizer lets whoever has the administrator's token do everything at the registry endpoint, and nobody else
// anything.
type tokenAuthorizer string

// Authorize implements distribution.Authorizer.
func (t tokenAuthorizer) Authorize(_ context.Context, creds distribution.Credentials, _ distribution.Repository, _ distribution.Action) error {
	if subtle.ConstantTimeCompare([]byte(creds.Token), []byte(t)) != 1 {
		return distribution.ErrUnauthenticated
	}
	return nil
}
