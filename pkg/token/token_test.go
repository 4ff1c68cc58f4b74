// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	clocktesting "k8s.io/utils/clock/testing"
)

const host = "registry.example:5000"

// noon is far from when keys change.
var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// shelf is a Store in memory.
type shelf struct {
	mu     sync.Mutex
	keys   map[string]Key
	lists  int
	broken error
}

func newShelf() *shelf { return &shelf{keys: map[string]Key{}} }

func (s *shelf) List(ctx context.Context) ([]Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(s.keys)), s.broken
}

func (s *shelf) Create(_ context.Context, key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.keys[key.Name]; taken {
		return fmt.Errorf("%s: %w", key.Name, ErrExists)
	}
	if s.broken == nil {
		s.keys[key.Name] = key
	}
	return s.broken
}

func (s *shelf) Delete(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, name)
	return s.broken
}

// days returns the names of the keys.
func (s *shelf) days() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.keys))
}

func (s *shelf) breakWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// asked returns how often the keys were read since it was last called.
func (s *shelf) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.lists
	s.lists = 0
	return n
}

var alice = Identity{Name: "alice", UID: "7", Groups: []string{"developers", "system:authenticated"}, Extra: map[string][]string{"scopes": {"a", "b"}}}

func issue(t *testing.T, r *Ring, access *[]Access, lifetime time.Duration) string {
	t.Helper()
	value, _, err := r.Issue(t.Context(), alice, access, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestIssue(t *testing.T) {
	t.Parallel()
	pull := []Access{{Type: "repository", Name: "a/app", Actions: []string{"pull"}}}
	for _, tt := range []struct {
		name     string
		access   *[]Access
		lifetime time.Duration
		expires  time.Duration
	}{
		{name: "bound to nothing", lifetime: time.Hour, expires: time.Hour},
		{name: "bound to a repository", access: &pull, lifetime: 5 * time.Minute, expires: 5 * time.Minute},
		{name: "for nothing", access: &[]Access{}, lifetime: time.Minute, expires: time.Minute},
		{name: "no longer than may be", lifetime: 24 * time.Hour, expires: time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := NewRing(newShelf(), host, clocktesting.NewFakePassiveClock(noon.Add(123456*time.Microsecond)))
			value, said, err := r.Issue(t.Context(), alice, tt.access, tt.lifetime)
			if err != nil {
				t.Fatal(err)
			}
			want := Claims{Identity: alice, Access: tt.access, ID: said.ID, IssuedAt: noon, Expires: noon.Add(tt.expires)}
			if diff := cmp.Diff(want, said); diff != "" || len(said.ID) < 20 {
				t.Errorf("said (-want +got):\n%s", diff)
			}
			got, err := r.Verify(t.Context(), value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(time.Time.Equal)); diff != "" {
				t.Errorf("verified (-want +got):\n%s", diff)
			}
			if !Ours(value) {
				t.Error("not recognised as one of ours")
			}
		})
	}
}

// TestTooLarge is of a user about whom more is known than a token holds.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	store := newShelf()
	r := NewRing(store, host, clocktesting.NewFakePassiveClock(noon))
	many := Identity{Name: "alice"}
	for i := range 400 {
		many.Groups = append(many.Groups, fmt.Sprintf("a-group-with-a-name-%d", i))
	}
	_, _, issued := r.Issue(t.Context(), many, nil, time.Hour)
	_, checked := r.Check(many, nil, time.Hour)
	for _, err := range []error{issued, checked} {
		tooLarge := (*TooLargeError)(nil)
		if !errors.As(err, &tooLarge) || tooLarge.Groups != 400 || tooLarge.Bytes <= MaxBytes || !strings.Contains(err.Error(), "400 groups") {
			t.Errorf("%v", err)
		}
	}
	if days := store.days(); len(days) != 0 {
		t.Errorf("keys were made: %v", days)
	}
	many.Groups = many.Groups[:250]
	value, _, err := r.Issue(t.Context(), many, nil, time.Hour)
	if err != nil || len(value) > MaxBytes {
		t.Errorf("%d bytes, %v", len(value), err)
	}
	if _, err := r.Verify(t.Context(), value); err != nil {
		t.Error(err)
	}
}

