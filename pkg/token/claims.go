// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// issuer is the claim "iss" by which Tagger's own tokens are told from others. What it is worth the signature says.
	issuer = "https://tagger.dev/registry-token"
	// MaxLifetime is how long a token is good at most.
	MaxLifetime = time.Hour
	// clockSkew is how far the clocks of two servers may be apart.
	clockSkew = time.Minute
	// MaxBytes is how long a token is at most. As a Basic password it becomes a third longer, and servers and proxies
	// refuse a header line of more than 16 KiB.
	MaxBytes = 11 << 10
)

// ErrInvalid is what every token is refused with that is not, or no longer, one of ours.
var ErrInvalid = errors.New("not a valid token of the registry endpoint")

// ErrExpired is why one of ours is refused that was good before; ErrInvalid holds as well.
var ErrExpired = errors.New("it has expired")

// TooLargeError is of whom too much is known for a token.
type TooLargeError struct {
	// Bytes is how long the token would be.
	Bytes int
	// Groups is how many groups it would name.
	Groups int
}

// Error says what is too much.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a token that names %d groups and whatever else is known of the user has %d bytes, of which registries and proxies accept no more than %d",
		e.Groups, e.Bytes, MaxBytes)
}

// Identity is whom a token stands for, as Kubernetes knows users.
type Identity struct {
	Name   string              `json:"-"` // the claim "sub"
	UID    string              `json:"uid,omitempty"`
	Groups []string            `json:"groups,omitempty"`
	Extra  map[string][]string `json:"extra,omitempty"`
}

// Access is what a token is bound to, an element of the claim "access".
type Access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Claims are what a token says.
type Claims struct {
	Identity Identity
	// Access is nil where the token is bound to nothing; one that is bound to an empty list may be used for nothing.
	Access *[]Access
	// ID is unique to the token.
	ID string
	// IssuedAt and Expires are in seconds.
	IssuedAt, Expires time.Time
}

// wire is how Claims are written.
type wire struct {
	jwt.RegisteredClaims
	Identity
	Access *[]Access `json:"access,omitempty"`
}

func (c Claims) wire(audience string) wire {
	return wire{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: c.Identity.Name, Audience: jwt.ClaimStrings{audience}, ID: c.ID,
			IssuedAt: jwt.NewNumericDate(c.IssuedAt), ExpiresAt: jwt.NewNumericDate(c.Expires),
		},
		Identity: c.Identity,
		Access:   c.Access,
	}
}

func (w wire) claims() Claims {
	c := Claims{Identity: w.Identity, Access: w.Access, ID: w.ID, IssuedAt: w.IssuedAt.Time, Expires: w.ExpiresAt.Time}
	c.Identity.Name = w.Subject
	return c
}

// Ours says whether a token claims to be one of Tagger's own, so that nobody else need be asked. It may be anything.
func Ours(token string) bool {
	if len(token) > MaxBytes {
		return false
	}
	var claims jwt.RegisteredClaims
	_, _, err := jwt.NewParser().ParseUnverified(token, &claims)
	return err == nil && claims.Issuer == issuer
}
