// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
)

const (
	// user is nobody's. As a number, it lets Kubernetes see that it is not root (runAsNonRoot).
	user = "65532:65532"

	// fullName is where containerd and Docker look for the name of an image in a layout.
	fullName = "io.containerd.image.name"
)

var versioned = specs.Versioned{SchemaVersion: 2}

// A builder makes one image of several platforms.
type builder struct {
	layout      *oci.Storage
	created     time.Time
	annotations map[string]string
}

// build writes dir/oci and dir/tagger-apiserver.tar, and returns the digest of the image. The SBOMs are in the index of the
// image, as BuildKit puts them there: whoever copies the image has them too, and index.json has the single entry that crane and
// skopeo want. They are referrers all the same, for each has the image of its platform as its subject.
func (b *builder) build(ctx context.Context, dir string, name registry.Reference, binaries []string) (digest.Digest, error) {
	layout := filepath.Join(dir, "oci")
	var err error
	if b.layout, err = oci.NewStorage(layout); err != nil {
		return "", err
	}
	index := ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Annotations: b.annotations}
	var sboms []ocispec.Descriptor
	for _, binary := range binaries {
		image, sbom, err := b.platform(ctx, binary)
		if err != nil {
			return "", fmt.Errorf("%s: %w", binary, err)
		}
		index.Manifests, sboms = append(index.Manifests, image), append(sboms, sbom)
	}
	index.Manifests = append(index.Manifests, sboms...)
	image, err := b.push(ctx, index.MediaType, index)
	if err != nil {
		return "", err
	}
	image.Annotations = map[string]string{fullName: name.String(), ocispec.AnnotationRefName: name.Reference}

	top := ocispec.Index{Versioned: versioned, MediaType: index.MediaType, Manifests: []ocispec.Descriptor{image}}
	for file, document := range map[string]any{
		ocispec.ImageIndexFile: top, ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
	} {
		content, err := json.Marshal(document)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(layout, file), content, 0o644); err != nil { //nolint:gosec // anybody may read it, as the blobs
			return "", err
		}
	}
	// Where blobs were written before they got their names.
	if err := os.Remove(filepath.Join(layout, "ingest")); err != nil {
		return "", err
	}
	return image.Digest, writeArchive(filepath.Join(dir, program+".tar"), os.DirFS(layout), b.created)
}

// platform stores the image of the platform that a binary was built for, and its SBOM.
func (b *builder) platform(ctx context.Context, binary string) (image, sbom ocispec.Descriptor, err error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return image, sbom, err
	}
	var platform ocispec.Platform
	for _, setting := range info.Settings {
		switch setting.Key {
		case "GOOS":
			platform.OS = setting.Value
		case "GOARCH":
			platform.Architecture = setting.Value
		}
	}
	content, diffID, err := newLayer(binary, b.created)
	if err != nil {
		return image, sbom, err
	}
	layer, err := oras.PushBytes(ctx, b.layout, ocispec.MediaTypeImageLayerGzip, content)
	if err != nil {
		return image, sbom, err
	}
	config, err := b.push(ctx, ocispec.MediaTypeImageConfig, ocispec.Image{
		Created:  &b.created,
		Platform: platform,
		Config:   ocispec.ImageConfig{User: user, Entrypoint: []string{"/" + program}, Labels: b.annotations},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	})
	if err != nil {
		return image, sbom, err
	}
	image, err = b.push(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: b.annotations,
	})
	if err != nil {
		return image, sbom, err
	}
	sbom, err = b.sbom(ctx, image, info)
	image.Platform = &platform
	return image, sbom, err
}

// sbom stores the SBOM of the image of one platform, as an artifact that has the image as its subject.
func (b *builder) sbom(ctx context.Context, image ocispec.Descriptor, info *buildinfo.BuildInfo) (ocispec.Descriptor, error) {
	content, err := newSBOM(image.Digest, info, b.annotations[ocispec.AnnotationVersion], b.annotations[ocispec.AnnotationCreated])
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := oras.PushBytes(ctx, b.layout, sbomType, content)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	sbom, err := oras.PackManifest(ctx, b.layout, oras.PackManifestVersion1_1, sbomType, oras.PackManifestOptions{
		Subject: &image, Layers: []ocispec.Descriptor{layer},
		ManifestAnnotations: map[string]string{ocispec.AnnotationCreated: b.annotations[ocispec.AnnotationCreated]},
	})
	// It is for no platform, which is said as BuildKit says it: an entry without a platform might be taken for anybody's. Its
	// type is in its manifest alone: older versions of skopeo drop it from an index, which then has another digest.
	return ocispec.Descriptor{
		MediaType: sbom.MediaType, Digest: sbom.Digest, Size: sbom.Size,
		Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"},
	}, err
}

func (b *builder) push(ctx context.Context, mediaType string, document any) (ocispec.Descriptor, error) {
	content, err := json.Marshal(document)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return oras.PushBytes(ctx, b.layout, mediaType, content)
}
