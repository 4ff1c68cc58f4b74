// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const service = "registry.example:5000"

// giver gives a token to whoever has the password "all", bound to what lies in
// the namespace ns.
type giver struct{}

func (giver) Token(_ context.Context, creds Credentials, scopes []Scope) (Token, error) {
	switch creds.Token {
	case "all":
	case "down":
		return Token{}, errors.New("secret: etcd does not answer")
	case "many":
		return Token{}, fmt.Errorf("secret: %w", ErrTokenTooLarge)
	default:
		return Token{}, fmt.Errorf("secret: %w", ErrUnauthenticated)
	}
	at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	token := Token{Value: "t", IssuedAt: at, Expires: at.Add(5 * time.Minute)}
	for _, scope := range scopes {
		if scope.Repository.Namespace == "ns" {
			token.Scopes = append(token.Scopes, scope)
		}
	}
	return token, nil
}

// boundAuthorizer knows a token that is bound to pulling ns/app, and those of
// tokenAuthorizer.
type boundAuthorizer struct{ tokenAuthorizer }

func (b boundAuthorizer) Authorize(ctx context.Context, creds Credentials, repo Repository, action Action) (context.Context, error) {
	if creds.Token == "bound" {
		if repo != repoApp || action != ActionPull {
			return nil, fmt.Errorf("secret: %w", ErrInsufficientScope)
		}
		return ctx, nil
	}
	return b.tokenAuthorizer.Authorize(ctx, creds, repo, action)
}

func withTokens() http.Handler {
	return New(memory{}, boundAuthorizer{}, Options{Tokens: giver{}, Service: service})
}

// TestChallenge looks at what is offered to whom.
func TestChallenge(t *testing.T) {
	t.Parallel()
	const basic = `Basic realm="Tagger"`
	bearer := func(host, rest string) string {
		return `Bearer realm="https://` + host + `/v2/token",service="` + service + `"` + rest
	}
	for _, tt := range []struct {
		name, method, host, path, authorization string
		status                                  int
		want                                    []string
	}{
		{name: "the endpoint", path: "/v2/", status: 401, want: []string{bearer("example.com", ""), basic}},
		{name: "a pull", path: "/v2/ns/app/manifests/latest", status: 401, want: []string{bearer("example.com", `,scope="repository:ns/app:pull"`), basic}},
		{name: "a head", method: http.MethodHead, path: "/v2/ns/app/blobs/sha256:" + hex256, status: 401, want: []string{bearer("example.com", `,scope="repository:ns/app:pull"`), basic}},
		{name: "a push", method: http.MethodPost, path: "/v2/ns/app/blobs/uploads/", status: 401, want: []string{bearer("example.com", `,scope="repository:ns/app:pull,push"`), basic}},
		{name: "a push that goes on", method: http.MethodGet, path: "/v2/ns/app/blobs/uploads/1", status: 401, want: []string{bearer("example.com", `,scope="repository:ns/app:pull,push"`), basic}},
		{name: "a manifest", method: http.MethodPut, path: "/v2/ns/app/manifests/latest", status: 401, want: []string{bearer("example.com", `,scope="repository:ns/app:pull,push"`), basic}},
		{name: "a deletion", method: http.MethodDelete, path: "/v2/ns/app/manifests/latest", status: 401, want: []string{bearer("example.com", `,scope="repository:ns/app:delete"`), basic}},
		{name: "wrong Basic", path: "/v2/", authorization: "Basic eDp3cm9uZw==", status: 401, want: []string{bearer("example.com", ""), basic}},
		{name: "a wrong token", path: "/v2/", authorization: "Bearer wrong", status: 401, want: []string{bearer("example.com", `,error="invalid_token"`), basic}},
		{name: "a token for something else", method: http.MethodDelete, path: "/v2/ns/app/manifests/latest", authorization: "Bearer bound", status: 401,
			want: []string{bearer("example.com", `,scope="repository:ns/app:delete",error="insufficient_scope"`), basic}},
		{name: "the port of a client", host: "localhost:15000", path: "/v2/", status: 401, want: []string{bearer("localhost:15000", ""), basic}},
		{name: "an address", host: "[::1]:5000", path: "/v2/", status: 401, want: []string{bearer("[::1]:5000", ""), basic}},
		{name: "a host that is none", host: `a",x="`, path: "/v2/", status: 401, want: []string{basic}},
		{name: "a host with a user", host: "user@example.com", path: "/v2/", status: 401, want: []string{basic}},
		{name: "a host that is too long", host: strings.Repeat("a", 300), path: "/v2/", status: 401, want: []string{basic}},
		{name: "no host", host: "-", path: "/v2/", status: 401, want: []string{basic}},
		{name: "a token for a token", path: "/v2/token", authorization: "Bearer wrong", status: 401, want: []string{basic}},
		{name: "what is not there", path: "/v2/ns", status: 404},
		{name: "what may be done", path: "/v2/ns/app/manifests/latest", authorization: "Bearer bound", status: 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.method == "" {
				tt.method = http.MethodGet
			}
			r := httptest.NewRequest(tt.method, tt.path, nil)
			if tt.host != "" {
				r.Host = strings.TrimPrefix(tt.host, "-")
			}
			if tt.authorization != "" {
				r.Header.Set("Authorization", tt.authorization)
			}
			w := httptest.NewRecorder()
			withTokens().ServeHTTP(w, r)
			if diff := cmp.Diff(tt.want, w.Header().Values("WWW-Authenticate")); diff != "" || w.Code != tt.status {
				t.Errorf("%d (-want +got):\n%s", w.Code, diff)
			}
		})
	}
}

