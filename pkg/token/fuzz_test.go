// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// FuzzVerify: nothing is accepted that was not issued, and nothing else than a refusal comes of it.
func FuzzVerify(f *testing.F) {
	r := NewRing(newShelf(), host, clocktesting.NewFakePassiveClock(noon))
	issued := map[string]bool{}
	for _, access := range []*[]Access{nil, {}, {{Type: "repository", Name: "a/app", Actions: []string{"pull"}}}} {
		value, _, err := r.Issue(f.Context(), alice, access, time.Hour)
		if err != nil {
			f.Fatal(err)
		}
		issued[value] = true
		f.Add(value)
	}
	for _, seed := range []string{
		"", "..", "a.b.c", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL3RhZ2dlci5kZXYvcmVnaXN0cnktdG9rZW4ifQ.",
		"eyJhbGciOiJFUzI1NiIsImtpZCI6W119.e30.AA", "eyJhbGciOiJFUzI1NiIsImtpZCI6eyJhIjp7fX19.bnVsbA.AA", "bnVsbA.bnVsbA.",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		_ = Ours(value)
		_, err := r.Verify(t.Context(), value)
		if issued[value] != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", value, err)
		}
	})
}
