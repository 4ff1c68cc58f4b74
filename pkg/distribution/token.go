// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

const (
	// tokenPath is where the handshake gets tokens. It lies below /v2/, where
	// whatever stands in front of the endpoint lets requests through, and no
	// repository can be in its way: the name of one has two components.
	tokenPath = pathPrefix + "token"
	// maxFormBytes bounds the body of a request for a token.
	maxFormBytes = 64 << 10
	// formTimeout is how long it may take to come.
	formTimeout = 10 * time.Second
)

// Token is what the handshake gives.
type Token struct {
	Value             string
	IssuedAt, Expires time.Time
	// Scopes are what it is bound to.
	Scopes []Scope
}

// String keeps the token out of whatever prints it.
func (Token) String() string { return "[redacted]" }

// GoString is String, for %#v.
func (Token) GoString() string { return "[redacted]" }

// Tokens gives the tokens of the handshake by which clients of registries
// exchange credentials for something that is bound to what they are about to
// do, and is short-lived. It is called concurrently.
type Tokens interface {
	// Token returns a token for that of the scopes which the credentials
	// allow; the others are left out, and it is no error when none is left. It
	// is good as the token of Credentials. Its error wraps ErrUnauthenticated
	// where the credentials are not accepted; a token of the handshake is none
	// that are; ErrTokenTooLarge where too much is known of their owner. Any
	// other error is the server's fault.
	Token(ctx context.Context, creds Credentials, scopes []Scope) (Token, error)
}

// challenge asks for credentials where these are what is missing. Bearer comes
// first: skopeo and oras take the first that they are offered, also when they
// have a token and no password, and whoever knows Basic alone finds that.
func (h *handler) challenge(header http.Header, r *http.Request, kind Error) {
	if kind != ErrUnauthenticated && kind != ErrInsufficientScope {
		return
	}
	if h.options.Tokens != nil && r.URL.Path != tokenPath && hostPattern.MatchString(r.Host) {
		header.Add("WWW-Authenticate", h.bearerChallenge(r, kind))
	}
	header.Add("WWW-Authenticate", `Basic realm="Tagger"`)
}

// hostPattern matches what a client may have called the endpoint: a DNS name or
// an IP address, and a port. Nothing in it needs to be quoted.
var hostPattern = regexp.MustCompile(`^(?:[0-9A-Za-z](?:[0-9A-Za-z._-]{0,251}[0-9A-Za-z])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$`)

// bearerChallenge names where tokens are to be had, as the client itself called
// this endpoint, which is always by TLS.
func (h *handler) bearerChallenge(r *http.Request, kind Error) string {
	realm := url.URL{Scheme: "https", Host: r.Host, Path: tokenPath}
	challenge := fmt.Sprintf(`Bearer realm=%q,service=%q`, realm.String(), h.options.Service)
	if scope, ok := scopeOf(r); ok {
		challenge += fmt.Sprintf(`,scope=%q`, scope.String())
	}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case kind == ErrInsufficientScope:
		challenge += `,error="insufficient_scope"`
	case strings.EqualFold(scheme, "Bearer"):
		challenge += `,error="invalid_token"`
	}
	return challenge
}

// scopeOf returns what a token for a request must be bound to: reading comes with
// writing, since clients look for what is there before they send it.
func scopeOf(r *http.Request) (Scope, bool) {
	req, err := parseRequest(r.Method, r.URL.EscapedPath())
	if err != nil || req.repo == (Repository{}) {
		return Scope{}, false
	}
	scope := Scope{Repository: req.repo, Actions: []Action{req.action}}
	if req.action == ActionPush {
		scope.Actions = []Action{ActionPull, ActionPush}
	}
	return scope, true
}

// tokenMethods are those of tokenPath.
var tokenMethods = map[string]Action{http.MethodGet: ActionPull, http.MethodPost: ActionPull}

// token does all of a request for a token that can fail, and returns what sends
// the answer.
func (h *handler) token(r *http.Request) (func(http.ResponseWriter), error) {
	if _, ok := tokenMethods[r.Method]; !ok {
		return nil, notAllowed(tokenMethods)
	}
	if body, ok := r.Body.(*movingBody); ok {
		body.until = time.Now().Add(min(formTimeout, h.options.StallTimeout))
	}
	creds, values, err := tokenRequest(r)
	if err != nil {
		return nil, err
	}
	if creds.Token == "" {
		return nil, fmt.Errorf("a token for nobody: %w", ErrUnauthenticated)
	}
	scopes, err := parseScopes(values)
	if err != nil {
		return nil, err
	}
	token, err := h.options.Tokens.Token(r.Context(), creds, scopes)
	if err != nil {
		return nil, fmt.Errorf("giving a token: %w", err)
	}
	granted := make([]string, len(token.Scopes))
	for i, scope := range token.Scopes {
		granted[i] = scope.String()
	}
	document := tokenDocument{
		Token: token.Value, AccessToken: token.Value, TokenType: "Bearer",
		ExpiresIn: int(token.Expires.Sub(token.IssuedAt) / time.Second),
		IssuedAt:  token.IssuedAt.UTC().Format(time.RFC3339),
		Scope:     strings.Join(granted, " "),
	}
	return func(w http.ResponseWriter) {
		w.Header().Set("Cache-Control", "no-store")
		serveJSON(w, "application/json", document)
	}, nil
}

// tokenDocument is the answer, for clients of either specification.
type tokenDocument struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"`
	IssuedAt    string `json:"issued_at"`
	Scope       string `json:"scope"`
}

// tokenRequest reads what a request for a token has: by GET the credentials as
// Basic, and scopes; by POST a form of OAuth 2.0 with a password, or with a
// refresh token, by which clients call what they were told to keep instead of
// one. Other parameters have no effect: the account and the service are what
// the credentials say, and no refresh token is ever given.
func tokenRequest(r *http.Request) (Credentials, []string, error) {
	creds, err := credentialsOf(r)
	if err != nil {
		return Credentials{}, nil, err
	}
	if r.Method != http.MethodPost {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return Credentials{}, nil, fmt.Errorf("malformed query: %w", ErrTokenRequestInvalid)
		}
		return creds, query["scope"], nil
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return Credentials{}, nil, fmt.Errorf("not a form: %w", ErrTokenRequestInvalid)
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		return Credentials{}, nil, fmt.Errorf("malformed form: %w", ErrTokenRequestInvalid)
	}
	form := r.PostForm
	switch form.Get("grant_type") {
	case "password":
		creds = Credentials{Username: form.Get("username"), Token: form.Get("password")}
	case "refresh_token":
		creds = Credentials{Token: form.Get("refresh_token")}
	default:
		return Credentials{}, nil, fmt.Errorf("unknown grant type: %w", ErrTokenRequestInvalid)
	}
	return creds, form["scope"], nil
}
