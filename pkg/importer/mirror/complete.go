// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"tagger.dev/tagger/pkg/importer"
)

// maxContent bounds the manifests and blobs that Complete looks for below one root:
// what has more was not written here.
const maxContent = 100_000

// errIncomplete ends a search for what is missing.
var errIncomplete = errors.New("something is missing")

// Complete implements importer.Destination. It reads every manifest and asks for
// every blob, each once and several at a time; layers that are to be had from URLs
// of their own are not missed. A referrer has to be listed for its subject as well.
func (r *Repository) Complete(ctx context.Context, root digest.Digest) (bool, error) {
	err := r.complete(ctx, root)
	if errors.Is(err, errIncomplete) {
		return false, nil
	}
	return err == nil, err
}

func (r *Repository) complete(ctx context.Context, root digest.Digest) error {
	if root.Validate() != nil {
		return errIncomplete
	}
	m, err := r.manifest(ctx, root)
	if err != nil {
		return err
	}
	if m == nil {
		return errIncomplete
	}
	below := &content{seen: map[digest.Digest]bool{root: true}}
	if err := below.add(m); err != nil {
		return err
	}
	for len(below.manifests) > 0 {
		level := below.manifests
		below.manifests = nil
		if err := r.each(ctx, level, func(ctx context.Context, d ocispec.Descriptor) error {
			m, err := r.manifest(ctx, d.Digest)
			if err != nil {
				return err
			}
			if m == nil {
				return errIncomplete
			}
			return below.add(m)
		}); err != nil {
			return err
		}
	}
	if err := r.each(ctx, below.blobs, func(ctx context.Context, d ocispec.Descriptor) error {
		held, err := r.has(ctx, "blobs", d)
		if err == nil && !held {
			err = errIncomplete
		}
		if held {
			r.holds(d.Digest)
		}
		return err
	}); err != nil {
		return err
	}
	return r.listed(ctx, *m)
}

// each calls do for each descriptor, several at a time, and ends with the first
// error.
func (r *Repository) each(ctx context.Context, all []ocispec.Descriptor, do func(ctx context.Context, d ocispec.Descriptor) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.registry.options.Connections)
	for _, d := range all {
		g.Go(func() error { return do(ctx, d) })
	}
	return g.Wait()
}

// content is what lies below a root, each once. What was read of it is not kept:
// who may write to the repository decides how much that is.
type content struct {
	mu               sync.Mutex
	seen             map[digest.Digest]bool
	manifests, blobs []ocispec.Descriptor
}

// add adds what a manifest names. It may be called concurrently.
func (c *content) add(m *manifest) error {
	manifests, blobs, err := importer.ManifestParts(m.raw, m.mediaType)
	if err != nil {
		return errIncomplete // no import would have left it here
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	unseen := func(to *[]ocispec.Descriptor, all []ocispec.Descriptor) {
		for _, d := range all {
			if !c.seen[d.Digest] {
				c.seen[d.Digest] = true
				*to = append(*to, ocispec.Descriptor{Digest: d.Digest, Size: d.Size})
			}
		}
	}
	unseen(&c.manifests, manifests)
	unseen(&c.blobs, blobs)
	if len(c.seen) > maxContent {
		return errIncomplete
	}
	return nil
}
