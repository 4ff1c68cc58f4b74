// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"
)

// savedManifest is the file that makes an archive one of docker's.
const savedManifest = "manifest.json"

// What docker calls its own types of blobs and manifests.
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// savedImage is an image as manifest.json of docker's archives lists it.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// blobs are blobs by digest, each of which opens.
type blobs map[digest.Digest]func() (io.ReadCloser, error)

func (b blobs) Fetch(_ context.Context, target ocispec.Descriptor) (io.ReadCloser, error) {
	open, ok := b[target.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", target.Digest, errdef.ErrNotFound)
	}
	return open()
}

func (b blobs) Exists(_ context.Context, target ocispec.Descriptor) (bool, error) {
	_, ok := b[target.Digest]
	return ok, nil
}

// openSaved opens an image in an archive of docker's. Layers that are not compressed are compressed into scratch: they are moved
// so, and a registry keeps them so.
func openSaved(ctx context.Context, a *archive, reference, scratch string) (*Source, error) {
	var list []savedImage
	if err := readJSON(a, savedManifest, &list); err != nil {
		return nil, err
	}
	image, err := chooseSaved(list, reference)
	if err != nil {
		return nil, err
	}
	config, err := readBlob(a, image.Config)
	if err != nil {
		return nil, err
	}
	var described ocispec.Image
	if err := json.Unmarshal(config, &described); err != nil {
		return nil, fmt.Errorf("%s: %w", image.Config, err)
	}
	if len(described.RootFS.DiffIDs) != len(image.Layers) {
		return nil, fmt.Errorf("%s lists %d layers, its config %d", savedManifest, len(image.Layers), len(described.RootFS.DiffIDs))
	}

	layers := make([]ocispec.Descriptor, len(image.Layers))
	opens := make([]func() (io.ReadCloser, error), len(image.Layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range image.Layers {
		group.Go(func() (err error) {
			file := filepath.Join(scratch, fmt.Sprintf("layer-%d.tar.gz", i))
			layers[i], opens[i], err = savedLayer(ctx, a, name, described.RootFS.DiffIDs[i], file)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return assemble(config, layers, opens)
}

// assemble makes the manifest of a config and layers. It is docker's own kind, as docker pushes it, where that knows the layers.
func assemble(config []byte, layers []ocispec.Descriptor, opens []func() (io.ReadCloser, error)) (*Source, error) {
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest, Layers: layers,
		Config: descriptorOf(dockerConfig, config),
	}
	if slices.ContainsFunc(layers, func(layer ocispec.Descriptor) bool { return layer.MediaType == ocispec.MediaTypeImageLayerZstd }) {
		manifest.MediaType, manifest.Config.MediaType = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
		for i := range layers {
			layers[i].MediaType = strings.Replace(layers[i].MediaType, dockerLayerGzip, ocispec.MediaTypeImageLayerGzip, 1)
		}
	}
	body, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	root := descriptorOf(manifest.MediaType, body)
	all := blobs{root.Digest: inMemory(body), manifest.Config.Digest: inMemory(config)}
	for i, layer := range layers {
		all[layer.Digest] = opens[i]
	}
	return &Source{ReadOnlyStorage: all, Root: root}, nil
}

func descriptorOf(mediaType string, body []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
}

func inMemory(body []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
}

// chooseSaved returns which of the images of docker's archive is meant.
func chooseSaved(list []savedImage, reference string) (savedImage, error) {
	var names []string
	for _, image := range list {
		if reference != "" && slices.Contains(image.RepoTags, reference) {
			return image, nil
		}
		names = append(names, image.RepoTags...)
	}
	switch {
	case len(list) == 0:
		return savedImage{}, errors.New("there is no image in it")
	case reference != "":
		return savedImage{}, fmt.Errorf("there is no image %q in it, but %s", reference, strings.Join(quoted(names), ", "))
	case len(list) > 1:
		return savedImage{}, fmt.Errorf("there are %d images in it; append which is meant: %s", len(list), strings.Join(quoted(names), ", "))
	}
	return list[0], nil
}

func readBlob(a *archive, name string) ([]byte, error) {
	file, err := a.Open(name)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(file, maxIndex+1))
	if err == nil && len(body) > maxIndex {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxIndex)
	}
	return body, err
}

// savedLayer returns a layer of an archive as it is if it is compressed, and else compresses it to a file, for which its content
// must be what the config says.
func savedLayer(ctx context.Context, a *archive, name string, content digest.Digest, file string) (ocispec.Descriptor, func() (io.ReadCloser, error), error) {
	fail := func(err error) (ocispec.Descriptor, func() (io.ReadCloser, error), error) {
		return ocispec.Descriptor{}, nil, fmt.Errorf("layer %s: %w", name, err)
	}
	layer, err := a.Open(name)
	if err != nil {
		return fail(err)
	}
	buffered := bufio.NewReaderSize(&interruptible{ctx: ctx, Reader: layer}, 1<<16)
	magic, _ := buffered.Peek(len(zstdMagic)) // an empty layer is none of both
	mediaType := ""
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		mediaType = dockerLayerGzip
	case bytes.Equal(magic, zstdMagic):
		mediaType = ocispec.MediaTypeImageLayerZstd
	}
	if mediaType != "" {
		sum := digest.Canonical.Digester()
		size, err := io.Copy(sum.Hash(), buffered)
		if err != nil {
			return fail(err)
		}
		open := func() (io.ReadCloser, error) { return a.Open(name) }
		return ocispec.Descriptor{MediaType: mediaType, Digest: sum.Digest(), Size: size}, open, nil
	}
	descriptor, err := compress(buffered, content, file)
	if err != nil {
		return fail(err)
	}
	return descriptor, func() (io.ReadCloser, error) { return os.Open(file) }, nil
}

// compress writes a layer to a file, compressed, and the same whenever the same is compressed.
func compress(layer io.Reader, content digest.Digest, file string) (_ ocispec.Descriptor, err error) {
	out, err := os.OpenFile(filepath.Clean(file), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum, plain := digest.Canonical.Digester(), content.Algorithm()
	if !plain.Available() {
		return ocispec.Descriptor{}, fmt.Errorf("the config says %q of its content, which is no digest", content)
	}
	check := plain.Digester()
	zip := gzip.NewWriter(io.MultiWriter(out, sum.Hash()))
	if _, err := io.Copy(io.MultiWriter(zip, check.Hash()), layer); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := zip.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	if check.Digest() != content {
		return ocispec.Descriptor{}, fmt.Errorf("its content is %s, where the config says %s", check.Digest(), content)
	}
	size, err := out.Seek(0, io.SeekCurrent)
	return ocispec.Descriptor{MediaType: dockerLayerGzip, Digest: sum.Digest(), Size: size}, err
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	io.Reader
	ctx context.Context //nolint:containedctx // it lives no longer than the call that reads
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

var _ fs.FS = (*archive)(nil)
