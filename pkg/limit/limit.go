// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package limit bounds how many things happen at once for each key: attempts at an upstream host, waiting calls of a user.
package limit

import (
	"context"
	"sync"
)

// Keyed counts places by key. The zero value has none; use NewKeyed. It is safe for concurrent use and holds no memory for a
// key without taken places.
type Keyed struct {
	limit int
	mu    sync.Mutex
	taken map[string]int
	// waiting are those who asked for a place of a key in vain, in their order.
	waiting map[string][]waiter
	// called are those who were told that there is a place, by name, until they come for it.
	called map[string]string // name → key
}

type waiter struct {
	name string
	wake func()
}

// NewKeyed returns a Keyed with limit places for each key.
func NewKeyed(limit int) *Keyed {
	return &Keyed{limit: limit, taken: map[string]int{}, waiting: map[string][]waiter{}, called: map[string]string{}}
}

// TryAcquire takes a place; release, to be called once, gives it back. It does not wait: without a free place ok is false.
func (k *Keyed) TryAcquire(key string) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.take(key)
}

func (k *Keyed) take(key string) (release func(), ok bool) {
	if k.taken[key] >= k.limit {
		return nil, false
	}
	k.taken[key]++
	return func() { k.release(key) }, true
}

func (k *Keyed) release(key string) {
	k.mu.Lock()
	if k.taken[key]--; k.taken[key] == 0 {
		delete(k.taken, key)
	}
	wake := k.next(key)
	k.mu.Unlock()
	wake()
}

// next calls the first who waits for a key; mu is held, and what is returned is run when it is not.
func (k *Keyed) next(key string) (wake func()) {
	waiting := k.waiting[key]
	if len(waiting) == 0 {
		return func() {}
	}
	first := waiting[0]
	if k.waiting[key] = waiting[1:]; len(waiting) == 1 {
		delete(k.waiting, key)
	}
	k.called[first.name] = key
	return first.wake
}

// AcquireOrWait is TryAcquire by somebody with a name of its own who, without a free place, has wake called once there may be
// one, and asks again then. Whoever was woken calls Settle in the end, in case that it did not ask again.
func (k *Keyed) AcquireOrWait(key, name string, wake func()) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.called, name)
	if release, ok = k.take(key); ok {
		return release, true
	}
	for _, w := range k.waiting[key] {
		if w.name == name {
			return nil, false
		}
	}
	k.waiting[key] = append(k.waiting[key], waiter{name, wake})
	return nil, false
}

// Settle passes the call on to the next when name was woken and did not ask for the place after all.
func (k *Keyed) Settle(name string) {
	k.mu.Lock()
	key, called := k.called[name]
	delete(k.called, name)
	wake := func() {}
	if called {
		wake = k.next(key)
	}
	k.mu.Unlock()
	wake()
}

// Acquire waits for a place, for as long as ctx lives. Name is as in AcquireOrWait. An error is that of ctx.
func (k *Keyed) Acquire(ctx context.Context, key, name string) (release func(), err error) {
	woken := make(chan struct{}, 1)
	for {
		release, ok := k.AcquireOrWait(key, name, func() { woken <- struct{}{} })
		if ok {
			return release, nil
		}
		select {
		case <-woken:
		case <-ctx.Done():
			k.leave(key, name)
			k.Settle(name)
			return nil, ctx.Err()
		}
	}
}

// leave has name wait no longer.
func (k *Keyed) leave(key, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var left []waiter
	for _, w := range k.waiting[key] {
		if w.name != name {
			left = append(left, w)
		}
	}
	if k.waiting[key] = left; len(left) == 0 {
		delete(k.waiting, key)
	}
}
