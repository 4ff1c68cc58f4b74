// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
)

// Keys of the labels on a content. They are part of the storage format.
const (
	// repositoryLabelPrefix and a repository's name make the key of the label
	// that says that this repository holds the content.
	repositoryLabelPrefix = "tagger.dev/repository."
	// mediaTypeLabel marks a manifest and carries its media type.
	mediaTypeLabel = "tagger.dev/media-type"
	// referenceLabelPrefix is containerd's: the collector keeps the digests
	// that such labels have as their values.
	referenceLabelPrefix = "containerd.io/gc.ref.content."
	// optionalReferenceLabelPrefix names content that is kept when it is there
	// and not missed when it is not: layers that may not be distributed.
	optionalReferenceLabelPrefix = referenceLabelPrefix + "optional."
	// referrerLabelPrefix and a digest make the key of the label that a manifest
	// has for each one that refers to it, which it holds.
	referrerLabelPrefix = optionalReferenceLabelPrefix + "referrer."
)

// maxManifestSize bounds what is held in memory to be parsed, in bytes. It is
// far above the limit that an import has for manifests.
const maxManifestSize = 32 << 20

// containerdNamespace encodes a Kubernetes namespace as a containerd one.
// Containerd allows no two separators in a row, Kubernetes does; as neither
// Kubernetes nor the registry endpoint has upper case, 'D' can stand for the
// dash, and no two names meet.
func containerdNamespace(_ context.Context, namespace string) (string, error) {
	return strings.ReplaceAll(namespace, "-", "D"), nil
}

func repositoryLabel(name string) string { return repositoryLabelPrefix + name }

// imageName is the name of the image record of a tag. No repository name has a
// colon, so that names and tags cannot be mixed up.
func imageName(repo distribution.Repository, tag string) string { return repo.Name + ":" + tag }

// isManifest tells the media types that name other content from those that are
// only bytes.
func isManifest(mediaType string) bool {
	return images.IsManifestType(mediaType) || images.IsIndexType(mediaType)
}

// manifestLabels returns the labels that a manifest carries wherever it is
// held: its media type, and a reference for each thing that it names.
func manifestLabels(desc ocispec.Descriptor, manifest []byte) (map[string]string, error) {
	children, err := childrenOf(desc.MediaType, manifest)
	if err != nil {
		return nil, fmt.Errorf("%w: reading manifest %s: %w", errdefs.ErrInvalidArgument, desc.Digest, err)
	}
	return referenceLabels(desc, children)
}

// referenceLabels is manifestLabels of a manifest that was read already.
func referenceLabels(desc ocispec.Descriptor, children []child) (map[string]string, error) {
	labels := map[string]string{mediaTypeLabel: desc.MediaType}
	for i, child := range children {
		if child.Digest == "" {
			continue // a manifest without a config
		}
		if err := child.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("%w: manifest %s: child %d: %w", errdefs.ErrInvalidArgument, desc.Digest, i, err)
		}
		labels[referenceLabel(child.Digest, images.IsNonDistributable(child.MediaType))] = child.Digest.String()
	}
	return labels, nil
}

// referenceLabel is the key of the label that a manifest has for what it names, however often it does. Those that earlier
// versions have stored end in a number instead.
func referenceLabel(dgst digest.Digest, optional bool) string {
	if optional {
		return optionalReferenceLabelPrefix + dgst.String()
	}
	return referenceLabelPrefix + dgst.String()
}

// child is what counts of a descriptor here. The rest, such as annotations and
// URLs, would take many times the space in memory that it has in JSON.
type child struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
}

// maxManifestParts bounds how many things a manifest may name: each is a label, and
// takes ten times the space in memory that it can have in JSON.
const maxManifestParts = 10_000

var errTooManyParts = fmt.Errorf("it names more than %d things", maxManifestParts)

// children is a list of bounded length.
type children []child

// UnmarshalJSON implements json.Unmarshaler.
func (c *children) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
		return errors.Join(errors.New("what should be a list is none"), err)
	}
	*c = children{}
	for decoder.More() {
		if len(*c) == maxManifestParts {
			return errTooManyParts
		}
		var one child
		if err := decoder.Decode(&one); err != nil {
			return err
		}
		*c = append(*c, one)
	}
	return nil
}

// childrenOf returns what a manifest of a media type names, in order, the config
// first. It refuses what reads as both an image and an index.
func childrenOf(mediaType string, manifest []byte) ([]child, error) {
	var document struct {
		MediaType string          `json:"mediaType"`
		Config    *child          `json:"config"`
		Layers    children        `json:"layers"`
		Manifests children        `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(manifest, &document); err != nil {
		return nil, err
	}
	isIndex := images.IsIndexType(mediaType)
	switch {
	case document.FSLayers != nil:
		return nil, errors.New("it is of schema 1")
	case isIndex && (document.Config != nil || document.Layers != nil || images.IsManifestType(document.MediaType)):
		return nil, errors.New("an index with the content of an image")
	case !isIndex && (document.Manifests != nil || images.IsIndexType(document.MediaType)):
		return nil, errors.New("an image with the content of an index")
	case isIndex:
		return document.Manifests, nil
	case document.Config == nil:
		document.Config = &child{}
	}
	return append([]child{*document.Config}, document.Layers...), nil
}

// subjectOf returns the digest of what a manifest refers to, if it is one that
// can be there.
func subjectOf(manifest []byte) digest.Digest {
	var document struct {
		Subject child `json:"subject"`
	}
	if json.Unmarshal(manifest, &document) != nil || document.Subject.Digest.Validate() != nil {
		return ""
	}
	return document.Subject.Digest
}
