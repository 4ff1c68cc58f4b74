// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clocktesting "k8s.io/utils/clock/testing"
)

func mustVerify(t *testing.T, r *Ring, value string) {
	t.Helper()
	if _, err := r.Verify(t.Context(), value); err != nil {
		t.Errorf("refused: %v", err)
	}
}

func mustRefuse(t *testing.T, r *Ring, value string) {
	t.Helper()
	if _, err := r.Verify(t.Context(), value); !errors.Is(err, ErrInvalid) {
		t.Errorf("not refused, but %v", err)
	}
}

// TestRotation goes through two days with two servers, of which one only looks.
func TestRotation(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	signing, looking := NewRing(store, host, clock), NewRing(store, host, clock)
	expect := func(at time.Time, days ...string) {
		t.Helper()
		if diff := cmp.Diff(days, store.days()); diff != "" {
			t.Errorf("keys at %s (-want +got):\n%s", at, diff)
		}
	}
	step := func(at time.Time) string {
		t.Helper()
		clock.SetTime(at)
		value := issue(t, signing, nil, time.Hour)
		mustVerify(t, looking, value)
		return value
	}

	first := step(noon)
	expect(noon, "2026-11-27")
	if same := step(noon.Add(time.Minute)); strings.Split(same, ".")[0] != strings.Split(first, ".")[0] {
		t.Error("signed by another key on the same day")
	}
	late := noon.Add(11*time.Hour + 30*time.Minute)
	last := step(late)
	expect(late, "2026-11-27", "2026-11-28")
	midnight := noon.Add(12 * time.Hour)
	if next := step(midnight); strings.Split(next, ".")[0] == strings.Split(last, ".")[0] {
		t.Error("signed by the same key on the next day")
	}
	clock.SetTime(midnight.Add(20 * time.Minute))
	mustVerify(t, looking, last)
	mustRefuse(t, looking, first)
	clock.SetTime(late.Add(time.Hour + clockSkew))
	mustRefuse(t, looking, last)
	expect(clock.Now(), "2026-11-27", "2026-11-28")

	// One whose clock is behind still signs by the key of the day before, and one whose clock is ahead signs already by the next.
	clock.SetTime(midnight.Add(24*time.Hour - clockSkew/2))
	behind := issue(t, signing, nil, time.Minute)
	clock.SetTime(midnight.Add(24*time.Hour + clockSkew/2))
	mustVerify(t, looking, behind)
	ahead := issue(t, signing, nil, time.Minute)
	clock.SetTime(midnight.Add(24*time.Hour - clockSkew/2))
	mustVerify(t, looking, ahead)
	expect(clock.Now(), "2026-11-27", "2026-11-28", "2026-11-29")
	step(midnight.Add(25 * time.Hour)) // what a secret of the first day is for is over too
	expect(clock.Now(), "2026-11-28", "2026-11-29")
}

// TestReplicas has many servers begin at once, each of which knows the others' tokens.
func TestReplicas(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	var group sync.WaitGroup
	tokens := make(chan string, 64)
	for range 8 {
		r := NewRing(store, host, clock)
		for range 8 {
			group.Go(func() {
				value, _, err := r.Issue(t.Context(), alice, nil, time.Hour)
				if err == nil {
					_, err = r.Verify(t.Context(), value)
				}
				if err != nil {
					t.Error(err)
				}
				tokens <- value
			})
		}
	}
	group.Wait()
	close(tokens)
	if diff := cmp.Diff([]string{"2026-11-27"}, store.days()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	r := NewRing(store, host, clock)
	for value := range tokens {
		mustVerify(t, r, value)
	}
	if n := store.asked(); n > 8*3+1 {
		t.Errorf("the store was asked %d times", n)
	}
}

// TestUnknownKey counts what tokens cost that name a key which nobody has.
func TestUnknownKey(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	r, stranger := NewRing(store, host, clock), NewRing(newShelf(), host, clock)
	issue(t, r, nil, time.Hour)
	clock.SetTime(noon.Add(10 * time.Second))
	store.asked()
	foreign := issue(t, stranger, nil, time.Hour)
	for range 100 {
		mustRefuse(t, r, foreign)
	}
	if n := store.asked(); n != 1 {
		t.Errorf("the store was asked %d times within a second, want once", n)
	}
	clock.SetTime(clock.Now().Add(missInterval))
	mustRefuse(t, r, foreign)
	if n := store.asked(); n != 1 {
		t.Errorf("the store was asked %d times a second later, want once", n)
	}
}

// TestStoreFails goes on with what is known.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	r, late := NewRing(store, host, clock), NewRing(store, host, clock)
	value := issue(t, r, nil, time.Hour)
	down := errors.New("etcd is down")
	store.breakWith(down)
	store.asked()
	for range 3 {
		clock.SetTime(clock.Now().Add(refreshInterval))
		for range 10 {
			mustVerify(t, r, value)
			mustVerify(t, r, issue(t, r, nil, time.Minute))
		}
	}
	if n := store.asked(); n != 3 {
		t.Errorf("the store was asked %d times in three minutes, want 3", n)
	}
	for range 3 {
		if _, err := late.Verify(t.Context(), value); !errors.Is(err, down) || errors.Is(err, ErrInvalid) {
			t.Errorf("a server that knows no key: %v", err)
		}
	}
	if n := store.asked(); n != 1 {
		t.Errorf("the store was asked %d times within a second, want once", n)
	}
	if _, _, err := late.Issue(t.Context(), alice, nil, time.Minute); !errors.Is(err, down) {
		t.Errorf("a server that knows no key issues: %v", err)
	}
	store.breakWith(nil)
	clock.SetTime(clock.Now().Add(refreshInterval))
	mustVerify(t, late, value)
}

// TestHangsUp: who asks for all does it to the end.
func TestHangsUp(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	value := issue(t, NewRing(store, host, clock), nil, time.Hour)
	r := NewRing(store, host, clock)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 { // whether it gets to the store is a matter of chance
		if _, err := r.Verify(gone, value); errors.Is(err, ErrInvalid) {
			t.Errorf("one that hangs up: %v", err)
		}
	}
	mustVerify(t, r, value)
}

// TestTakenAway removes a key, as an administrator does whose keys were read by others.
func TestTakenAway(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	r := NewRing(store, host, clock)
	value := issue(t, r, nil, time.Hour)
	if err := store.Delete(t.Context(), "2026-11-27"); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(noon.Add(refreshInterval))
	mustRefuse(t, r, value)
	again := issue(t, r, nil, time.Hour)
	mustVerify(t, r, again)
	mustRefuse(t, r, value)
}

// TestUnusable is of stored keys that are none.
func TestUnusable(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	bad, err := newKey(noon)
	if err != nil {
		t.Fatal(err)
	}
	secret := "c2VjcmV0"
	bad.Private = []byte(secret)
	if err := store.Create(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	r := NewRing(store, host, clock)
	if _, _, err := r.Issue(t.Context(), alice, nil, time.Hour); err == nil || !strings.Contains(err.Error(), "2026-11-27") {
		t.Errorf("%v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", bad, bad, bad); strings.Contains(text, secret) {
		t.Errorf("printing a key shows it: %s", text)
	}
	clock.SetTime(noon.Add(24 * time.Hour))
	mustVerify(t, r, issue(t, r, nil, time.Hour))
}
