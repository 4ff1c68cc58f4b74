// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
)

// annotationImageName is how containerd, docker and podman note the whole name of an image in a layout.
const annotationImageName = "io.containerd.image.name"

// A Destination takes an image: its graph goes to the layout first, and Finish brings it to where it belongs.
type Destination struct {
	*oci.Storage
	where  Location
	layout string
}

// Create prepares a location for an image. What it needs meanwhile is put in the folder scratch, unless the location is a layout
// itself: what a layout has already is not fetched again.
func Create(where Location, scratch string) (*Destination, error) {
	layout := where.Path
	if where.Transport != OCI {
		layout = filepath.Join(scratch, "layout")
		if info, err := os.Stat(where.Path); err == nil && info.IsDir() { // which a store is not: its path is empty
			return nil, fmt.Errorf("%s is a folder; name a file, as in %s:%s", where.Path, where.Transport, filepath.Join(where.Path, "myapp.tar"))
		}
	} else if err := mayHold(layout); err != nil {
		return nil, err
	}
	if where.Transport == OCI { // first, so that it is known for a layout when this is interrupted
		if err := begin(layout); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	}
	storage, err := oci.NewStorage(layout)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return &Destination{Storage: storage, where: where, layout: layout}, nil
}

// mayHold reports why a folder cannot become a layout: it has other files.
func mayHold(folder string) error {
	if info, err := os.Stat(folder); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is a file; choose a folder that is new, empty or a layout, or name an archive by %s:%s", folder, OCIArchive, folder)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(folder, ocispec.ImageLayoutFile)); err != nil {
		return fmt.Errorf("%s has files and is no OCI layout; choose a folder that is new, empty or a layout", folder)
	}
	return nil
}

// begin makes a folder a layout.
func begin(layout string) error {
	if err := os.MkdirAll(layout, 0o777); err != nil { //nolint:gosec // G301: as the umask says
		return err
	}
	return writeJSON(filepath.Join(layout, ocispec.ImageLayoutFile), ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// ingest is the folder of a layout that oras writes blobs to first.
const ingest = "ingest"

// Push writes a blob. Of one that breaks off oras leaves what it has got so far, which nothing would read.
func (d *Destination) Push(ctx context.Context, blob ocispec.Descriptor, body io.Reader) error {
	err := d.Storage.Push(ctx, blob, body)
	if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		parts, _ := os.ReadDir(filepath.Join(d.layout, ingest))
		for _, part := range parts {
			if strings.HasPrefix(part.Name(), blob.Digest.Encoded()+"_") {
				_ = os.Remove(filepath.Join(d.layout, ingest, part.Name()))
			}
		}
	}
	return err
}

// Close removes the folder that blobs are written to first, unless others write there.
func (d *Destination) Close() { _ = os.Remove(filepath.Join(d.layout, ingest)) }

// Finish brings the image to where it belongs. name is what it is called there when the location does not say: NAME:TAG, maybe
// with a namespace and a host; tag is what it is called in a layout.
func (d *Destination) Finish(ctx context.Context, root ocispec.Descriptor, name, tag string) error {
	if d.where.Reference != "" {
		name, tag = d.where.Reference, d.where.Reference
	}
	switch d.where.Transport {
	case OCI:
		return d.list(root, tag)
	case OCIArchive:
		return writeFile(d.where.Path, func(out io.Writer) error { return d.pack(ctx, out, root, tag, "") })
	case DockerArchive:
		return writeFile(d.where.Path, func(out io.Writer) error { return d.pack(ctx, out, root, tag, tagged(name)) })
	}
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		name, tag := tagged(name), tag
		if d.where.Transport == ContainersStorage {
			tag = local(name)
		}
		err := d.pack(ctx, writer, root, tag, name)
		packed <- err
		writer.CloseWithError(err)
	}()
	err := engineOf(d.where.Transport).load(ctx, reader)
	_ = reader.CloseWithError(errors.New("nobody reads on"))
	if packErr := <-packed; err == nil {
		err = packErr
	}
	return err
}