// TestToken asks for tokens as clients of either specification do.
func TestToken(t *testing.T) {
	t.Parallel()
	given := func(scope string) string {
		return `{"token":"t","access_token":"t","token_type":"Bearer","expires_in":300,"issued_at":"2026-11-27T12:00:00Z","scope":"` + scope + "\"}\n"
	}
	const form = "application/x-www-form-urlencoded"
	values := func(pairs ...string) string {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Add(pairs[i], pairs[i+1])
		}
		return v.Encode()
	}
	get := func(query string) func() *http.Request {
		return func() *http.Request {
			r := httptest.NewRequest(http.MethodGet, "/v2/token?"+query, nil)
			r.SetBasicAuth("anybody", "all")
			return r
		}
	}
	post := func(contentType, body string) func() *http.Request {
		return func() *http.Request {
			r := httptest.NewRequest(http.MethodPost, "/v2/token", strings.NewReader(body))
			r.Header.Set("Content-Type", contentType)
			return r
		}
	}
	as := func(token string) func() *http.Request {
		return func() *http.Request {
			r := httptest.NewRequest(http.MethodGet, "/v2/token", nil)
			r.SetBasicAuth("anybody", token)
			return r
		}
	}
	many := url.Values{}
	for i := range maxScopes + 1 {
		many.Add("scope", fmt.Sprintf("repository:ns/app-%d:pull", i))
	}
	for _, tt := range []struct {
		name    string
		request func() *http.Request
		want    answer
		error   Error // of the answer, where want has no body
	}{
		{name: "for nothing", request: get("service=x&account=anybody&client_id=docker&offline_token=true"), want: answer{Status: 200, Body: given("")}},
		{name: "to pull", request: get(values("scope", "repository:ns/app:pull")), want: answer{Status: 200, Body: given("repository:ns/app:pull")}},
		{name: "to do all with two", request: get(values("scope", "repository:ns/app:*", "scope", "repository:ns/b:push,pull")),
			want: answer{Status: 200, Body: given("repository:ns/app:pull,push,delete repository:ns/b:pull,push")}},
		{name: "what may be done alone", request: get(values("scope", "repository:other/app:pull repository:ns/app:pull,push registry:catalog:*")),
			want: answer{Status: 200, Body: given("repository:ns/app:pull,push")}},
		{name: "by a bearer token", request: func() *http.Request {
			r := httptest.NewRequest(http.MethodGet, "/v2/token", nil)
			r.Header.Set("Authorization", "Bearer all")
			return r
		}, want: answer{Status: 200, Body: given("")}},
		{name: "by a password in a form", request: post(form, values("grant_type", "password", "username", "x", "password", "all", "scope", "repository:ns/app:pull", "access_type", "offline", "client_id", "c", "service", "s")),
			want: answer{Status: 200, Body: given("repository:ns/app:pull")}},
		{name: "by a refresh token", request: post(form+"; charset=utf-8", values("grant_type", "refresh_token", "refresh_token", "all", "scope", "repository:ns/a:pull repository:ns/b:pull")),
			want: answer{Status: 200, Body: given("repository:ns/a:pull repository:ns/b:pull")}},
		{name: "by nothing", request: func() *http.Request { return httptest.NewRequest(http.MethodGet, "/v2/token", nil) }, error: ErrUnauthenticated},
		{name: "by a wrong password", request: as("wrong"), error: ErrUnauthenticated},
		{name: "by a wrong password in a form", request: post(form, values("grant_type", "password", "password", "wrong")), error: ErrUnauthenticated},
		{name: "by no password in a form", request: post(form, values("grant_type", "password")), error: ErrUnauthenticated},
		{name: "when nobody knows", request: as("down"), error: ErrInternal},
		{name: "of too many groups", request: as("many"), error: ErrTokenTooLarge},
		{name: "for too many", request: get(many.Encode()), error: ErrTokenRequestInvalid},
		{name: "for too long ones", request: get(values("scope", strings.Repeat("x", maxScopeBytes+1))), error: ErrTokenRequestInvalid},
		{name: "by another grant", request: post(form, values("grant_type", "authorization_code", "code", "all")), error: ErrTokenRequestInvalid},
		{name: "by no form", request: post("application/json", `{"grant_type":"password","password":"all"}`), error: ErrTokenRequestInvalid},
		{name: "by a form that is too large", request: post(form, "grant_type=password&password=all&x="+strings.Repeat("x", maxFormBytes)), error: ErrTokenRequestInvalid},
		{name: "by a form that is none", request: post(form, "grant_type=%zz"), error: ErrTokenRequestInvalid},
		{name: "by a query that is none", request: get("scope=%zz"), error: ErrTokenRequestInvalid},
		{name: "by credentials in the query", request: func() *http.Request {
			return httptest.NewRequest(http.MethodPost, "/v2/token?grant_type=password&password=all", nil)
		}, error: ErrTokenRequestInvalid},
		{name: "by another method", request: func() *http.Request { return httptest.NewRequest(http.MethodPut, "/v2/token", nil) }, error: ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			withTokens().ServeHTTP(w, tt.request())
			if tt.want.Body == "" {
				tt.want = errorAnswer(answers[tt.error].status, answers[tt.error].code, answers[tt.error].message)
			}
			if diff := cmp.Diff(tt.want.Body, w.Body.String()); diff != "" || w.Code != tt.want.Status {
				t.Errorf("%d, want %d (-want +got):\n%s", w.Code, tt.want.Status, diff)
			}
			if w.Code == http.StatusOK && (w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json") {
				t.Errorf("header %v", w.Header())
			}
			if tt.error == ErrUnsupported && w.Header().Get("Allow") != "GET, POST" {
				t.Errorf("header %v", w.Header())
			}
		})
	}
	t.Run("without tokens", func(t *testing.T) {
		t.Parallel()
		w := httptest.NewRecorder()
		New(memory{}, tokenAuthorizer{}, Options{}).ServeHTTP(w, as("all")())
		if w.Code != http.StatusNotFound {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
	if text := fmt.Sprintf("%v %+v %#v", Token{Value: "secret"}, &Token{Value: "secret"}, Token{Value: "secret"}); strings.Contains(text, "secret") {
		t.Errorf("printing a token shows it: %s", text)
	}
}

func TestParseScopes(t *testing.T) {
	t.Parallel()
	app := func(actions ...Action) []Scope { return []Scope{{repoApp, actions}} }
	for name, tt := range map[string]struct {
		values []string
		want   []Scope
	}{
		"nothing":               {values: []string{"", " "}},
		"one":                   {values: []string{"repository:ns/app:pull"}, want: app(ActionPull)},
		"in order":              {values: []string{"repository:ns/app:delete,push,pull,pull"}, want: app(ActionPull, ActionPush, ActionDelete)},
		"all":                   {values: []string{"repository:ns/app:*"}, want: app(ActionPull, ActionPush, ActionDelete)},
		"the same twice":        {values: []string{"repository:ns/app:pull", "repository:ns/app:push"}, want: app(ActionPull, ActionPush)},
		"unknown actions":       {values: []string{"repository:ns/app:pull,paint,"}, want: app(ActionPull)},
		"unknown actions alone": {values: []string{"repository:ns/app:paint"}},
		"no action":             {values: []string{"repository:ns/app:", "repository:ns/app", "repository:"}},
		"another type":          {values: []string{"registry:catalog:*", "repository(plugin):ns/app:pull", "::", ":"}},
		"no repository of ours": {values: []string{"repository:app:pull", "repository:a/b/c:pull", "repository:Ns/app:pull", "repository:ns/../app:pull"}},
		"that of another host":  {values: []string{"repository:example.com:5000/ns/app:pull"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseScopes(tt.values)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// FuzzScopes: what is read is of the grammar, bounded, each repository once, and
// is read again from how it is written.
func FuzzScopes(f *testing.F) {
	for _, seed := range []string{
		"repository:ns/app:pull,push", "repository:ns/app:*", "repository:a/b:pull repository:c/d:delete", "registry:catalog:*",
		"repository(plugin):a/b:pull", "repository:host:5000/a/b:pull", "repository:a/b:", ":::", "repository:a/b:pull,pull,,", "\x00 \u2003",
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		scopes, err := parseScopes([]string{a, b})
		if err != nil {
			if !errors.Is(err, ErrTokenRequestInvalid) || len(a)+len(b) <= maxScopeBytes && strings.Count(a+b, "repository") <= maxScopes {
				t.Errorf("%v", err)
			}
			return
		}
		written := make([]string, len(scopes))
		seen := map[Repository]bool{}
		for i, scope := range scopes {
			if scope.Repository.Validate() != nil || seen[scope.Repository] || len(scope.Actions) == 0 || len(scope.Actions) > len(allActions) {
				t.Errorf("read as %v", scopes)
			}
			seen[scope.Repository] = true
			written[i] = scope.String()
		}
		again, err := parseScopes(written)
		if diff := cmp.Diff(scopes, again); diff != "" || err != nil {
			t.Errorf("%v (-first +second):\n%s", err, diff)
		}
	})
}

// FuzzToken: whatever is posted, the answer is a document that is not the
// server's fault.
func FuzzToken(f *testing.F) {
	f.Add("grant_type=password&username=x&password=all&scope=repository:ns/app:pull", "application/x-www-form-urlencoded", "service=a")
	f.Add("grant_type=refresh_token&refresh_token=all", "application/x-www-form-urlencoded; charset=utf-8", "scope=%zz")
	f.Add("{}", "application/json", "")
	f.Add("a=b;c=d&%", "multipart/form-data; boundary=x", ";")
	handler := withTokens()
	f.Fuzz(func(t *testing.T, body, contentType, query string) {
		r := httptest.NewRequest(http.MethodPost, "/v2/token", strings.NewReader(body))
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if !json.Valid(w.Body.Bytes()) || w.Code >= http.StatusInternalServerError && !strings.Contains(body, "down") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
