// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/random"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/test/lab"
)

// TestPause: what a registry told one import, all others of that registry know,
// whatever their repository or scope, and nobody else's.
func TestPause(t *testing.T) {
	t.Parallel()
	const minute = "60"
	refused := lab.Answering(http.StatusTooManyRequests, "text/plain", "SECRET")
	tests := []struct {
		name  string
		fault func(s *lab.Source) lab.Fault
		want  time.Duration
	}{
		{name: "429", fault: func(*lab.Source) lab.Fault { return refused }},
		{name: "429 with Retry-After", want: time.Minute,
			fault: func(*lab.Source) lab.Fault { return lab.WithHeader("Retry-After", minute, refused) }},
		{name: "429 for ever", want: time.Hour,
			fault: func(*lab.Source) lab.Fault { return lab.WithHeader("Retry-After", "999999999", refused) }},
		{name: "503 with Retry-After", want: time.Minute, fault: func(*lab.Source) lab.Fault {
			return lab.WithHeader("Retry-After", minute, lab.Answering(http.StatusServiceUnavailable, "text/plain", "SECRET"))
		}},
		{name: "503", fault: func(*lab.Source) lab.Fault { return lab.Answering(http.StatusServiceUnavailable, "text/plain", "") }},
		{name: "where blobs come from", want: time.Minute,
			fault: func(*lab.Source) lab.Fault {
				return lab.Only(lab.Blobs, lab.WithHeader("Retry-After", minute, refused))
			}},
		{name: "the token service", want: time.Minute, fault: func(s *lab.Source) lab.Fault {
			challenge := lab.WithHeader("WWW-Authenticate", `Bearer realm="`+s.URL("/token")+`"`, lab.Answering(http.StatusUnauthorized, "", ""))
			return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
				if r.URL.Path == "/token" {
					lab.WithHeader("Retry-After", minute, refused)(w, r, registry)
					return
				}
				challenge(w, r, registry)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clock := clocktesting.NewFakePassiveClock(time.Date(2022, 2, 6, 19, 0, 0, 0, time.UTC))
			i := New(Options{AllowLoopback: true, RootCAs: lab.Roots(t), Clock: clock})
			limited, other := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
			img, err := random.Image(10, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []*lab.Source{limited, other} {
				for _, repository := range []string{"app", "sibling"} {
					s.Push(t, repository, img)
				}
			}
			try := func(s *lab.Source, repository, scope string, credentials ...Credential) error {
				src := source(parse(t, s.Reference(repository)), credentials...)
				src.Scope = scope
				res, err := i.Resolve(t.Context(), src, "")
				if err == nil {
					_, err = i.Mirror(t.Context(), src, res, newMemory(), nil)
				}
				return err
			}

			limited.Misbehave(tt.fault(limited))
			if err := try(limited, "app", "ns"); err == nil {
				t.Fatal("the import succeeded")
			}
			limited.Requests()
			limited.Misbehave(nil)
			ref := parse(t, limited.Reference("sibling"))
			if diff := cmp.Diff(tt.want, i.pauses.left(client{registry: ref.Registry()})); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			if tt.want > 0 {
				clock.SetTime(clock.Now().Add(tt.want - time.Second))
				err := try(limited, "sibling", "elsewhere")
				wantFailure(t, err, ref, RateLimited, "left alone for another 1s")
				if got := err.(*Error); got.RetryAfter != time.Second || !got.Paused { //nolint:errorlint // wantFailure has checked it
					t.Errorf("RetryAfter is %s, want what is left of the pause; paused: %t", got.RetryAfter, got.Paused)
				}
				spelt := parse(t, strings.Replace(limited.Reference("sibling"), "127.0.0.1", "[::ffff:127.0.0.1]", 1))
				_, err = i.Resolve(t.Context(), source(spelt), "")
				wantFailure(t, err, spelt, RateLimited, "left alone for another 1s")
				if diff := cmp.Diff(map[string]int{}, limited.Requests()); diff != "" {
					t.Errorf("requests during the pause (-want +got):\n%s", diff)
				}
			}
			if err := try(limited, "app", "elsewhere", Credential{Username: "somebody", Password: "else"}); err != nil {
				t.Errorf("another account has to wait too: %v", err)
			}
			if err := try(other, "app", "ns"); err != nil {
				t.Errorf("another host has to wait too: %v", err)
			}
			clock.SetTime(clock.Now().Add(time.Second))
			if err := try(limited, "sibling", "elsewhere"); err != nil {
				t.Errorf("after the pause: %v", err)
			}
		})
	}
}

// TestPausesGrowOnly: a shorter pause does not end a longer one.
func TestPausesGrowOnly(t *testing.T) {
	t.Parallel()
	p := newPauses(clocktesting.NewFakePassiveClock(time.Now()))
	for _, pause := range []time.Duration{time.Minute, 5 * time.Second} {
		p.note(client{registry: "host"}, &Error{Kind: RateLimited, RetryAfter: pause})
	}
	if got := p.left(client{registry: "host"}); got != time.Minute {
		t.Errorf("%s are left, want a minute", got)
	}
}
