// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
)

var _ distribution.Backend = (*Store)(nil)

// Resolve implements distribution.Backend.
func (s *Store) Resolve(ctx context.Context, repo distribution.Repository, tag string) (ocispec.Descriptor, error) {
	ctx, err := s.namespaced(ctx, repo)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	image, err := s.images.Get(ctx, imageName(repo, tag))
	switch {
	case err == nil:
		return image.Target, nil
	case !errdefs.IsNotFound(err):
		return ocispec.Descriptor{}, fmt.Errorf("resolving tag %q of %s: %w", tag, repo, err)
	}
	there := false // as long as it has a tag
	err = s.eachTag(ctx, repo, func(string) bool { there = true; return false })
	switch {
	case err != nil:
		return ocispec.Descriptor{}, fmt.Errorf("resolving tag %q of %s: %w", tag, repo, err)
	case !there:
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", repo, distribution.ErrNameUnknown)
	default:
		return ocispec.Descriptor{}, fmt.Errorf("tag %q of %s: %w", tag, repo, distribution.ErrManifestUnknown)
	}
}

// Tags implements distribution.Backend.
func (s *Store) Tags(ctx context.Context, repo distribution.Repository) ([]string, error) {
	ctx, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	var tags []string
	err = s.eachTag(ctx, repo, func(tag string) bool { tags = append(tags, tag); return true })
	switch {
	case err != nil:
		return nil, fmt.Errorf("listing tags of %s: %w", repo, err)
	case len(tags) == 0: // a repository is there as long as it has a tag
		return nil, fmt.Errorf("%s: %w", repo, distribution.ErrNameUnknown)
	}
	return tags, nil
}

// tagged returns the image records of the tags of a repository.
func (s *Store) tagged(ctx context.Context, repo distribution.Repository) ([]images.Image, error) {
	ctx, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	return s.taggedInside(ctx, repo)
}

// taggedInside is tagged with ctx of the namespace of the repository.
func (s *Store) taggedInside(ctx context.Context, repo distribution.Repository) ([]images.Image, error) {
	return s.images.List(ctx, fmt.Sprintf(`name~=%q`, "^"+regexp.QuoteMeta(imageName(repo, ""))))
}

