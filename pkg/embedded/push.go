// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// maxReferrers bounds how many manifests refer to one by pushes: each is a label of it.
	maxReferrers = 10_000
	// maxReferrersBytes bounds what they have together, in bytes: all of it is read for each list of them.
	maxReferrersBytes = 32 << 20
)

// expireLabel is containerd's: the collector passes over an image record once that
// time has come.
const expireLabel = "containerd.io/gc.expire"

// Mount implements distribution.Backend. Blobs of other namespaces are not mounted.
func (s *Store) Mount(ctx context.Context, repo, from distribution.Repository, dgst digest.Digest) error {
	return storeError(s.mount(ctx, repo, from, dgst))
}

func (s *Store) mount(ctx context.Context, repo, from distribution.Repository, dgst digest.Digest) error {
	if repo.Namespace != from.Namespace {
		return fmt.Errorf("%s and %s are in different namespaces: %w", from, repo, distribution.ErrBlobUnknown)
	}
	inside, err := s.namespaced(ctx, from)
	if err != nil {
		return err
	}
	if _, err := s.held(inside, from, dgst); err != nil { // nothing is written for what cannot be
		return unknown(err, distribution.ErrBlobUnknown)
	}
	if ctx, err = s.pushing(ctx, repo); err != nil {
		return err
	}
	if err := s.keep(ctx, dgst); err != nil {
		return err
	}
	// And looking again once the lease holds it: a collection may have come between.
	if _, err := s.held(ctx, from, dgst); err != nil {
		return unknown(err, distribution.ErrBlobUnknown)
	}
	return unknown(s.label(ctx, dgst, map[string]string{repositoryLabel(repo.Name): "true"}), distribution.ErrBlobUnknown)
}

// keep has the lease of ctx hold content.
func (s *Store) keep(ctx context.Context, dgst digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return fmt.Errorf("no lease: %w", errdefs.ErrFailedPrecondition)
	}
	return s.leases.AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: dgst.String(), Type: "content"})
}

// PutManifest implements distribution.Backend. Without a tag, and unless something else
// names it, the manifest and what it names are kept for a day.
func (s *Store) PutManifest(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error {
	return storeError(s.putManifest(ctx, repo, desc, manifest, tags))
}

func (s *Store) putManifest(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error {
	children, err := childrenOf(desc.MediaType, manifest)
	switch {
	case errors.Is(err, errTooManyParts):
		return distribution.Explain(distribution.ErrManifestInvalid, "invalid manifest: %v", errTooManyParts)
	case err != nil:
		return fmt.Errorf("%w: %w", distribution.Explain(distribution.ErrManifestInvalid, "invalid manifest: it cannot be read as %s", desc.MediaType), err)
	}
	labels, err := referenceLabels(desc, children)
	if err != nil {
		return fmt.Errorf("%w: %w", distribution.Explain(distribution.ErrManifestInvalid, "invalid manifest: it names something by what is not a digest"), err)
	}
	labels[repositoryLabel(repo.Name)] = "true"
	ctx, err = s.pushing(ctx, repo)
	if err != nil {
		return err
	}
	if err := s.missing(ctx, repo, children); err != nil { // nothing is written for what cannot be
		return err
	}
	if subject := subjectOf(manifest); subject != "" {
		if err := s.referTo(ctx, repo, desc, subject); err != nil {
			return err
		}
	}
	if err := s.write(expectDigest(ctx, desc.Digest), desc, bytes.NewReader(manifest), maps.Clone(labels)); err != nil {
		return err
	}
	// What was there already keeps its labels, and gets these; the lease holds that too.
	if err := s.keep(ctx, desc.Digest); err != nil {
		return err
	}
	if err := s.label(ctx, desc.Digest, labels); err != nil {
		return err
	}
	if err := s.adoptReferrers(ctx, repo, desc.Digest); err != nil {
		return err
	}
	// No collection and no deletion comes between within a transaction.
	return s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		if err := s.missing(ctx, repo, children); err != nil {
			return err
		}
		if _, err := s.held(ctx, repo, desc.Digest); errdefs.IsNotFound(err) {
			return fmt.Errorf("%s was deleted meanwhile: %w", desc.Digest, distribution.ErrConflict)
		} else if err != nil {
			return err
		}
		for _, tag := range tags {
			if err := s.tag(ctx, imageName(repo, tag), desc); err != nil {
				return err
			}
		}
		return nil
	})
}

