// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/pkg/limit"
)

// remote is a repository at an external mirror. It is used for one request, and its
// methods are about that repository, whatever they are told.
type remote struct {
	front      *Front
	registry   *mirror.Registry
	repository *mirror.Repository
	name       distribution.Repository
}

var _ distribution.Backend = (*remote)(nil)

// Resolve implements distribution.Backend. A registry that does not say the digest has the manifest be read.
func (r *remote) Resolve(ctx context.Context, _ distribution.Repository, tag string) (ocispec.Descriptor, error) {
	release, err := r.place(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	desc, err := r.repository.Resolve(ctx, tag)
	return desc, unknown(err, distribution.ErrManifestUnknown)
}

// Manifest implements distribution.Backend.
func (r *remote) Manifest(ctx context.Context, _ distribution.Repository, dgst digest.Digest) (distribution.Content, error) {
	release, err := r.place(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	desc, raw, err := r.repository.Manifest(ctx, dgst)
	if err != nil {
		return nil, unknown(err, distribution.ErrManifestUnknown)
	}
	if desc.Size > maxDocumentBytes { // it is fetched again as it is read
		return &elsewhere{ctx, r.repository.ReadManifest, desc, distribution.ErrManifestUnknown}, nil
	}
	return document{bytes.NewReader(raw), desc}, nil
}

// place waits until there is room for another manifest in memory.
func (r *remote) place(ctx context.Context) (release func(), err error) {
	return distribution.WaitForPlaces(ctx, documentTimeout, "manifests of "+r.name.Namespace+" are read",
		limit.Place{Of: r.front.documentsOfNamespace, Key: r.name.Namespace}, limit.Place{Of: r.front.documents})
}

// maxDocumentBytes is how large a manifest may be that is held for as long as a client
// takes to read it, and most are. Thousands of clients may take their time.
const maxDocumentBytes = 64 << 10

// document is a manifest in memory.
type document struct {
	*bytes.Reader
	desc ocispec.Descriptor
}

// Descriptor implements distribution.Content.
func (d document) Descriptor() ocispec.Descriptor { return d.desc }

// Close implements distribution.Content.
func (document) Close() error { return nil }

// Referrers implements distribution.Backend.
func (r *remote) Referrers(ctx context.Context, _ distribution.Repository, subject digest.Digest) ([]ocispec.Descriptor, error) {
	referrers, err := r.repository.Referrers(ctx, subject)
	return referrers, failure(err)
}

// Tags implements distribution.Backend.
func (r *remote) Tags(ctx context.Context, _ distribution.Repository) ([]string, error) {
	tags, err := r.repository.Tags(ctx)
	return tags, unknown(err, distribution.ErrNameUnknown)
}

// Blob implements distribution.Backend. Nothing is fetched before it is read.
func (r *remote) Blob(ctx context.Context, _ distribution.Repository, dgst digest.Digest) (distribution.Content, error) {
	desc, err := r.repository.Blob(ctx, dgst)
	if err != nil {
		return nil, unknown(err, distribution.ErrBlobUnknown)
	}
	return &elsewhere{ctx, r.repository.ReadBlob, desc, distribution.ErrBlobUnknown}, nil
}

// elsewhere is content that lies at the mirror.
type elsewhere struct {
	ctx  context.Context //nolint:containedctx // of the request that opened it, as that of the body of an answer
	read func(ctx context.Context, desc ocispec.Descriptor, offset, size int64) (io.ReadCloser, error)
	desc ocispec.Descriptor
	gone distribution.Error // what it is where it is not there any more
}

var _ distribution.Stream = (*elsewhere)(nil)

// Descriptor implements distribution.Content.
func (e *elsewhere) Descriptor() ocispec.Descriptor { return e.desc }

// Open implements distribution.Stream.
func (e *elsewhere) Open(offset, size int64) (io.ReadCloser, error) {
	body, err := e.read(e.ctx, e.desc, offset, size)
	if err != nil {
		return nil, unknown(err, e.gone)
	}
	return body, nil
}

// ReadAt implements distribution.Content, by one request for each call.
func (e *elsewhere) ReadAt(p []byte, offset int64) (int, error) {
	size := min(int64(len(p)), e.desc.Size-offset)
	if offset < 0 || size <= 0 {
		return 0, io.EOF
	}
	body, err := e.Open(offset, size)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.ReadFull(body, p[:size])
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Close implements distribution.Content.
func (*elsewhere) Close() error { return nil }

// Mount implements distribution.Backend. Where it cannot be done the caller uploads
// the blob, or finds out then what the mirror fails by.
func (r *remote) Mount(ctx context.Context, _, from distribution.Repository, dgst digest.Digest) error {
	if from.Namespace != r.name.Namespace {
		return fmt.Errorf("%s is in another namespace: %w", from, distribution.ErrBlobUnknown)
	}
	source, _, err := r.registry.Repository(from.Namespace, from.Name)
	mounted := false
	if err == nil {
		mounted, err = r.repository.MountFrom(ctx, source, dgst)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: %w", distribution.ErrBlobUnknown, err)
	case !mounted:
		return distribution.ErrBlobUnknown
	}
	return nil
}

// PutManifest implements distribution.Backend.
func (r *remote) PutManifest(ctx context.Context, _ distribution.Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error {
	err := r.repository.PutManifest(ctx, desc, manifest, tags)
	kind, ok := refusal(err, distribution.ErrManifestInvalid)
	switch {
	case !ok:
		return failure(err)
	case kind == distribution.ErrBlobUnknown, kind == distribution.ErrManifestUnknown:
		kind = distribution.ErrManifestBlobUnknown
	case kind == distribution.ErrManifestInvalid:
		return fmt.Errorf("%w: %w", distribution.Explain(kind, "invalid manifest: the mirror does not accept it"), err)
	case kind == distribution.ErrDigestInvalid:
		return fmt.Errorf("%w: %w", distribution.Explain(kind, "the mirror does not know digests by %s", desc.Digest.Algorithm()), err)
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// DeleteTag implements distribution.Backend.
func (r *remote) DeleteTag(ctx context.Context, _ distribution.Repository, tag string) error {
	return undeleted(r.repository.DeleteTag(ctx, tag), distribution.ErrManifestUnknown)
}

// unused fails where what Tagger keeps of the history of an Image names content. Of what else is there nobody knows all.
func (r *remote) unused(ctx context.Context, dgst digest.Digest, blob bool) error {
	tags, err := r.repository.Tags(ctx)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return failure(err)
	}
	kept := slices.DeleteFunc(tags, func(tag string) bool { return !distribution.ReservedTag(tag) })
	switch named, err := r.repository.Named(ctx, kept, dgst, blob); {
	case err != nil:
		return failure(err)
	case named:
		return distribution.ErrInUse
	}
	return nil
}

// DeleteManifest implements distribution.Backend.
func (r *remote) DeleteManifest(ctx context.Context, _ distribution.Repository, dgst digest.Digest) error {
	if err := r.unused(ctx, dgst, false); err != nil {
		return err
	}
	return undeleted(r.repository.DeleteManifest(ctx, dgst), distribution.ErrManifestUnknown)
}

// DeleteBlob implements distribution.Backend.
func (r *remote) DeleteBlob(ctx context.Context, _ distribution.Repository, dgst digest.Digest) error {
	if err := r.unused(ctx, dgst, true); err != nil {
		return err
	}
	return undeleted(r.repository.DeleteBlob(ctx, dgst), distribution.ErrBlobUnknown)
}
