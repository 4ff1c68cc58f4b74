// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"context"
	"errors"
	"slices"
	"strconv"
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
	if len(keyed.taken)+len(keyed.waiting)+len(keyed.called) != 0 {
		t.Errorf("memory is held for nobody: %v %v %v", keyed.taken, keyed.waiting, keyed.called)
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
			release, err := keyed.Acquire(ctx, "a", strconv.Itoa(n))
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
	if len(keyed.taken)+len(keyed.waiting)+len(keyed.called) != 0 {
		t.Errorf("memory is held for nobody: %v %v %v", keyed.taken, keyed.waiting, keyed.called)
	}
}