// TestRefused forges tokens.
func TestRefused(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(noon)
	store := newShelf()
	r := NewRing(store, host, clock)
	good := issue(t, r, nil, time.Hour)
	own := r.known.Load().byName[keyName(noon)]
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(own.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	// forge signs what change makes of a good token.
	forge := func(method jwt.SigningMethod, key any, change func(header map[string]any, claims jwt.MapClaims)) string {
		claims := jwt.MapClaims{
			"iss": issuer, "aud": host, "sub": "alice", "iat": noon.Unix(), "exp": noon.Add(time.Hour).Unix(), "jti": "1",
		}
		unsigned := jwt.NewWithClaims(method, claims)
		unsigned.Header["kid"] = own.id
		if change != nil {
			change(unsigned.Header, claims)
		}
		signed, err := unsigned.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	claim := func(name string, value any) string {
		return forge(jwt.SigningMethodES256, own.private, func(_ map[string]any, claims jwt.MapClaims) {
			claims[name] = value
			if value == nil {
				delete(claims, name)
			}
		})
	}
	kid := func(value any) string {
		return forge(jwt.SigningMethodES256, own.private, func(header map[string]any, _ jwt.MapClaims) { header["kid"] = value })
	}
	parts := strings.Split(good, ".")
	segment := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

	if _, err := r.Verify(t.Context(), forge(jwt.SigningMethodES256, own.private, nil)); err != nil {
		t.Fatalf("what the others are changed from: %v", err)
	}
	for name, value := range map[string]string{
		"nothing":                        "",
		"no token":                       "secret",
		"dots alone":                     "..",
		"many dots":                      strings.Repeat(".", MaxBytes),
		"too long":                       good + strings.Repeat("A", MaxBytes),
		"padding":                        good + "=",
		"a fourth part":                  good + "." + parts[0],
		"no signature":                   parts[0] + "." + parts[1] + ".",
		"another's signature":            forge(jwt.SigningMethodES256, other, nil),
		"another's claims":               parts[0] + "." + segment(`{"sub":"root"}`) + "." + parts[2],
		"algorithm none":                 forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
		"the public key as a password":   forge(jwt.SigningMethodHS256, public, nil),
		"a header of another algorithm":  segment(`{"alg":"ES512","kid":"`+own.id+`"}`) + "." + parts[1] + "." + parts[2],
		"no kid":                         kid(nil),
		"an unknown kid":                 kid("0123456789abcdef01234567"),
		"a kid that is a list":           kid([]string{own.id}),
		"a kid that is long":             kid(strings.Repeat("x", 4096)),
		"a header that is none":          segment(`[]`) + "." + parts[1] + "." + parts[2],
		"a deep header":                  segment(strings.Repeat(`{"a":`, 2000)+"1"+strings.Repeat("}", 2000)) + "." + parts[1] + "." + parts[2],
		"deep claims":                    parts[0] + "." + segment(`{"a":`+strings.Repeat(`[`, 3000)+strings.Repeat("]", 3000)+`}`) + "." + parts[2],
		"a token in a token":             forge(jwt.SigningMethodES256, own.private, func(_ map[string]any, c jwt.MapClaims) { clear(c); c["token"] = good }),
		"another issuer":                 claim("iss", "https://kubernetes.default.svc"),
		"no issuer":                      claim("iss", nil),
		"another audience":               claim("aud", "other.example:5000"),
		"several audiences but this":     claim("aud", []string{"a", "b"}),
		"no audience":                    claim("aud", nil),
		"nobody":                         claim("sub", nil),
		"expired":                        claim("exp", noon.Add(-clockSkew).Unix()),
		"no end":                         claim("exp", nil),
		"an end that is words":           claim("exp", "tomorrow"),
		"good for too long":              claim("exp", noon.Add(2*time.Hour).Unix()),
		"of the future":                  claim("iat", noon.Add(2*clockSkew).Unix()),
		"of no time":                     claim("iat", nil),
		"of a time before that of a key": claim("iat", noon.Add(-13*time.Hour).Unix()),
		"not yet":                        claim("nbf", noon.Add(2*clockSkew).Unix()),
		"access that is words":           claim("access", "repository:a/app:pull"),
		"groups that are numbers":        claim("groups", []int{1}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claims, err := r.Verify(t.Context(), value)
			if !errors.Is(err, ErrInvalid) || errors.Is(err, ErrExpired) != (name == "expired") {
				t.Errorf("%v, %v", claims, err)
			}
			if err != nil && len(parts[1]) > 0 && strings.Contains(err.Error(), parts[2]) {
				t.Errorf("the error has the token: %v", err)
			}
		})
	}
}

func TestOurs(t *testing.T) {
	t.Parallel()
	unsigned := func(claims string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AAAA"
	}
	for name, tt := range map[string]struct {
		value string
		want  bool
	}{
		"a service account's": {value: unsigned(`{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:a:b"}`)},
		"what says it is":     {value: unsigned(`{"iss":"` + issuer + `"}`), want: true},
		"a password":          {value: "0123456789abcdef"},
		"nothing":             {},
		"too long for ours":   {value: unsigned(`{"iss":"` + issuer + `","a":"` + strings.Repeat("a", MaxBytes) + `"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Ours(tt.value); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// TestAnotherDay is of what somebody signs by the key of a day for a time before that or after.
func TestAnotherDay(t *testing.T) {
	t.Parallel()
	midnight := noon.Add(12 * time.Hour)
	clock := clocktesting.NewFakePassiveClock(midnight.Add(30 * time.Minute))
	r := NewRing(newShelf(), host, clock)
	issue(t, r, nil, time.Hour)
	key := r.known.Load().byName["2026-11-28"]
	signed := func(at time.Time) string {
		unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, Claims{Identity: alice, IssuedAt: at, Expires: at.Add(time.Hour)}.wire(host))
		unsigned.Header["kid"] = key.id
		value, err := unsigned.SignedString(key.private)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	mustVerify(t, r, signed(midnight.Add(-clockSkew)))
	mustRefuse(t, r, signed(midnight.Add(-2*clockSkew)))
	clock.SetTime(midnight.Add(24*time.Hour + 10*time.Minute))
	mustVerify(t, r, signed(midnight.Add(24*time.Hour+clockSkew)))
	mustRefuse(t, r, signed(midnight.Add(24*time.Hour+2*clockSkew)))
}
