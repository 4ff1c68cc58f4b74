// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

const (
	layers    = 3
	layerSize = 64 << 10 // bytes
)

// must ends the test on an error of what builds its images.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// family is a set of media types that belong together.
type family struct {
	index, manifest, config, layer types.MediaType
}

var (
	ociTypes = family{types.OCIImageIndex, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer}
	// dockerTypes is what docker push makes.
	dockerTypes = family{types.DockerManifestList, types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer}
	// uncompressedTypes has layers as they are on a disk.
	uncompressedTypes = family{types.OCIImageIndex, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCIUncompressedLayer}
)

// newImage returns an image for linux and an architecture, that no other is like.
func newImage(t *testing.T, f family, architecture string) v1.Image {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, f.manifest), f.config)
	for range layers {
		image = must(mutate.AppendLayers(image, must(random.Layer(layerSize, f.layer))(t)))(t)
	}
	config := must(image.ConfigFile())(t).DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	return must(mutate.ConfigFile(image, config))(t)
}

// newIndex returns an index of two such images.
func newIndex(t *testing.T, f family) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, f.index)
	for _, architecture := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        newImage(t, f, architecture),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	return index
}

// newArtifact returns something that is no container image: a Helm chart or a signature would look like it. Its one layer has
// the content.
func newArtifact(t *testing.T, content string) v1.Image {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.config.v1+json")
	return must(mutate.AppendLayers(image, static.NewLayer([]byte(content), "application/vnd.example.data.v1")))(t)
}

// digestOf returns the digest of an image or an index.
func digestOf(t *testing.T, content interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	return must(content.Digest())(t).String()
}

// readAll reads a manifest and all that lies below it, every platform and every blob, and returns the bytes by digest. It
// fails the test where the bytes have another one.
func readAll(t *testing.T, ref name.Reference, options ...remote.Option) map[string][]byte {
	t.Helper()
	content := map[string][]byte{}
	keep := func(hash v1.Hash, data []byte) {
		if actual := digest.FromBytes(data).String(); actual != hash.String() {
			t.Errorf("%s: the bytes of %s have the digest %s", ref, hash, actual)
		}
		content[hash.String()] = data
	}
	var read func(name.Reference)
	read = func(ref name.Reference) {
		t.Helper()
		descriptor := must(remote.Get(ref, options...))(t)
		keep(descriptor.Digest, descriptor.Manifest)
		repository := ref.Context()
		if descriptor.MediaType.IsIndex() {
			for _, child := range must(v1.ParseIndexManifest(bytes.NewReader(descriptor.Manifest)))(t).Manifests {
				read(repository.Digest(child.Digest.String()))
			}
			return
		}
		manifest := must(v1.ParseManifest(bytes.NewReader(descriptor.Manifest)))(t)
		for _, blob := range append(manifest.Layers, manifest.Config) {
			layer := must(remote.Layer(repository.Digest(blob.Digest.String()), options...))(t)
			reader := must(layer.Compressed())(t)
			data := must(io.ReadAll(reader))(t)
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
			keep(blob.Digest, data)
		}
	}
	read(ref)
	return content
}

// pull reads an imageReference of the server to the last byte.
func (s *server) pull(t *testing.T, reference string) map[string][]byte {
	t.Helper()
	transport := s.transport()
	defer transport.CloseIdleConnections()
	return readAll(t, must(name.ParseReference(reference))(t), remote.WithTransport(transport), remote.WithAuth(s.basic()))
}

// basic is how the registry port is told the token.
func (s *server) basic() authn.Authenticator {
	return &authn.Basic{Username: "anybody", Password: s.token}
}
