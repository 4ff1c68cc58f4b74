// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

func TestTryAcquire(t *testing.T) {
	t.Parallel()
	keyed := NewKeyed(2)
	take := func(key string, want bool) func() {
		t.Helper()
		release, ok := keyed.TryAcquire(key)
		if ok != want || (release != nil) != want {
			t.Fatalf("a place for %q: %t, want %t", key, ok, want)
		}
		return release
	}
	first, second := take("a", true), take("a", true)
	take("a", false)
	other := take("b", true) // has places of its own
	first()
	third := take("a", true)
	take("a", false)
	second()
	third()
	other()
	if len(keyed.taken) != 0 {
		t.Errorf("memory is held for keys without places: %v", keyed.taken)
	}
}

func TestNoPlaces(t *testing.T) {
	t.Parallel()
	if _, ok := NewKeyed(0).TryAcquire("a"); ok {
		t.Error("a place where there are none")
	}
}

func TestTryAcquireConcurrently(t *testing.T) {
	t.Parallel()
	const limit = 3
	keyed := NewKeyed(limit)
	var inside, taken atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for range 100 {
				release, ok := keyed.TryAcquire("a")
				if !ok {
					continue
				}
				taken.Add(1)
				if n := inside.Add(1); n > limit {
					t.Errorf("%d at once, want at most %d", n, limit)
				}
				inside.Add(-1)
				release()
			}
		})
	}
	group.Wait()
	if taken.Load() == 0 || len(keyed.taken) != 0 {
		t.Errorf("%d places were taken, %v are still", taken.Load(), keyed.taken)
	}
}

// TestAcquireOrWait has several wait for the only place: they are called in turn, each once, and one that does not come lets the
// next go.
func TestAcquireOrWait(t *testing.T) {
	t.Parallel()
	keyed := NewKeyed(1)
	var called []string
	ask := func(name string) (func(), bool) {
		return keyed.AcquireOrWait("a", name, func() { called = append(called, name) })
	}
	release, ok := ask("first")
	if !ok {
		t.Fatal("no place where all are free")
	}
	for _, name := range []string{"second", "third", "second", "fourth"} {
		if _, ok := ask(name); ok {
			t.Fatalf("%s has a place that is taken", name)
		}
	}
	release()
	keyed.Settle("first") // was not called
	keyed.Settle("second")
	if release, ok = ask("third"); !ok {
		t.Fatal("third was called for nothing")
	}
	keyed.Settle("third") // has come
	if want := []string{"second", "third"}; !slices.Equal(called, want) {
		t.Errorf("called %v, want %v", called, want)
	}
	release()
	keyed.Settle("fourth")
	if want := []string{"second", "third", "fourth"}; !slices.Equal(called, want) {
		t.Errorf("called %v, want %v", called, want)
	}
	if !keyed.Idle() {
		t.Errorf("memory is held for nobody: %v %v %v", keyed.taken, keyed.waiting, keyed.named)
	}
}

// TestCallIsPassedOn has somebody who was called want something else meanwhile, or come by for another reason: those who wait lose
// nothing by it.
func TestCallIsPassedOn(t *testing.T) {
	t.Parallel()
	var called []string
	ask := func(keyed *Keyed, key, name string) (func(), bool) {
		return keyed.AcquireOrWait(key, name, func() { called = append(called, name) })
	}
	forget := func(keyed *Keyed, name string) {
		keyed.mu.Lock()
		defer keyed.mu.Unlock()
		keyed.forget(name, "")
	}
	tests := []struct {
		name string
		do   func(t *testing.T, keyed *Keyed, release func())
		want []string
	}{
		{name: "called, and it asks for another key", want: []string{"second", "third"}, do: func(_ *testing.T, keyed *Keyed, release func()) {
			release()
			other, ok := ask(keyed, "b", "second")
			if !ok {
				t.Fatal("no place of another key")
			}
			other()
			last, ok := ask(keyed, "a", "third")
			if !ok {
				t.Fatal("no place for whom the call was passed on to")
			}
			last()
		}},
		{name: "not called, and it comes when there is a place", want: []string{"second", "second"}, do: func(t *testing.T, keyed *Keyed, release func()) {
			release() // calls second, who takes its time
			mine, ok := ask(keyed, "a", "third")
			if !ok {
				t.Fatal("no place where it is free")
			}
			if _, ok := ask(keyed, "a", "second"); ok {
				t.Fatal("two have the place")
			}
			if _, ok := ask(keyed, "a", "fourth"); ok {
				t.Fatal("three have the place")
			}
			mine() // calls second again, who was the first in the line
			forget(keyed, "fourth")
			last, ok := ask(keyed, "a", "second")
			if !ok {
				t.Fatal("second was called for nothing")
			}
			last()
		}},
		{name: "waiting, and it wants another key", want: []string{"third"}, do: func(t *testing.T, keyed *Keyed, release func()) {
			other, _ := ask(keyed, "b", "second")
			release() // calls third
			last, ok := ask(keyed, "a", "third")
			if !ok {
				t.Fatal("third was called for nothing")
			}
			last()
			other()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { //nolint:paralleltest // they share what is called
			called = nil
			keyed := NewKeyed(1)
			release, _ := ask(keyed, "a", "first")
			for _, name := range []string{"second", "third"} {
				if _, ok := ask(keyed, "a", name); ok {
					t.Fatal("a place where there is none")
				}
			}
			tt.do(t, keyed, release)
			if !slices.Equal(called, tt.want) {
				t.Errorf("called %v, want %v", called, tt.want)
			}
			if !keyed.Idle() {
				t.Errorf("memory is held for nobody: %v %v %v", keyed.taken, keyed.waiting, keyed.named)
			}
		})
	}
}

func TestAcquire(t *testing.T) {
	t.Parallel()
	const limit, users = 2, 50
	keyed := NewKeyed(limit)
	var inside atomic.Int64
	var group sync.WaitGroup
	for n := range users {
		group.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if n%5 == 0 { // goes away, waiting or not
				cancel()
			}
			release, err := keyed.Acquire(ctx, "a")
			if err != nil {
				if !errors.Is(err, context.Canceled) || n%5 != 0 {
					t.Errorf("%d: %v", n, err)
				}
				return
			}
			if n := inside.Add(1); n > limit {
				t.Errorf("%d at once, want at most %d", n, limit)
			}
			inside.Add(-1)
			release()
		})
	}
	group.Wait()
	if !keyed.Idle() {
		t.Errorf("memory is held for nobody: %v %v %v", keyed.taken, keyed.waiting, keyed.named)
	}
}

func TestShare(t *testing.T) {
	t.Parallel()
	for places, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 8: 6, 16: 12, 32: 24} {
		if got := Share(places); got != want {
			t.Errorf("of %d places %d, want %d", places, got, want)
		}
	}
}

func TestAcquireAll(t *testing.T) {
	t.Parallel()
	first, second := NewKeyed(1), NewKeyed(1)
	places := []Place{{Of: first, Key: "a"}, {Of: second}}
	release, err := AcquireAll(t.Context(), places...)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := AcquireAll(ended, Place{Of: first, Key: "b"}, Place{Of: second}); err == nil {
		t.Error("a place was given that is taken")
	}
	release()
	if !first.Idle() || !second.Idle() {
		t.Error("places are still taken")
	}
}