// Manifest implements distribution.Backend.
func (s *Store) Manifest(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (distribution.Content, error) {
	opened, err := s.open(ctx, repo, dgst)
	if err != nil {
		return nil, unknown(err, distribution.ErrManifestUnknown)
	}
	if opened.desc.MediaType == "" {
		_ = opened.Close() // read nothing
		return nil, fmt.Errorf("%s is a blob: %w", dgst, distribution.ErrManifestUnknown)
	}
	return opened, nil
}

// Blob implements distribution.Backend.
func (s *Store) Blob(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (distribution.Content, error) {
	opened, err := s.open(ctx, repo, dgst)
	if err != nil {
		return nil, unknown(err, distribution.ErrBlobUnknown)
	}
	opened.desc.MediaType = "" // a manifest read as a blob is bytes
	return opened, nil
}

// Referrers implements distribution.Backend.
func (s *Store) Referrers(ctx context.Context, repo distribution.Repository, subject digest.Digest) ([]ocispec.Descriptor, error) {
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	referrers, err := s.referrers(inside, repo, subject)
	if err != nil {
		return nil, err
	}
	var found []ocispec.Descriptor
	room := maxReferrerAnnotations
	for _, referrer := range referrers {
		d, err := s.describe(ctx, repo, referrer, &room)
		switch {
		case errors.Is(err, distribution.ErrManifestUnknown): // another repository's
			continue
		case err != nil:
			return nil, err
		}
		found = append(found, d)
	}
	return found, nil
}

// referrers returns what refers to a subject, in the order of their digests: what it
// holds or, where it is not there, what was noted to wait for it.
func (s *Store) referrers(ctx context.Context, repo distribution.Repository, subject digest.Digest) ([]digest.Digest, error) {
	var found []digest.Digest
	info, err := s.held(ctx, repo, subject)
	switch {
	case errdefs.IsNotFound(err):
		pending, err := s.pendingReferrers(ctx, repo, subject)
		if err != nil {
			return nil, err
		}
		for _, record := range pending {
			found = append(found, record.Target.Digest)
		}
	case err != nil:
		return nil, err
	default:
		for key, value := range info.Labels {
			if strings.HasPrefix(key, referrerLabelPrefix) {
				found = append(found, digest.Digest(value))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

const (
	// maxReferrerAnnotations bounds the annotations of a list of referrers, in
	// bytes of JSON: a referrer may consist of little else, and clients read no
	// list that is much larger.
	maxReferrerAnnotations = 1 << 20
	// maxArtifactType is how long a media type may be (RFC 6838), in bytes.
	maxArtifactType = 255
)

// describe returns the descriptor of a referrer as the specification has it in
// the list of those, section "Listing Referrers". Artifact type and annotations
// are left out where they are malformed, or larger than there is room for.
func (s *Store) describe(ctx context.Context, repo distribution.Repository, dgst digest.Digest, room *int) (ocispec.Descriptor, error) {
	opened, err := s.Manifest(ctx, repo, dgst)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer opened.Close()
	d := opened.Descriptor()
	if err := describeArtifact(io.NewSectionReader(opened, 0, d.Size), &d, room); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("reading %s: %w", dgst, err)
	}
	return d, nil
}

// describeArtifact adds to the descriptor of a manifest what that says of itself.
func describeArtifact(raw io.Reader, d *ocispec.Descriptor, room *int) error {
	var manifest struct {
		ArtifactType json.RawMessage `json:"artifactType"`
		Config       child           `json:"config"`
		Annotations  json.RawMessage `json:"annotations"`
	}
	if err := json.NewDecoder(raw).Decode(&manifest); err != nil {
		return err
	}
	if json.Unmarshal(manifest.ArtifactType, &d.ArtifactType) != nil || d.ArtifactType == "" {
		d.ArtifactType = manifest.Config.MediaType
	}
	if len(d.ArtifactType) > maxArtifactType {
		d.ArtifactType = ""
	}
	var annotations map[string]string
	if len(manifest.Annotations) <= *room && json.Unmarshal(manifest.Annotations, &annotations) == nil {
		*room -= len(manifest.Annotations)
		d.Annotations = annotations
	}
	return nil
}

func (s *Store) open(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (*openContent, error) {
	ctx, err := s.namespaced(ctx, repo)
	if err != nil {
		return nil, err
	}
	info, err := s.held(ctx, repo, dgst)
	if err != nil {
		return nil, err
	}
	desc := ocispec.Descriptor{MediaType: info.Labels[mediaTypeLabel], Digest: dgst, Size: info.Size}
	reader, err := s.content.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, errors.Join(err, reader.Close())
	}
	return &openContent{ReaderAt: reader, desc: desc, unread: func() { s.asked.add(namespace, dgst) }}, nil
}

// unknown says in the terms of the endpoint that something is not there.
func unknown(err error, kind distribution.Error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return err
}

// openContent is an opened file of the store.
type openContent struct {
	content.ReaderAt
	desc   ocispec.Descriptor
	read   atomic.Bool
	unread func() // is called in the end where nothing was read
}

// ReadAt implements distribution.Content.
func (c *openContent) ReadAt(p []byte, offset int64) (int, error) {
	c.read.Store(true)
	return c.ReaderAt.ReadAt(p, offset)
}

// Close implements distribution.Content.
func (c *openContent) Close() error {
	if !c.read.Load() {
		c.unread()
	}
	return c.ReaderAt.Close()
}

// Descriptor implements distribution.Content.
func (c *openContent) Descriptor() ocispec.Descriptor { return c.desc }
