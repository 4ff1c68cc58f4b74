// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package limit bounds how many things happen at once for each key: attempts at an upstream host, waiting calls of a user.
package limit

import "sync"

// Keyed counts places by key. The zero value has none; use NewKeyed. It is safe for concurrent use and holds no memory for a
// key without taken places.
type Keyed struct {
	limit int
	mu    sync.Mutex
	taken map[string]int
}

// NewKeyed returns a Keyed with limit places for each key.
func NewKeyed(limit int) *Keyed {
	return &Keyed{limit: limit, taken: map[string]int{}}
}

// TryAcquire takes a place; release, to be called once, gives it back. It does not wait: without a free place ok is false.
func (k *Keyed) TryAcquire(key string) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.taken[key] >= k.limit {
		return nil, false
	}
	k.taken[key]++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.taken[key]--; k.taken[key] == 0 {
			delete(k.taken, key)
		}
	}, true
}
