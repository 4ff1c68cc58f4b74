// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pushable is a backend in memory that is written to. It has no more sense than the handler's tests need: a manifest
// may name what it likes.
type pushable struct {
	mu      sync.Mutex
	content map[Repository]map[digest.Digest]text
	tags    map[Repository]map[string]ocispec.Descriptor
	uploads map[string]*memoryUpload
	started int
	// fails is what everything that writes fails with.
	fails error
}

func newPushable() *pushable {
	return &pushable{
		content: map[Repository]map[digest.Digest]text{}, tags: map[Repository]map[string]ocispec.Descriptor{}, uploads: map[string]*memoryUpload{},
	}
}

func (p *pushable) put(repo Repository, desc ocispec.Descriptor, data string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.content[repo] == nil {
		p.content[repo] = map[digest.Digest]text{}
	}
	p.content[repo][desc.Digest] = *newText(data, desc)
}

func (p *pushable) get(repo Repository, dgst digest.Digest, kind Error) (Content, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	content, ok := p.content[repo][dgst]
	if !ok || kind == ErrManifestUnknown && content.desc.MediaType == "" {
		return nil, kind
	}
	return &content, nil
}

func (p *pushable) Resolve(_ context.Context, repo Repository, tag string) (ocispec.Descriptor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	desc, ok := p.tags[repo][tag]
	if !ok {
		return ocispec.Descriptor{}, ErrManifestUnknown
	}
	return desc, nil
}

func (p *pushable) Manifest(_ context.Context, repo Repository, dgst digest.Digest) (Content, error) {
	return p.get(repo, dgst, ErrManifestUnknown)
}

func (p *pushable) Blob(_ context.Context, repo Repository, dgst digest.Digest) (Content, error) {
	return p.get(repo, dgst, ErrBlobUnknown)
}

func (p *pushable) Tags(_ context.Context, repo Repository) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var tags []string
	for tag := range p.tags[repo] {
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	return tags, nil
}

func (*pushable) Referrers(context.Context, Repository, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}

func (p *pushable) Mount(_ context.Context, repo, from Repository, dgst digest.Digest) error {
	content, err := p.get(from, dgst, ErrBlobUnknown)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.NewSectionReader(content, 0, content.Descriptor().Size))
	if err != nil {
		return err
	}
	p.put(repo, content.Descriptor(), string(data))
	return p.fails
}

func (p *pushable) StartUpload(_ context.Context, repo Repository, algorithm digest.Algorithm) (Upload, error) {
	if p.fails != nil {
		return nil, p.fails
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started++
	u := &memoryUpload{backend: p, repo: repo, id: fmt.Sprintf("u%d-%s", p.started, algorithm), place: make(chan struct{}, 1)}
	u.place <- struct{}{}
	p.uploads[u.id] = u
	return u, nil
}

func (p *pushable) ResumeUpload(ctx context.Context, repo Repository, id string) (Upload, error) {
	p.mu.Lock()
	u, ok := p.uploads[id]
	p.mu.Unlock()
	if !ok || u.repo != repo {
		return nil, ErrUploadUnknown
	}
	select {
	case u.place <- struct{}{}:
		return u, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pushable) PutManifest(_ context.Context, repo Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error {
	if p.fails != nil {
		return p.fails
	}
	p.put(repo, desc, string(manifest))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tags[repo] == nil {
		p.tags[repo] = map[string]ocispec.Descriptor{}
	}
	for _, tag := range tags {
		p.tags[repo][tag] = desc
	}
	return nil
}

func (p *pushable) DeleteTag(ctx context.Context, repo Repository, tag string) error {
	if _, err := p.Resolve(ctx, repo, tag); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tags[repo], tag)
	return p.fails
}

func (p *pushable) remove(repo Repository, dgst digest.Digest, kind Error) error {
	if _, err := p.get(repo, dgst, kind); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails == nil {
		delete(p.content[repo], dgst)
	}
	return p.fails
}

func (p *pushable) DeleteManifest(_ context.Context, repo Repository, dgst digest.Digest) error {
	return p.remove(repo, dgst, ErrManifestUnknown)
}

func (p *pushable) DeleteBlob(_ context.Context, repo Repository, dgst digest.Digest) error {
	return p.remove(repo, dgst, ErrBlobUnknown)
}

// memoryUpload is an upload of pushable.
type memoryUpload struct {
	backend *pushable
	repo    Repository
	id      string
	place   chan struct{}
	data    bytes.Buffer
}

func (u *memoryUpload) ID() string  { return u.id }
func (u *memoryUpload) Size() int64 { return int64(u.data.Len()) }

func (u *memoryUpload) Append(_ context.Context, r io.Reader, _ int64) error {
	_, err := io.Copy(&u.data, r)
	return err
}

func (u *memoryUpload) Commit(ctx context.Context, r io.Reader, size int64, dgst digest.Digest) error {
	if err := u.Append(ctx, r, size); err != nil {
		return err
	}
	if err := u.Cancel(ctx); err != nil {
		return err
	}
	if dgst.Algorithm().FromBytes(u.data.Bytes()) != dgst {
		return ErrDigestInvalid
	}
	u.backend.put(u.repo, ocispec.Descriptor{Digest: dgst}, u.data.String())
	return nil
}

func (u *memoryUpload) Cancel(context.Context) error {
	u.backend.mu.Lock()
	defer u.backend.mu.Unlock()
	delete(u.backend.uploads, u.id)
	return u.backend.fails
}

func (u *memoryUpload) Close() error {
	<-u.place
	return nil
}
