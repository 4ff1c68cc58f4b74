// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/importer"
)

const (
	mirroredSize = 5000
	mediaType    = ocispec.MediaTypeImageIndex
)

var (
	resolvedPlatforms = []string{"linux/amd64"}
	mirroredPlatforms = []string{"linux/amd64", "linux/arm64"}
	digestA           = digest.FromString("a")
	digestB           = digest.FromString("b")
)

// source is the outside world: an Importer whose tags are set by hand. As with the real one, a digest that is known brings
// neither size nor platforms.
type source struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	tags map[string]digest.Digest
	// resolving and mirroring, where set, run within each call; what they return fails it.
	resolving func(ctx context.Context, src importer.Source) error
	mirroring func(ctx context.Context, res *importer.Resolved, progress func(importer.Progress)) error
	resolved  map[string][]time.Time // when each reference was resolved
	known     []digest.Digest
	sources   []importer.Source
	referred  []digest.Digest // whose referrers were copied
	referring func(context.Context, *importer.Resolved, importer.Destination) (*importer.Referrers, error)
	mirrored  []digest.Digest
	busy, top int
	paused    map[string]time.Time // until when, by host
}

func newSource(clock clock.PassiveClock) *source {
	return &source{
		clock:    clock,
		tags:     map[string]digest.Digest{appFrom: digestA, barrierFrom: digest.FromString("barrier")},
		resolved: map[string][]time.Time{},
		paused:   map[string]time.Time{},
	}
}

func (s *source) Resolve(ctx context.Context, src importer.Source, known digest.Digest) (*importer.Resolved, error) {
	s.mu.Lock()
	at := s.clock.Now()
	if left := s.paused[src.Reference.Host()].Sub(at); left > 0 {
		s.mu.Unlock()
		return nil, &importer.Error{Kind: importer.RateLimited, RetryAfter: left, Paused: true, Err: errors.New("leave me alone")}
	}
	name := src.Reference.String()
	tag := s.tags[name]
	s.resolved[name] = append(s.resolved[name], at)
	resolving := s.resolving
	if name != barrierFrom {
		s.known = append(s.known, known)
		s.sources = append(s.sources, src)
	}
	s.busy++
	s.top = max(s.top, s.busy)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy--
	}()

	if resolving != nil && name != barrierFrom {
		if err := resolving(ctx, src); err != nil {
			return nil, err
		}
	}
	if tag == known {
		return &importer.Resolved{Digest: tag, MediaType: mediaType, At: at, Unchanged: true}, nil
	}
	return &importer.Resolved{Digest: tag, MediaType: mediaType, At: at, Manifest: []byte(tag), Platforms: resolvedPlatforms}, nil
}

func (s *source) Mirror(ctx context.Context, _ importer.Source, res *importer.Resolved, dst importer.Destination,
	progress func(importer.Progress)) (*importer.Mirrored, error) {
	s.mu.Lock()
	s.mirrored = append(s.mirrored, res.Digest)
	mirroring := s.mirroring
	s.mu.Unlock()
	if mirroring != nil {
		if err := mirroring(ctx, res, progress); err != nil {
			return nil, err
		}
	}
	if err := dst.Push(ctx, ocispec.Descriptor{MediaType: mediaType, Digest: res.Digest}, nil); err != nil {
		return nil, err
	}
	return &importer.Mirrored{Size: mirroredSize, Platforms: mirroredPlatforms, MediaType: mediaType}, nil
}

func (s *source) MirrorReferrers(ctx context.Context, _ importer.Source, res *importer.Resolved, dst importer.Destination) (*importer.Referrers, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.referred = append(s.referred, res.Digest)
	if s.referring != nil {
		return s.referring(ctx, res, dst)
	}
	return &importer.Referrers{}, nil
}

// onResolve sets what runs within each resolve from now on.
func (s *source) onResolve(resolving func(ctx context.Context, src importer.Source) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resolving = resolving
}

func (s *source) move(from string, to digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[from] = to
}

// times returns when a reference was resolved so far.
func (s *source) times(from string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.resolved[from])
}

func (s *source) mirrorings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mirrored)
}

// gate holds calls back until it is opened, or their context ends.
type gate struct {
	entered chan struct{}
	opened  chan struct{}
}

func newGate() *gate {
	return &gate{entered: make(chan struct{}, 100), opened: make(chan struct{})}
}

func (g *gate) pass(ctx context.Context) error {
	g.entered <- struct{}{}
	select {
	case <-g.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns when a call is held back.
func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.entered:
	case <-time.After(patience):
		t.Fatal("nothing came to the gate")
	}
}

// mirror is a mirror registry of one repository.
type mirror struct {
	mu         sync.Mutex
	address    string
	content    map[digest.Digest]bool
	tags       map[string]digest.Digest
	err        error                           // of finding the repository
	locating   func(ctx context.Context) error // fails finding the repository
	completing func(ctx context.Context) error // fails Complete
	committing func(tag string) error          // fails Commit
	untagging  func() error                    // runs before Untag, and fails it
	unbounded  []string                        // tags whose Commit might have lasted for ever
}

func newMirror() *mirror {
	return &mirror{address: "mirror.example", content: map[digest.Digest]bool{}, tags: map[string]digest.Digest{}}
}

func (m *mirror) Repository(ctx context.Context, namespace, image string) (importer.Destination, string, error) {
	if m.locating != nil {
		if err := m.locating(ctx); err != nil {
			return nil, "", err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m, m.address + "/" + namespace + "/" + image, m.err
}

func (m *mirror) Mount(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }

func (m *mirror) Push(_ context.Context, desc ocispec.Descriptor, _ io.Reader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content[desc.Digest] = true
	return nil
}

func (m *mirror) Commit(ctx context.Context, tags map[string]digest.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for tag, root := range tags {
		if _, bounded := ctx.Deadline(); !bounded {
			m.unbounded = append(m.unbounded, tag)
		}
		if m.committing != nil {
			if err := m.committing(tag); err != nil {
				return err
			}
		}
		m.tags[tag] = root
	}
	return nil
}

func (m *mirror) Tagged(_ context.Context, digests []digest.Digest, leftOut func(string) bool) ([]digest.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var named []digest.Digest
	for tag, dgst := range m.tags {
		if slices.Contains(digests, dgst) && !leftOut(tag) {
			named = append(named, dgst)
		}
	}
	return named, nil
}

func (m *mirror) Untag(_ context.Context, tags ...string) error {
	m.mu.Lock()
	untagging := m.untagging
	m.mu.Unlock()
	if untagging != nil {
		if err := untagging(); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, tag := range tags {
		delete(m.tags, tag)
	}
	return nil
}

func (m *mirror) Complete(ctx context.Context, root digest.Digest) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.completing != nil {
		if err := m.completing(ctx); err != nil {
			return false, err
		}
	}
	return m.content[root], nil
}

// onUntag sets what runs before each Untag from now on, and fails it.
func (m *mirror) onUntag(untagging func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.untagging = untagging
}

// lose forgets everything, as a registry whose volume was lost.
func (m *mirror) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.content)
	clear(m.tags)
}

func (m *mirror) tagged() map[string]digest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.tags)
}
