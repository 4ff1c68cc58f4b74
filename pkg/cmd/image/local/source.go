// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
)

// maxIndex is how large the list of an archive's or a layout's images may be, in bytes.
const maxIndex = 4 << 20

// A Source is an image to be read, as its graph.
type Source struct {
	content.ReadOnlyStorage
	Root  ocispec.Descriptor
	close func() error
}

// Close ends the reading.
func (s *Source) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// Open opens the image at a location. What it needs to unpack is put in the folder scratch.
func Open(ctx context.Context, where Location, scratch string) (*Source, error) {
	var source *Source
	var err error
	switch where.Transport {
	case OCI:
		if err = mayBeLayout(where.Path); err == nil {
			source, err = openLayout(ctx, os.DirFS(where.Path), where.Reference)
		}
	case OCIArchive, DockerArchive:
		source, err = openPacked(ctx, where.Transport, where.Path, where.Reference, scratch)
	default:
		var transport string
		file := filepath.Join(scratch, "saved.tar")
		if transport, err = engineOf(where.Transport).save(ctx, where.Reference, file); err == nil {
			source, err = openPacked(ctx, transport, file, "", scratch)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", where, err)
	}
	return source, nil
}

// mayBeLayout reports why there can be no layout by that name.
func mayBeLayout(name string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such folder")
	case err == nil && !info.IsDir():
		return fmt.Errorf("this is a file; an archive is named by %s:%s or %s:%s", DockerArchive, name, OCIArchive, name)
	}
	return err
}

// openPacked opens an image in an archive. What docker saves is a layout as well, of late; it is read as one where nothing in it
// needs to be compressed.
func openPacked(ctx context.Context, transport, file, reference, scratch string) (*Source, error) {
	a, err := openArchive(file, scratch)
	if err != nil {
		return nil, err
	}
	source, err := func() (*Source, error) {
		if transport == OCIArchive || !a.has(savedManifest) {
			return openLayout(ctx, a, reference)
		}
		if a.has(ocispec.ImageLayoutFile) {
			if source, err := openLayout(ctx, a, reference); err == nil && compressed(ctx, source) {
				return source, nil
			}
		}
		return openSaved(ctx, a, reference, scratch)
	}()
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	source.close = a.Close
	return source, nil
}

// openLayout opens an image of an OCI layout.
func openLayout(ctx context.Context, files fs.FS, reference string) (*Source, error) {
	if _, err := fs.Stat(files, ocispec.ImageLayoutFile); err != nil {
		return nil, fmt.Errorf("this is no OCI layout: %w", err)
	}
	var index ocispec.Index
	if err := readJSON(files, ocispec.ImageIndexFile, &index); err != nil {
		return nil, err
	}
	root, err := choose(index.Manifests, reference)
	if err != nil {
		return nil, err
	}
	store, err := oci.NewFromFS(ctx, files)
	if err != nil {
		return nil, err
	}
	root.Annotations = nil // they are of the layout, not of the image
	return &Source{ReadOnlyStorage: store, Root: root}, nil
}

// choose returns which of the images of a layout is meant.
func choose(images []ocispec.Descriptor, reference string) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	var names []string
	for _, image := range images {
		name := image.Annotations[ocispec.AnnotationRefName]
		full := image.Annotations[annotationImageName]
		names = append(names, name)
		if reference == "" || reference == name || reference == full || reference == image.Digest.String() {
			found = append(found, image)
		}
	}
	found = slices.CompactFunc(found, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	switch {
	case len(images) == 0:
		return ocispec.Descriptor{}, errors.New("there is no image in it")
	case len(found) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("there is no image %q in it, but %s", reference, strings.Join(quoted(names), ", "))
	case len(found) > 1:
		return ocispec.Descriptor{}, fmt.Errorf("there are %d images in it; append which is meant: %s", len(found), strings.Join(quoted(names), ", "))
	}
	return found[0], nil
}

// quoted returns the names that there are, as they are typed.
func quoted(names []string) []string {
	var out []string
	for _, name := range names {
		if name != "" {
			out = append(out, fmt.Sprintf("%q", name))
		}
	}
	if len(out) == 0 {
		return []string{"some without a name"}
	}
	return out
}

// compressed says whether all is there of what a docker archive has as a layout, and compressed.
func compressed(ctx context.Context, source *Source) bool {
	if source.Root.MediaType == ocispec.MediaTypeImageIndex {
		return true
	}
	children, err := content.Successors(ctx, source, source.Root)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(children, func(child ocispec.Descriptor) bool {
		return child.MediaType == ocispec.MediaTypeImageLayer || child.MediaType == "application/vnd.docker.image.rootfs.diff.tar"
	})
}

// readJSON reads a small file of an archive or a layout.
func readJSON(files fs.FS, name string, into any) error {
	file, err := files.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was read
	if info, err := file.Stat(); err != nil || info.Size() > maxIndex {
		return fmt.Errorf("%s is larger than %d bytes", name, maxIndex)
	}
	if err := json.NewDecoder(file).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
