// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// manifestShare is how many times the largest manifest all manifests of one
// image may have together.
const manifestShare = 8

// plan is everything below some manifests.
type plan struct {
	roots []*manifest
	// manifests by digest, the roots included.
	manifests map[digest.Digest]*manifest
	// blobs, each once.
	blobs []ocispec.Descriptor
	// size of the blobs, in bytes.
	size int64
}

// root returns the manifest that was resolved, fetching it by digest where the
// resolution did not have to.
func (s *session) root(ctx context.Context, res *Resolved) (*manifest, error) {
	if res.Manifest == nil {
		return s.manifest(ctx, res.Digest)
	}
	if err := verify(res.Manifest, res.Digest); err != nil {
		return nil, err
	}
	return parseManifest(res.Manifest, res.MediaType, res.Digest)
}

// plan fetches all manifests below roots, one level after the other and those of
// a level at once, within the bounds of the options, which are for all together.
func (s *session) plan(ctx context.Context, roots ...*manifest) (*plan, error) {
	p := &plan{roots: roots, manifests: map[digest.Digest]*manifest{}}
	o := s.options
	var memory int64
	var blobs []ocispec.Descriptor
	for _, root := range roots {
		p.manifests[root.self.Digest] = root
		memory += root.self.Size
		blobs = append(blobs, root.blobs...)
	}
	level := roots
	for depth := 1; ; depth++ {
		var next []ocispec.Descriptor
		for _, m := range level {
			next = append(next, m.children...)
		}
		next = p.missing(next)
		if len(next) == 0 {
			break
		}
		memory += totalSize(next)
		switch {
		case depth == o.MaxDepth:
			return nil, unsupported("its indexes lie more than %d levels deep", o.MaxDepth)
		case len(p.manifests)+len(next) > o.MaxManifests:
			return nil, unsupported("it has more than %d manifests", o.MaxManifests)
		case memory < 0, memory > manifestShare*o.MaxManifestBytes:
			return nil, unsupported("its manifests are larger than %d bytes together", manifestShare*o.MaxManifestBytes)
		}
		var err error
		if level, err = s.children(ctx, next); err != nil {
			return nil, err
		}
		for _, m := range level {
			p.manifests[m.self.Digest] = m
			blobs = append(blobs, m.blobs...)
		}
	}
	p.blobs = distinct(blobs)
	p.size = totalSize(p.blobs)
	if o.MaxImageBytes > 0 && p.size > o.MaxImageBytes {
		return nil, failure(Blocked, nil, "it has %d bytes, and at most %d may be mirrored here; ask the administrator", p.size, o.MaxImageBytes)
	}
	return p, nil
}

// missing returns the descriptors of manifests that p does not have, each once.
func (p *plan) missing(descriptors []ocispec.Descriptor) []ocispec.Descriptor {
	var unknown []ocispec.Descriptor
	for _, d := range distinct(descriptors) {
		if p.manifests[d.Digest] == nil {
			unknown = append(unknown, d)
		}
	}
	return unknown
}

// children fetches manifests by digest.
func (s *session) children(ctx context.Context, descriptors []ocispec.Descriptor) ([]*manifest, error) {
	found := make([]*manifest, len(descriptors))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.options.StreamsPerHost)
	for n, d := range descriptors {
		g.Go(func() (err error) {
			found[n], err = s.child(ctx, d)
			return err
		})
	}
	return found, g.Wait()
}

func (s *session) child(ctx context.Context, d ocispec.Descriptor) (*manifest, error) {
	if d.Size > s.options.MaxManifestBytes {
		return nil, unsupported("its manifest %s is larger than the %d bytes allowed", d.Digest, s.options.MaxManifestBytes)
	}
	var m *manifest
	var err error
	if inlined(d) {
		m, err = parseManifest(d.Data, d.MediaType, d.Digest)
	} else {
		// What is longer than its index says is refused before it is parsed.
		m, err = s.manifestOf(ctx, d.Digest, d.Size)
	}
	switch {
	case err != nil:
		return nil, err
	case m.self.Size != d.Size:
		return nil, failure(DigestMismatch, nil, "the manifest %s has %d bytes where its index says %d; the image has to be built or pushed again", d.Digest, m.self.Size, d.Size)
	case m.self.MediaType != d.MediaType:
		return nil, unsupported("the manifest %s is of another media type than its index says", d.Digest)
	}
	return m, nil
}

// inlined reports whether a descriptor carries its own content.
func inlined(d ocispec.Descriptor) bool {
	return len(d.Data) > 0 && int64(len(d.Data)) == d.Size && d.Digest.Algorithm().FromBytes(d.Data) == d.Digest
}

// heights groups the manifests such that all that a manifest names lie in
// earlier groups than itself: a single root comes last, alone.
func (p *plan) heights() [][]*manifest {
	var groups [][]*manifest
	height := map[digest.Digest]int{}
	var visit func(m *manifest) int
	visit = func(m *manifest) int {
		if h, ok := height[m.self.Digest]; ok {
			return h
		}
		h := 0
		for _, d := range m.children {
			h = max(h, visit(p.manifests[d.Digest])+1)
		}
		height[m.self.Digest] = h
		for len(groups) <= h {
			groups = append(groups, nil)
		}
		groups[h] = append(groups[h], m)
		return h
	}
	for _, root := range p.roots {
		visit(root)
	}
	return groups
}

// platforms returns those that the first root names, and indexes directly below it.
func (p *plan) platforms() []string {
	root := p.roots[0]
	children := slices.Clone(root.children)
	for _, d := range root.children {
		children = append(children, p.manifests[d.Digest].children...)
	}
	return platforms(children)
}
