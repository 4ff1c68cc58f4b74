// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package limit bounds how many things happen at once for each key: attempts at an upstream host, waiting calls of a user,
// writes to an Image.
package limit

import (
	"container/list"
	"context"
	"slices"
	"sync"
)

// Keyed counts places by key. The zero value has none; use NewKeyed. It is safe for concurrent use and holds no memory for a
// key without taken places.
type Keyed struct {
	limit int
	mu    sync.Mutex
	taken map[string]int
	// waiting are those who asked for a place of a key in vain, in their order.
	waiting map[string]*list.List // of *waiter
	// named are the waiters of AcquireOrWait, until they have a place or settle.
	named map[string]*waiter
}

// Share returns how many of some places one of several who use them has at most: three quarters, or all but one, so that others
// find one.
func Share(places int) int { return max(1, places-max(1, places/4)) }

// waiter is somebody who waits for a place, or was told that there is one.
type waiter struct {
	key string
	// turn is the place in the line; nil once the waiter was called.
	turn *list.Element
	// call tells the waiter; it must not block. It is run without mu.
	call func()
	// given: a place is taken for the waiter before it is called.
	given bool
}

// NewKeyed returns a Keyed with limit places for each key.
func NewKeyed(limit int) *Keyed {
	return &Keyed{limit: limit, taken: map[string]int{}, waiting: map[string]*list.List{}, named: map[string]*waiter{}}
}

// TryAcquire takes a place; release, to be called once, gives it back. It does not wait: without a free place ok is false.
func (k *Keyed) TryAcquire(key string) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.take(key)
}

// AcquireOrWait is TryAcquire by somebody with a name of its own who, without a free place, has wake called once there may be
// one, and asks again then. Whoever was woken calls Settle in the end, in case that it did not ask again.
func (k *Keyed) AcquireOrWait(key, name string, wake func()) (release func(), ok bool) {
	pass := func() {}
	k.mu.Lock()
	defer func() { k.mu.Unlock(); pass() }()
	before := k.named[name]
	if release, ok = k.take(key); ok || before == nil || before.key != key || before.turn == nil {
		pass = k.forget(name, key)
	} else {
		return nil, false // it keeps its turn
	}
	if !ok {
		w := k.enqueue(&waiter{key: key, call: wake})
		if called := before != nil && before.key == key; called { // and somebody else was faster: it is the first again
			k.waiting[key].MoveToFront(w.turn)
		}
		k.named[name] = w
	}
	return release, ok
}

// Settle passes the call on to the next when name was woken and did not ask for the place after all.
func (k *Keyed) Settle(name string) {
	pass := func() {}
	k.mu.Lock()
	if w := k.named[name]; w != nil && w.turn == nil {
		pass = k.forget(name, "")
	}
	k.mu.Unlock()
	pass()
}

// Acquire waits for a place, first come, first served, for as long as ctx lives. An error is that of ctx.
func (k *Keyed) Acquire(ctx context.Context, key string) (release func(), err error) {
	k.mu.Lock()
	if release, ok := k.take(key); ok {
		k.mu.Unlock()
		return release, nil
	}
	given := make(chan struct{})
	w := k.enqueue(&waiter{key: key, call: func() { close(given) }, given: true})
	k.mu.Unlock()
	select {
	case <-given:
		return func() { k.release(key) }, nil
	case <-ctx.Done():
	}
	k.mu.Lock()
	left := w.turn != nil
	if left {
		k.dequeue(w)
	}
	k.mu.Unlock()
	if !left { // given meanwhile
		k.release(key)
	}
	return nil, ctx.Err()
}

// Place names a place of a key.
type Place struct {
	Of  *Keyed
	Key string
}

// AcquireAll is Acquire for several places, one after the other; release gives all back.
func AcquireAll(ctx context.Context, places ...Place) (release func(), err error) {
	var releases []func()
	release = func() {
		for _, one := range slices.Backward(releases) {
			one()
		}
	}
	for _, place := range places {
		one, err := place.Of.Acquire(ctx, place.Key)
		if err != nil {
			release()
			return nil, err
		}
		releases = append(releases, one)
	}
	return release, nil
}

// Idle reports whether no place is taken and nobody waits for one.
func (k *Keyed) Idle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.taken)+len(k.waiting)+len(k.named) == 0
}

// The methods below are called with mu held, release excepted. What those return that return a call is run without.

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
	call := k.next(key)
	k.mu.Unlock()
	call()
}

// next calls the first who waits for a key, if there is a place.
func (k *Keyed) next(key string) (call func()) {
	line := k.waiting[key]
	if line == nil || k.taken[key] >= k.limit {
		return func() {}
	}
	w := line.Front().Value.(*waiter)
	k.dequeue(w)
	if w.given {
		k.taken[key]++
	}
	return w.call
}

// forget drops what is known of a name. Where it was called for another key than it wants, that is passed on.
func (k *Keyed) forget(name, wants string) (call func()) {
	w := k.named[name]
	delete(k.named, name)
	switch {
	case w == nil:
	case w.turn != nil:
		k.dequeue(w)
	case w.key != wants:
		return k.next(w.key)
	}
	return func() {}
}

func (k *Keyed) enqueue(w *waiter) *waiter {
	line := k.waiting[w.key]
	if line == nil {
		line = list.New()
		k.waiting[w.key] = line
	}
	w.turn = line.PushBack(w)
	return w
}

func (k *Keyed) dequeue(w *waiter) {
	line := k.waiting[w.key]
	line.Remove(w.turn)
	if w.turn = nil; line.Len() == 0 {
		delete(k.waiting, w.key)
	}
}
