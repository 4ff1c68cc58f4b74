// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package limit

import (
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
