// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	// refreshInterval is how old what is known of the store's keys may be: so long one goes on that was taken away.
	refreshInterval = time.Minute
	// retryInterval is how long the store is left alone after it failed, where what is known does.
	retryInterval = 10 * time.Second
	// missInterval is how often the store is asked at most for keys that nobody knows, which anybody can name.
	missInterval = time.Second
	// storeTimeout bounds a call to the store.
	storeTimeout = 5 * time.Second
)

// Ring issues and recognises tokens by the keys that servers share in a store, and makes and removes those keys as their time comes.
// It does so when it is used, and needs nobody to run it. Its methods may be called concurrently.
type Ring struct {
	store    Store
	clock    clock.PassiveClock
	audience string

	known atomic.Pointer[keys]
	// turn is held by whoever asks the store.
	turn chan struct{}
}

// keys are what is known of a store. They are never changed.
type keys struct {
	byID   map[string]*signer
	byName map[string]*signer
	// loaded is when the store answered that, asked when it was last asked. Failure is what it failed by then, if it did.
	loaded, asked time.Time
	failure       error
}

// NewRing returns a ring over a store, for tokens that are good at one audience.
func NewRing(store Store, audience string, clk clock.PassiveClock) *Ring {
	r := &Ring{store: store, clock: clk, audience: audience, turn: make(chan struct{}, 1)}
	r.known.Store(&keys{})
	return r
}

// fresh says whether the store need not be asked: it was lately, or failed just now.
func (k *keys) fresh(now time.Time) bool {
	return now.Sub(k.loaded) < refreshInterval || k.loaded.Before(k.asked) && now.Sub(k.asked) < retryInterval
}

// verifier returns the key that has an ID. What the store does not say is an error only where the key is not known.
func (r *Ring) verifier(ctx context.Context, id string) (*signer, error) {
	known := r.known.Load()
	if key, ok := known.byID[id]; ok {
		if known.fresh(r.clock.Now()) {
			return key, nil
		}
		select {
		case r.turn <- struct{}{}:
		default: // somebody asks; what is known does meanwhile
			return key, nil
		}
		defer r.leave()
		if err := r.load(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Going on with the keys for registry tokens that are known")
		}
	} else if err := r.loadUnless(ctx, func(now *keys) bool {
		_, ok := now.byID[id]
		return ok || r.clock.Since(now.asked) < missInterval
	}); err != nil {
		return nil, err
	}
	known = r.known.Load()
	if key, ok := known.byID[id]; ok {
		return key, nil
	}
	if known.failure != nil { // whether the key is good is not known
		return nil, known.failure
	}
	return nil, fmt.Errorf("signed by no known key: %w", ErrInvalid)
}

// current returns the key that signs now. It is made where there is none, and that of tomorrow in the last hour of the day.
func (r *Ring) current(ctx context.Context) (*signer, error) {
	now := r.clock.Now()
	today, tomorrow := keyName(now), keyName(now.Add(lead))
	complete := func(k *keys) bool {
		return k.byName[today] != nil && (k.byName[tomorrow] != nil || k.loaded.Before(k.asked)) && k.fresh(now)
	}
	if !complete(r.known.Load()) {
		err := r.loadUnless(ctx, complete)
		for _, at := range []time.Time{now, now.Add(lead)} {
			if err == nil {
				err = r.make(ctx, at)
			}
		}
		if err != nil {
			if r.known.Load().byName[today] == nil {
				return nil, err
			}
			klog.FromContext(ctx).Error(err, "Going on with the keys for registry tokens that are known")
		}
	}
	key := r.known.Load().byName[today]
	if key == nil {
		return nil, fmt.Errorf("the stored %s cannot be used: delete it for a new one", Key{Name: today})
	}
	return key, nil
}

// make stores the key of the day of some time unless there is one, and removes those whose time is over.
func (r *Ring) make(ctx context.Context, at time.Time) error {
	if r.known.Load().byName[keyName(at)] != nil {
		return nil
	}
	key, err := newKey(at)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := r.store.Create(bounded, key); err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("storing a key for registry tokens: %w", err)
	}
	return r.loadUnless(ctx, func(*keys) bool { return false })
}

// loadUnless asks the store unless what is known will do, also after waiting for somebody else who asks.
func (r *Ring) loadUnless(ctx context.Context, does func(*keys) bool) error {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer r.leave()
	if does(r.known.Load()) {
		return nil
	}
	return r.load(ctx)
}

func (r *Ring) leave() { <-r.turn }

// load asks the store. Who calls it has the turn. It is for all who come within a second, and goes on where this one hangs up.
func (r *Ring) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	now := r.clock.Now()
	stored, err := r.store.List(ctx)
	if err != nil {
		failed := *r.known.Load()
		failed.asked, failed.failure = now, fmt.Errorf("reading the keys for registry tokens: %w", err)
		r.known.Store(&failed)
		return failed.failure
	}
	loaded := &keys{byID: map[string]*signer{}, byName: map[string]*signer{}, loaded: now, asked: now}
	for _, key := range stored {
		if key.over(now) {
			if err := r.store.Delete(ctx, key.Name); err != nil {
				klog.FromContext(ctx).Error(err, "Could not remove a key for registry tokens whose time is over", "key", key.Name)
			}
			continue
		}
		read, err := key.read()
		if err != nil {
			klog.FromContext(ctx).Error(err, "A stored key for registry tokens cannot be used", "key", key.Name)
			continue
		}
		loaded.byID[read.id], loaded.byName[read.Name] = read, read
	}
	r.known.Store(loaded)
	return nil
}
