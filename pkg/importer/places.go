// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// places bounds how many hold the same key at once. Waiting is first come,
// first served. Keys that nobody holds or waits for cost nothing.
type places struct {
	each int64

	mu   sync.Mutex
	keys map[string]*place
}

type place struct {
	*semaphore.Weighted
	users int
}

func newPlaces(each int64) *places {
	return &places{each: each, keys: map[string]*place{}}
}

// acquire waits for one of the places of key. The caller calls release once. An
// error is that of ctx.
func (p *places) acquire(ctx context.Context, key string) (release func(), err error) {
	p.mu.Lock()
	s, ok := p.keys[key]
	if !ok {
		s = &place{Weighted: semaphore.NewWeighted(p.each)}
		p.keys[key] = s
	}
	s.users++
	p.mu.Unlock()

	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(p.keys, key)
		}
	}
	if err := s.Acquire(ctx, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { s.Release(1); leave() }, nil
}
