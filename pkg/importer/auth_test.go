// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"oras.land/oras-go/v2/registry/remote/auth"
)

var (
	alice = Credential{Username: "alice", Password: "pa55"}
	bob   = Credential{Username: "bob", Password: "w0rd"}
)

// basic lets one user through.
func basic(h http.Handler, user Credential) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name != user.Username || password != user.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// challenging puts another challenge in front of each one.
func challenging(h http.Handler, challenge string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("WWW-Authenticate", challenge)
		h.ServeHTTP(w, r)
	})
}

// bearer lets those through who have a token of /token at realm, or at the same
// server where realm is "". The token service knows one user, by password or by
// an identity token equal to it; the zero user means anybody.
func bearer(h http.Handler, realm string, user Credential) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		known := name == user.Username && password == user.Password
		if r.Method == http.MethodPost {
			known = r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") == user.Password ||
				r.FormValue("grant_type") == "password" && r.FormValue("username") == user.Username && r.FormValue("password") == user.Password
		}
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"access_token": "token for " + r.FormValue("scope")})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		repository, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		scope := "repository:" + repository + ":pull"
		if r.Header.Get("Authorization") != "Bearer token for "+scope {
			at := realm
			if at == "" {
				at = "https://" + r.Host
			}
			w.Header().Add("WWW-Authenticate", `Bearer realm="`+at+`/token",service="s",scope="`+scope+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
	return mux
}

// postOnly has a token service refuse GET.
func postOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" && r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// TestWarmResolve holds the requests that a hundred imports of an unchanged tag
// cost: a hundred.
func TestWarmResolve(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	tests := []struct {
		name        string
		handler     http.Handler
		credentials []Credential
		first       int
	}{
		{name: "anonymous", handler: registry, first: 1},
		{name: "Basic", handler: basic(registry, alice), credentials: []Credential{alice}, first: 2},
		{name: "Bearer", handler: bearer(registry, "", alice), credentials: []Credential{alice}, first: 3},
		{name: "anonymous Bearer", handler: bearer(registry, "", Credential{}), first: 3},
		{name: "anonymous Bearer offered after Basic", handler: challenging(bearer(registry, "", Credential{}), `Basic realm="registry"`), first: 3},
		{name: "identity token", handler: bearer(registry, "", alice), credentials: []Credential{{RefreshToken: alice.Password}}, first: 3},
		{name: "token service that knows POST alone", handler: postOnly(bearer(registry, "", alice)), credentials: []Credential{alice}, first: 5},
		{name: "second credential", handler: basic(registry, alice), credentials: []Credential{bob, alice}, first: 4},
		{name: "anonymous after one that is refused", handler: bearer(registry, "", Credential{}), credentials: []Credential{bob}, first: 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := serve(t, tt.handler)
			i := newImporter(t)
			src := source(up.reference(t, "app:v1"), tt.credentials...)
			var got [2]int
			for n := range 101 {
				res, err := i.Resolve(t.Context(), src, img.manifest.Digest)
				if err != nil {
					t.Fatal(err)
				}
				if !res.Unchanged {
					t.Fatal("not unchanged")
				}
				if n == 0 {
					got[0] = len(up.requests())
				}
			}
			got[1] = len(up.requests())
			if diff := cmp.Diff([2]int{tt.first, 100}, got); diff != "" {
				t.Errorf("requests of the first and of 100 more (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTokenServiceThatChanges: what a token service did not offer at one time it is asked for again.
func TestTokenServiceThatChanges(t *testing.T) {
	t.Parallel()
	registry, img := newRegistry(), newImage(t, "amd64")
	var refused []string // methods
	protected := bearer(registry, "", alice)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" && slices.Contains(refused, r.Method) {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		protected.ServeHTTP(w, r)
	}))
	i := newImporter(t)
	for n, step := range []struct {
		refused []string
		fails   bool
	}{
		{refused: []string{http.MethodGet, http.MethodPost}, fails: true},
		{refused: []string{http.MethodPost}},
		{refused: []string{http.MethodGet}},
		{refused: []string{http.MethodPost}, fails: true},
		{refused: []string{http.MethodPost}},
	} {
		refused = step.refused
		repository := "app" + strconv.Itoa(n) // whose token is another one
		put(t, registry, repository, "v1", img.manifest.MediaType, img.raw, img.blobs...)
		_, err := i.Resolve(t.Context(), source(up.reference(t, repository+":v1"), alice), "")
		if (err != nil) != step.fails {
			t.Errorf("step %d, %v refused: %v", n, step.refused, err)
		}
	}
}

// TestScopesShareNothing: another namespace has to authenticate for itself.
func TestScopesShareNothing(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	up := serve(t, bearer(registry, "", alice))
	i := newImporter(t)
	src := source(up.reference(t, "app:v1"), alice)
	if _, err := i.Resolve(t.Context(), src, ""); err != nil {
		t.Fatal(err)
	}
	src.Scope, src.Keychain = "other", keys(nil)
	_, err := i.Resolve(t.Context(), src, "")
	wantFailure(t, err, src.Reference, Unauthorized, "refused access (401)")
	src.Keychain = keys{alice}
	up.requests()
	if _, err := i.Resolve(t.Context(), src, ""); err != nil {
		t.Fatal(err)
	}
	if got := up.count("/token"); got != 1 {
		t.Errorf("%d requests for tokens, want 1", got)
	}
}

func TestCredentialFailures(t *testing.T) {
	t.Parallel()
	broken := func(answer http.HandlerFunc) http.Handler {
		protected := bearer(http.NotFoundHandler(), "", alice)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				answer(w, r)
				return
			}
			protected.ServeHTTP(w, r)
		})
	}
	tests := []struct {
		name    string
		handler http.Handler
		keys    Keychain
		want    Kind
		text    string
	}{
		{name: "wrong password, Basic", handler: basic(http.NotFoundHandler(), alice), keys: keys{bob}, want: Unauthorized, text: "refused access (401)"},
		{name: "wrong password, Bearer", handler: bearer(http.NotFoundHandler(), "", alice), keys: keys{bob}, want: Unauthorized, text: "token service"},
		{name: "accepted, and not there", handler: basic(http.NotFoundHandler(), alice), keys: keys{alice}, want: NotFound},
		{name: "token service fails", handler: broken(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "SECRET", 502) }), keys: keys{alice}, want: Unavailable, text: "answered 502"},
		{name: "token service limits", handler: broken(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "SECRET", 429) }), keys: keys{alice}, want: RateLimited},
		{name: "token service babbles", handler: broken(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("SECRET")) }), keys: keys{alice}, want: Unauthorized, text: "cannot be completed"},
		{name: "endless token", handler: broken(func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"token":"` + strings.Repeat("x", 1<<20) + `"}`))
		}), keys: keys{alice}, want: Unavailable},
		{name: "keychain fails", handler: http.NotFoundHandler(), keys: failing{errors.New("SECRET")}, want: Unavailable, text: "cannot be read"},
		{name: "keychain fails with a reason", handler: http.NotFoundHandler(), keys: failing{&Error{Kind: Unauthorized}}, want: Unauthorized},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref := serve(t, tt.handler).reference(t, "app:v1")
			_, err := newImporter(t).Resolve(t.Context(), Source{Reference: ref, Keychain: tt.keys}, "")
			wantFailure(t, err, ref, tt.want, tt.text)
		})
	}
}

// failing is a Keychain that cannot be read.
type failing struct{ err error }

func (f failing) Credentials(context.Context, Reference) ([]Credential, error) {
	return nil, f.err
}

// TestRedirectLeavesCredentialsBehind: another port is another host.
func TestRedirectLeavesCredentialsBehind(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	var mu sync.Mutex
	var leaked []string
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		leaked = append(leaked, r.Header.Get("Authorization"))
		mu.Unlock()
		registry.ServeHTTP(w, r)
	}))
	redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	for _, tt := range []struct {
		name    string
		handler http.Handler
	}{
		{name: "Basic", handler: basic(redirect, alice)},
		{name: "Bearer", handler: bearer(redirect, "", alice)},
	} {
		up := serve(t, tt.handler)
		i := newImporter(t)
		for range 2 { // cold and warm
			if _, err := i.Resolve(t.Context(), source(up.reference(t, "app:v1"), alice), ""); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]string{"", "", "", ""}, leaked); diff != "" {
		t.Errorf("Authorization headers elsewhere (-want +got):\n%s", diff)
	}
}

// TestWireGuardsSecrets: what would expose a credential is not sent.
func TestWireGuardsSecrets(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name             string
		method, url      string
		authorization    string
		secret, insecure bool
		refused          bool
	}{
		{name: "verified", url: "https://192.0.2.1/", authorization: "Basic x", secret: true},
		{name: "unverified", url: "https://192.0.2.1/", authorization: "Basic x", secret: true, insecure: true, refused: true},
		{name: "plain", url: "http://192.0.2.1/", authorization: "Basic x", secret: true, refused: true},
		{name: "plain token", url: "http://192.0.2.1/", authorization: "Bearer x", secret: true, insecure: true, refused: true},
		{name: "identity token in a body", method: http.MethodPost, url: "http://192.0.2.1/", secret: true, insecure: true, refused: true},
		{name: "plain to loopback", url: "http://127.0.0.2:1/", authorization: "Basic x", secret: true, insecure: true},
		{name: "unverified to loopback", url: "https://[::1]:1/", authorization: "Basic x", secret: true, insecure: true},
		{name: "nothing to hide", url: "http://192.0.2.1/", secret: true, insecure: true},
		{name: "a token that anybody gets", url: "http://192.0.2.1/", authorization: "Bearer x", insecure: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // what is not refused does not get far
			req, err := http.NewRequestWithContext(ctx, tt.method, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", tt.authorization)
			w := &wire{transports: newTransports(Options{}.withDefaults()), secret: tt.secret, insecure: tt.insecure}
			_, err = w.RoundTrip(req) //nolint:bodyclose // nothing answers
			if got := KindOf(err) == Unauthorized; got != tt.refused {
				t.Errorf("got %v, want refused: %t", err, tt.refused)
			}
		})
	}
}

// TestBoundedCache: tokens of ever new repositories do not pile up.
func TestBoundedCache(t *testing.T) {
	t.Parallel()
	cache := &boundedCache{Cache: auth.NewCache()}
	for n := range keptTokens + 1 {
		key := strconv.Itoa(n)
		_, err := cache.Set(t.Context(), "h", auth.SchemeBearer, key, func(context.Context) (string, error) { return key, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	_, first := cache.GetToken(t.Context(), "h", auth.SchemeBearer, "0")
	last, err := cache.GetToken(t.Context(), "h", auth.SchemeBearer, strconv.Itoa(keptTokens))
	if first == nil || err != nil || last != strconv.Itoa(keptTokens) {
		t.Errorf("the first token: %v, the last: %q, %v", first, last, err)
	}
}

// TestLongTokens: nor do long ones, whose scopes may be as long.
func TestLongTokens(t *testing.T) {
	t.Parallel()
	cache := &boundedCache{Cache: auth.NewCache()}
	long := strings.Repeat("x", keptTokenBytes/4)
	for n := range 100 {
		key := strconv.Itoa(n)
		if _, err := cache.Set(t.Context(), "h", auth.SchemeBearer, long+key, func(context.Context) (string, error) { return long, nil }); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for n := range 100 {
		if _, err := cache.GetToken(t.Context(), "h", auth.SchemeBearer, long+strconv.Itoa(n)); err == nil {
			kept++
		}
	}
	if kept > 2 {
		t.Errorf("%d tokens of %d bytes are kept", kept, 2*len(long))
	}
}