// list adds the image to the list of those that a layout has, where its name passes to it from another one.
func (d *Destination) list(root ocispec.Descriptor, tag string) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if err := readJSON(os.DirFS(d.layout), ocispec.ImageIndexFile, &index); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(image ocispec.Descriptor) bool {
		return image.Annotations[ocispec.AnnotationRefName] == tag
	})
	index.Manifests = append(index.Manifests, listed(root, tag))
	return writeJSON(filepath.Join(d.layout, ocispec.ImageIndexFile), index)
}

// listed is how a layout lists an image.
func listed(root ocispec.Descriptor, tag string) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: root.MediaType, Digest: root.Digest, Size: root.Size,
		Annotations: map[string]string{ocispec.AnnotationRefName: tag},
	}
}

// writeJSON writes a file at once.
func writeJSON(name string, object any) error {
	return writeFile(name, func(out io.Writer) error { return json.NewEncoder(out).Encode(object) })
}

// writeFile writes a file under another name first.
func writeFile(name string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if err := errors.Join(write(file), file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}

// pack writes the image as an archive: an OCI layout and, for one platform with a name, docker's archive as well, so that old
// and new programs read it. tag is what the layout calls it.
func (d *Destination) pack(ctx context.Context, out io.Writer, root ocispec.Descriptor, tag, name string) error {
	p := packer{tar: tar.NewWriter(out)}
	entry := listed(root, tag)
	if name != "" {
		entry.Annotations[annotationImageName] = canonical(name)
		if d.where.Transport == ContainersStorage {
			entry.Annotations[annotationImageName] = local(name)
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{entry}}
	if err := errors.Join(p.addJSON(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}),
		p.addJSON(ocispec.ImageIndexFile, index)); err != nil {
		return err
	}
	if name != "" {
		saved, err := d.saved(ctx, root, name)
		if err != nil {
			return err
		}
		if err := p.addJSON(savedManifest, []savedImage{saved}); err != nil {
			return err
		}
	}
	written := map[digest.Digest]bool{}
	var add func(ocispec.Descriptor) error
	add = func(blob ocispec.Descriptor) error {
		if written[blob.Digest] {
			return nil
		}
		written[blob.Digest] = true
		if err := ctx.Err(); err != nil {
			return err
		}
		name := blobPath(blob.Digest)
		if err := p.addFile(name, filepath.Join(d.layout, filepath.FromSlash(name))); err != nil {
			return err
		}
		children, err := content.Successors(ctx, d, blob)
		if err != nil {
			return err
		}
		for _, child := range children {
			if err := add(child); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.Join(add(root), p.tar.Close())
}

// saved returns an image as docker's archive lists it.
func (d *Destination) saved(ctx context.Context, root ocispec.Descriptor, name string) (savedImage, error) {
	body, err := content.FetchAll(ctx, d, root)
	if err != nil {
		return savedImage{}, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(body, &manifest); err != nil || manifest.Config.Digest == "" {
		return savedImage{}, errors.New("this is no image that a container engine knows; pull it to oci:FOLDER")
	}
	saved := savedImage{Config: blobPath(manifest.Config.Digest), RepoTags: []string{name}}
	for _, layer := range manifest.Layers {
		saved.Layers = append(saved.Layers, blobPath(layer.Digest))
	}
	return saved, nil
}

func (p packer) addJSON(name string, object any) error {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(object); err != nil {
		return err
	}
	return p.add(name, body.Bytes())
}

func blobPath(of digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, of.Algorithm().String(), of.Encoded())
}

// tagged returns a name with its tag, latest where it has none.
func tagged(name string) string {
	if strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") {
		return name
	}
	return name + ":latest"
}

// local returns a name as podman keeps one that it did not pull.
func local(name string) string {
	if hasHost(name) {
		return name
	}
	return "localhost/" + name
}

// canonical returns a name as docker keeps it.
func canonical(name string) string {
	switch {
	case hasHost(name):
		return name
	case strings.Contains(name, "/"):
		return "docker.io/" + name
	default:
		return "docker.io/library/" + name
	}
}

// hasHost says whether a name begins with a host.
func hasHost(name string) bool {
	first, _, found := strings.Cut(name, "/")
	return found && (strings.ContainsAny(first, ".:") || first == "localhost")
}
