// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/pkg/limit"
)

// Mirrors says where the external mirror of a namespace is; nil where there is none.
type Mirrors interface {
	Registry(ctx context.Context, namespace string) (*mirror.Registry, error)
}

// Config is what a Front needs.
type Config struct {
	Mirrors Mirrors
	// Store has the repositories of namespaces without an external mirror; nil: these
	// have none.
	Store distribution.Backend
	// Remedy says what to do where there is neither, as in "have the administrator …".
	Remedy string
	// Keys seal the uploads at external mirrors.
	Keys Keys
	// Clock tells how old an upload is.
	Clock clock.PassiveClock
}

// Front implements distribution.Backend.
type Front struct {
	config Config
	// documents has the places of manifests that are read, documentsOfNamespace the same
	// for each namespace.
	documents, documentsOfNamespace *limit.Keyed
}

const (
	// maxDocuments is how many manifests are read from mirrors at once, each of which lies
	// in memory until all of it has come, and maxDocumentsOfNamespace how many of them for
	// one namespace, whose mirror may take its time.
	maxDocuments            = 32
	maxDocumentsOfNamespace = 8
	// documentTimeout is how long a place of theirs is waited for.
	documentTimeout = 30 * time.Second
)

var _ distribution.Backend = (*Front)(nil)

// New returns a Front that has asked nobody yet.
func New(config Config) *Front {
	return &Front{config, limit.NewKeyed(maxDocuments), limit.NewKeyed(maxDocumentsOfNamespace)}
}

// backend returns what has the repositories of a namespace, nil where nothing does.
func (f *Front) backend(ctx context.Context, repo distribution.Repository) (distribution.Backend, error) {
	registry, err := f.config.Mirrors.Registry(ctx, repo.Namespace)
	switch {
	case err != nil:
		return nil, failure(err)
	case registry == nil:
		return f.config.Store, nil
	}
	repository, _, err := registry.Repository(repo.Namespace, repo.Name)
	if importer.KindOf(err) == importer.Invalid {
		return nil, distribution.Explain(distribution.ErrNameInvalid, "%s", err.Error())
	}
	if err != nil {
		return nil, failure(err)
	}
	return &remote{front: f, registry: registry, repository: repository, name: repo}, nil
}

// of returns the backend to read from or to delete in.
func (f *Front) of(ctx context.Context, repo distribution.Repository) (distribution.Backend, error) {
	b, err := f.backend(ctx, repo)
	switch {
	case errors.Is(err, distribution.ErrNameInvalid):
		return nil, fmt.Errorf("%w: %w", distribution.ErrNameUnknown, err)
	case err == nil && b == nil:
		return nil, fmt.Errorf("%s has no mirror: %w", repo.Namespace, distribution.ErrNameUnknown)
	}
	return b, err
}

// into returns the backend to write to.
func (f *Front) into(ctx context.Context, repo distribution.Repository) (distribution.Backend, error) {
	b, err := f.backend(ctx, repo)
	if err == nil && b == nil {
		err = distribution.Explain(distribution.ErrForbidden, "no mirror is configured, so that nothing can be pushed to the namespace %s; %s", repo.Namespace, f.config.Remedy)
	}
	return b, err
}

// Resolve implements distribution.Backend.
func (f *Front) Resolve(ctx context.Context, repo distribution.Repository, tag string) (ocispec.Descriptor, error) {
	b, err := f.of(ctx, repo)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return b.Resolve(ctx, repo, tag)
}

// Manifest implements distribution.Backend.
func (f *Front) Manifest(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (distribution.Content, error) {
	b, err := f.of(ctx, repo)
	if err != nil {
		return nil, err
	}
	return b.Manifest(ctx, repo, dgst)
}

// Referrers implements distribution.Backend.
func (f *Front) Referrers(ctx context.Context, repo distribution.Repository, subject digest.Digest) ([]ocispec.Descriptor, error) {
	b, err := f.of(ctx, repo)
	if err != nil {
		return nil, err
	}
	return b.Referrers(ctx, repo, subject)
}

// Tags implements distribution.Backend.
func (f *Front) Tags(ctx context.Context, repo distribution.Repository) ([]string, error) {
	b, err := f.of(ctx, repo)
	if err != nil {
		return nil, err
	}
	return b.Tags(ctx, repo)
}

// Blob implements distribution.Backend.
func (f *Front) Blob(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (distribution.Content, error) {
	b, err := f.of(ctx, repo)
	if err != nil {
		return nil, err
	}
	return b.Blob(ctx, repo, dgst)
}

// Mount implements distribution.Backend. Blobs of other namespaces are not mounted.
func (f *Front) Mount(ctx context.Context, repo, from distribution.Repository, dgst digest.Digest) error {
	b, err := f.into(ctx, repo)
	if err != nil {
		return err
	}
	return b.Mount(ctx, repo, from, dgst)
}

// StartUpload implements distribution.Backend.
func (f *Front) StartUpload(ctx context.Context, repo distribution.Repository, algorithm digest.Algorithm) (distribution.Upload, error) {
	b, err := f.into(ctx, repo)
	if err != nil {
		return nil, err
	}
	return b.StartUpload(ctx, repo, algorithm)
}

// ResumeUpload implements distribution.Backend.
func (f *Front) ResumeUpload(ctx context.Context, repo distribution.Repository, id string) (distribution.Upload, error) {
	b, err := f.into(ctx, repo)
	if err != nil {
		return nil, err
	}
	return b.ResumeUpload(ctx, repo, id)
}

// PutManifest implements distribution.Backend.
func (f *Front) PutManifest(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error {
	b, err := f.into(ctx, repo)
	if err != nil {
		return err
	}
	return b.PutManifest(ctx, repo, desc, manifest, tags)
}

// DeleteTag implements distribution.Backend.
func (f *Front) DeleteTag(ctx context.Context, repo distribution.Repository, tag string) error {
	b, err := f.of(ctx, repo)
	if err != nil {
		return err
	}
	return b.DeleteTag(ctx, repo, tag)
}

// DeleteManifest implements distribution.Backend.
func (f *Front) DeleteManifest(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	b, err := f.of(ctx, repo)
	if err != nil {
		return err
	}
	return b.DeleteManifest(ctx, repo, dgst)
}

// DeleteBlob implements distribution.Backend.
func (f *Front) DeleteBlob(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	b, err := f.of(ctx, repo)
	if err != nil {
		return err
	}
	return b.DeleteBlob(ctx, repo, dgst)
}
