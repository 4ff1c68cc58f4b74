// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Description is what a manifest says of what it is of, without more being read.
type Description struct {
	// Size is that of the distinct blobs of an image, in bytes; 0 for an index.
	Size int64
	// Platforms are those that the descriptors of an index name, at most 100.
	Platforms []string
	// Config is that of an image which tells its platform; the zero Descriptor where
	// there is none, or where it is larger than one is read.
	Config ocispec.Descriptor
}

// Describe reads a manifest that was served as mediaType. Errors are *Error of Kind
// UnsupportedManifest.
func Describe(raw []byte, mediaType string) (Description, error) {
	m, err := parseManifest(raw, mediaType, digest.FromBytes(raw))
	if err != nil {
		return Description{}, err
	}
	d := Description{Platforms: platforms(m.children)}
	if m.config != nil {
		d.Size = totalSize(distinct(m.blobs))
		if isImageConfig(m.config.MediaType) && m.config.Size <= maxConfigBytes {
			d.Config = *m.config
		}
	}
	return d, nil
}

// ConfigPlatform returns the platform that the config of an image names, as
// os/architecture[/variant]; empty where it names none.
func ConfigPlatform(config []byte) string {
	var p ocispec.Platform
	if json.Unmarshal(config, &p) != nil {
		return ""
	}
	return platformName(p)
}
