// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Issue returns a token for somebody, good for a lifetime of at most MaxLifetime from now on, and what it says. With access it is
// bound to that. Its error is a *TooLargeError, or of the store that has the keys.
func (r *Ring) Issue(ctx context.Context, who Identity, access *[]Access, lifetime time.Duration) (string, Claims, error) {
	claims, unsigned, err := r.draft(who, access, lifetime)
	if err != nil {
		return "", Claims{}, err
	}
	key, err := r.current(ctx)
	if err != nil {
		return "", Claims{}, err
	}
	unsigned.Header["kid"] = key.id
	signed, err := unsigned.SignedString(key.private)
	if err != nil {
		return "", Claims{}, fmt.Errorf("signing a token: %w", err)
	}
	return signed, claims, nil
}

// Check returns what Issue would have a token say, and fails where that is too much for one.
func (r *Ring) Check(who Identity, access *[]Access, lifetime time.Duration) (Claims, error) {
	claims, _, err := r.draft(who, access, lifetime)
	return claims, err
}

// signedBytes is what header and signature add to a token, at most.
const signedBytes = 200

func (r *Ring) draft(who Identity, access *[]Access, lifetime time.Duration) (Claims, *jwt.Token, error) {
	now := r.clock.Now().Truncate(time.Second).UTC()
	claims := Claims{Identity: who, Access: access, ID: rand.Text(), IssuedAt: now, Expires: now.Add(min(lifetime, MaxLifetime))}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims.wire(r.audience))
	text, err := unsigned.SigningString()
	if err != nil {
		return Claims{}, nil, fmt.Errorf("writing a token: %w", err)
	}
	if size := len(text) + signedBytes; size > MaxBytes {
		return Claims{}, nil, &TooLargeError{Bytes: size, Groups: len(who.Groups)}
	}
	return claims, unsigned, nil
}

// Until returns how long it is until some time, by the clock of the ring.
func (r *Ring) Until(at time.Time) time.Duration { return at.Sub(r.clock.Now()) }

// Verify returns what a token says. Its error wraps ErrInvalid where the token is refused; any other one is of the store that has
// the keys.
func (r *Ring) Verify(ctx context.Context, token string) (Claims, error) {
	if len(token) > MaxBytes {
		return Claims{}, fmt.Errorf("%d bytes: %w", len(token), ErrInvalid)
	}
	var key *signer
	var failure error // of the store
	var claims wire
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithIssuer(issuer), jwt.WithAudience(r.audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(clockSkew), jwt.WithTimeFunc(r.clock.Now),
	)
	_, err := parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		id, ok := t.Header["kid"].(string)
		if !ok {
			return nil, ErrInvalid
		}
		if key, failure = r.verifier(ctx, id); failure != nil {
			return nil, failure
		}
		return key.private.Public(), nil
	})
	switch {
	case failure != nil && !errors.Is(failure, ErrInvalid):
		return Claims{}, failure
	case errors.Is(err, jwt.ErrTokenExpired):
		return Claims{}, fmt.Errorf("%w: %w", ErrExpired, ErrInvalid)
	case err != nil:
		return Claims{}, fmt.Errorf("%s: %w", reason(err), ErrInvalid)
	case claims.IssuedAt == nil || claims.Subject == "":
		return Claims{}, fmt.Errorf("claims are missing: %w", ErrInvalid)
	}
	said := claims.claims()
	switch {
	case said.Expires.Sub(said.IssuedAt) > MaxLifetime:
		return Claims{}, fmt.Errorf("it would be good for too long: %w", ErrInvalid)
	case said.IssuedAt.Before(key.From.Add(-clockSkew)), said.IssuedAt.After(key.Until.Add(clockSkew)):
		return Claims{}, fmt.Errorf("not of a time when its key signs: %w", ErrInvalid)
	}
	return said, nil
}

// reason says in words why a token was refused, for the log, and nothing of what it holds.
func reason(err error) string {
	switch {
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued), errors.Is(err, jwt.ErrTokenNotValidYet):
		return "it is of the future"
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return "it is for another audience"
	case errors.Is(err, jwt.ErrTokenMalformed):
		return "it is malformed"
	default:
		return "it does not verify"
	}
}
