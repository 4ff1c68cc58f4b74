// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote/auth"

	"tagger.dev/tagger/pkg/importer"
)

// PutManifest stores a manifest that has the digest of its descriptor, and points
// tags at it. The registry sees to it that what it names is there; what has a subject
// is listed there.
func (r *Repository) PutManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte, tags []string) error {
	m := manifest{desc.Digest, desc.MediaType, raw}
	listed, err := r.store(ctx, m, tags)
	if err != nil {
		return err
	}
	r.remember(recent{m, tags})
	return r.refer(ctx, m, listed, true)
}

// store puts a manifest under tags; where there are none, by its digest alone. It
// reports whether the registry lists it as a referrer by itself.
func (r *Repository) store(ctx context.Context, m manifest, tags []string) (listed bool, err error) {
	put := func(name string, tags ...string) (set []string, err error) {
		a, err := r.put(ctx, name, m, tags...)
		if err != nil {
			return nil, err
		}
		listed = listed || a.Header.Get("OCI-Subject") != ""
		if stored := digest.Digest(a.Header.Get("Docker-Content-Digest")); stored.Validate() == nil &&
			stored.Algorithm() == m.digest.Algorithm() && stored != m.digest {
			return nil, unavailable("%s has stored another manifest than %s", r.registry.endpoint, m.digest)
		}
		return a.Header.Values("OCI-Tag"), nil
	}
	var set []string
	switch {
	case len(tags) == 0:
		_, err = put(m.digest.String())
	case m.digest.Algorithm() != digest.Canonical:
		// By a tag it gets the usual digest. What comes after version 1.1 of the
		// specification has the tags go along with the digest.
		set, err = put(m.digest.String(), tags...)
	}
	for _, tag := range tags {
		if err == nil && !slices.Contains(set, tag) {
			_, err = put(tag)
		}
	}
	return listed, err
}

const (
	// maxLooked bounds the manifests that Named reads, and lookedAtOnce how many of them
	// lie in memory.
	maxLooked    = 256
	lookedAtOnce = 2
)

// Named reports whether one of the manifests that have some tags, or one below them,
// names content, which is a blob or else a manifest. The first maxLooked are looked at.
func (r *Repository) Named(ctx context.Context, tags []string, d digest.Digest, blob bool) (bool, error) {
	var (
		mu    sync.Mutex
		named bool
		seen  = map[digest.Digest]bool{}
	)
	for level, left := tags, maxLooked; len(level) > 0 && left > 0 && !named; {
		level = level[:min(len(level), left)]
		left -= len(level)
		var next []string
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(lookedAtOnce)
		for _, name := range level {
			group.Go(func() error {
				m, err := r.document(ctx, name)
				if err != nil || m == nil {
					return err
				}
				manifests, blobs, err := importer.ManifestParts(m.raw, m.mediaType)
				if err != nil {
					return nil // what is no manifest names nothing
				}
				mu.Lock()
				defer mu.Unlock()
				for _, part := range append(blobs, manifests...) {
					named = named || part.Digest == d
				}
				for _, below := range manifests {
					if !seen[below.Digest] && (blob || importer.IsIndex(below.MediaType)) {
						seen[below.Digest] = true
						next = append(next, below.Digest.String())
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return false, err
		}
		level = next
	}
	return named, nil
}

// DeleteTag removes a tag. Where there is none errdefs.IsNotFound holds for the
// error, and where the registry does not let tags be deleted errdefs.IsNotImplemented.
func (r *Repository) DeleteTag(ctx context.Context, tag string) error {
	return r.delete(ctx, "manifests/"+tag, "tag "+tag)
}

// DeleteManifest removes a manifest, and all tags that point to it. Errors are those
// of DeleteTag.
func (r *Repository) DeleteManifest(ctx context.Context, d digest.Digest) error {
	m, err := r.document(ctx, d.String())
	switch {
	case err != nil:
		return err
	case m == nil:
		return r.absent("manifest " + d.String())
	}
	if err := r.delete(ctx, "manifests/"+d.String(), "manifest "+d.String()); err != nil {
		return err
	}
	m.digest = d
	return r.referNoMore(ctx, *m)
}

// DeleteBlob removes a blob. Errors are those of DeleteTag.
func (r *Repository) DeleteBlob(ctx context.Context, d digest.Digest) error {
	r.registry.holders.Remove(holding{r.namespace, d})
	return r.delete(ctx, "blobs/"+d.String(), "blob "+d.String())
}

func (r *Repository) delete(ctx context.Context, path, what string) error {
	a, err := r.do(ctx, request{method: http.MethodDelete, path: path, also: scope{r.path, auth.ActionDelete}})
	switch {
	case err != nil:
		return err
	case a.is(http.StatusAccepted, http.StatusOK, http.StatusNoContent):
		return nil
	case a.is(http.StatusNotFound, http.StatusGone):
		return r.absent(what)
	case a.is(http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented):
		return importer.NewError(importer.MirrorUnavailable, fmt.Errorf("%d: %w", a.StatusCode, errdefs.ErrNotImplemented),
			"%s does not let the %s be deleted, which stays", r.registry.endpoint, what)
	}
	return r.registry.refused(a, "deleting the "+what)
}
