// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"

	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/pkg/importer"
)

// embeddedMirror copies every Image into the embedded store.
type embeddedMirror struct {
	store *embedded.Store
	// host is what references to mirrored images begin with: the registry endpoint as its clients reach it.
	host string
}

// Repository returns the repository HOST/NAMESPACE/IMAGE.
func (m embeddedMirror) Repository(_ context.Context, namespace, image string) (importer.Destination, string, error) {
	return m.store.Repository(namespace, image), m.host + "/" + namespace + "/" + image, nil
}