// missing fails where the repository lacks something that a manifest names.
func (s *Store) missing(ctx context.Context, repo distribution.Repository, children []child) error {
	return s.view(ctx, func(all records) error {
		found := map[digest.Digest]bool{} // and whether it is a manifest
		for _, child := range children {
			if child.Digest == "" || images.IsNonDistributable(child.MediaType) {
				continue
			}
			manifest, known := found[child.Digest]
			if !known {
				r, ok := all.get(child.Digest)
				if ok = ok && r.has(repositoryLabel(repo.Name)); ok {
					var err error
					if ok, err = s.files.intact(ctx, child.Digest, r.size()); err != nil {
						return err
					}
				}
				if known = ok; known {
					manifest = r.has(mediaTypeLabel)
					found[child.Digest] = manifest
				}
			}
			if !known || isManifest(child.MediaType) && !manifest {
				return distribution.Explain(distribution.ErrManifestBlobUnknown, "the manifest names %s, which is not in this repository: push that first", child.Digest)
			}
		}
		return nil
	})
}

// referTo lets a manifest that is about to be written be found by its subject, which
// need not be there: then it is noted for as long as what was pushed is kept.
func (s *Store) referTo(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, subject digest.Digest) error {
	if err := s.mayRefer(ctx, repo, desc, subject); err != nil {
		return err
	}
	name := pendingName(repo, subject, desc.Digest.String())
	expires := s.now().Add(s.pushDuration).UTC().Format(time.RFC3339)
	record := images.Image{Name: name, Target: desc, Labels: map[string]string{expireLabel: expires}}
	_, err := s.images.Create(ctx, record)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.images.Update(ctx, record, "target", "labels."+expireLabel)
	}
	if err != nil {
		return err
	}
	return s.adoptReferrers(ctx, repo, subject)
}

// mayRefer fails where too much refers to a subject already.
func (s *Store) mayRefer(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, subject digest.Digest) error {
	known, err := s.referrers(ctx, repo, subject)
	switch {
	case err != nil:
		return err
	case slices.Contains(known, desc.Digest):
		return nil
	case len(known) >= maxReferrers:
		return distribution.Explain(distribution.ErrManifestInvalid, "%d manifests refer to its subject already: delete some", len(known))
	}
	return s.view(ctx, func(all records) error {
		sum := desc.Size
		for _, dgst := range known {
			if r, ok := all.get(dgst); ok {
				sum += r.size()
			}
		}
		if sum > maxReferrersBytes {
			return distribution.Explain(distribution.ErrManifestInvalid,
				"the %d manifests that refer to its subject already and this one would have more than %s together: delete some", len(known), quantity(maxReferrersBytes))
		}
		return nil
	})
}

// adoptReferrers has a manifest hold what was noted to refer to it, once it is there.
func (s *Store) adoptReferrers(ctx context.Context, repo distribution.Repository, subject digest.Digest) error {
	pending, err := s.pendingReferrers(ctx, repo, subject)
	if err != nil || len(pending) == 0 {
		return err
	}
	if _, err := s.held(ctx, repo, subject); errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	labels := map[string]string{}
	for _, record := range pending {
		labels[referrerLabelPrefix+record.Target.Digest.String()] = record.Target.Digest.String()
	}
	if err := s.label(ctx, subject, labels); err != nil {
		return err
	}
	for _, record := range pending {
		if err := s.images.Delete(ctx, record.Name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// pendingName is the name of the image record of a referrer whose subject was not there
// when it came. No tag's record is called so.
func pendingName(repo distribution.Repository, subject digest.Digest, referrer string) string {
	return repo.Name + "@" + subject.String() + "@" + referrer
}

// pendingReferrers returns the records of what refers to a subject that was not there.
func (s *Store) pendingReferrers(ctx context.Context, repo distribution.Repository, subject digest.Digest) ([]images.Image, error) {
	return s.images.List(ctx, fmt.Sprintf(`name~=%q`, "^"+regexp.QuoteMeta(pendingName(repo, subject, ""))))
}
