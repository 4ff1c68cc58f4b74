// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// TestSecrets: two servers derive the same, for each purpose and each day another one, and know yesterday's for a while.
func TestSecrets(t *testing.T) {
	t.Parallel()
	store, clock := newShelf(), clocktesting.NewFakePassiveClock(noon)
	one, two := NewRing(store, host, clock), NewRing(store, host, clock)
	secrets := func(r *Ring, purpose string) [][]byte {
		t.Helper()
		all, err := r.Secrets(t.Context(), purpose, 32)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range all {
			if len(secret) != 32 {
				t.Errorf("%d bytes", len(secret))
			}
		}
		return all
	}
	today := secrets(one, "a")[0]
	if !bytes.Equal(today, secrets(two, "a")[0]) {
		t.Error("two servers have two secrets")
	}
	if bytes.Equal(today, secrets(one, "b")[0]) {
		t.Error("two purposes have one secret")
	}
	clock.SetTime(noon.Add(12*time.Hour + time.Minute))
	tomorrow := secrets(one, "a")
	if bytes.Equal(today, tomorrow[0]) || !slices.ContainsFunc(tomorrow, func(secret []byte) bool { return bytes.Equal(secret, today) }) {
		t.Error("the next day has the same secret, or does not know that of the day before")
	}
	clock.SetTime(noon.Add(12*time.Hour + SecretLifetime - time.Second))
	if !slices.ContainsFunc(secrets(NewRing(store, host, clock), "a"), func(secret []byte) bool { return bytes.Equal(secret, today) }) {
		t.Error("the secret of a day is not known until the next day ends")
	}
}
