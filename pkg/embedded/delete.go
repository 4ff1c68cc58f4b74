// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tagger.dev/tagger/pkg/distribution"
)

// DeleteTag implements distribution.Backend.
func (s *Store) DeleteTag(ctx context.Context, repo distribution.Repository, tag string) error {
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return err
	}
	return unknown(s.images.Delete(inside, imageName(repo, tag)), distribution.ErrManifestUnknown)
}

// DeleteManifest implements distribution.Backend. What it names goes with the next
// collections, unless something else names it too.
func (s *Store) DeleteManifest(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	opened, err := s.Manifest(ctx, repo, dgst)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.NewSectionReader(opened, 0, min(opened.Descriptor().Size, maxManifestSize)))
	if err = errors.Join(err, opened.Close()); err != nil {
		return err
	}
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return err
	}
	subject := subjectOf(raw)
	return storeError(s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(inside, tx)
		if err := s.drop(ctx, repo, dgst, distribution.ErrManifestUnknown); err != nil {
			return err
		}
		tagged, err := s.taggedInside(ctx, repo)
		if err != nil {
			return err
		}
		for _, image := range tagged {
			if image.Target.Digest != dgst {
				continue
			}
			if err := s.images.Delete(ctx, image.Name); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		if subject != "" {
			return s.referNoMore(ctx, repo, dgst, subject)
		}
		return nil
	}))
}

// DeleteBlob implements distribution.Backend.
func (s *Store) DeleteBlob(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	inside, err := s.namespaced(ctx, repo)
	if err != nil {
		return err
	}
	return storeError(s.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(inside, tx)
		info, err := s.held(ctx, repo, dgst)
		if err != nil {
			return unknown(err, distribution.ErrBlobUnknown)
		}
		if info.Labels[mediaTypeLabel] != "" {
			return distribution.Explain(distribution.ErrInUse, "this is a manifest: delete it as one")
		}
		return s.drop(ctx, repo, dgst, distribution.ErrBlobUnknown)
	}))
}

// drop has a repository hold content no more, and nothing else hold it, unless a manifest
// of the repository names it. It runs in the transaction of ctx.
func (s *Store) drop(ctx context.Context, repo distribution.Repository, dgst digest.Digest, kind distribution.Error) error {
	info, err := s.held(ctx, repo, dgst)
	if err != nil {
		return unknown(err, kind)
	}
	elsewhere := false
	held := repositoryLabel(repo.Name)
	for key := range info.Labels {
		elsewhere = elsewhere || strings.HasPrefix(key, repositoryLabelPrefix) && key != held
	}
	if err := s.view(ctx, func(all records) error {
		return all.each(func(other digest.Digest, r record) error {
			if other != dgst && r.has(held) && r.names(dgst) {
				return fmt.Errorf("%s names it: %w", other, distribution.ErrInUse)
			}
			return nil
		})
	}); err != nil {
		return err
	}
	if _, err := s.content.Update(ctx, content.Info{Digest: dgst}, "labels."+held); err != nil {
		return err
	}
	if elsewhere {
		return nil
	}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	s.asked.remove(namespace, dgst)
	all, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, lease := range all {
		if err := s.leases.DeleteResource(ctx, lease, leases.Resource{ID: dgst.String(), Type: "content"}); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// referNoMore has a manifest be found by its subject no more.
func (s *Store) referNoMore(ctx context.Context, repo distribution.Repository, referrer, subject digest.Digest) error {
	if err := s.images.Delete(ctx, pendingName(repo, subject, referrer.String())); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	key := referrerLabelPrefix + referrer.String()
	info, err := s.content.Info(ctx, subject)
	if errdefs.IsNotFound(err) || err == nil && info.Labels[key] == "" {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = s.content.Update(ctx, content.Info{Digest: subject}, "labels."+key)
	return err
}
