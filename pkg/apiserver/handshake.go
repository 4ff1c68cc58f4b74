// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/token"
)

const (
	// handshakeLifetime is how long a token of the handshake is good: clients get another when they need it.
	handshakeLifetime = 5 * time.Minute
	// accessRepository is the one type of what tokens are bound to.
	accessRepository = "repository"
)

// callers knows who presents what at the registry endpoint: Tagger's own tokens by their signature, and all others by asking whose
// they are.
type callers struct {
	own    *token.Ring
	others authenticator.Token
}

// caller is who presents credentials at the registry endpoint.
type caller struct {
	user user.Info
	// access is what the credentials may be used for alone; nil where they are bound to nothing.
	access *[]token.Access
	// expires is when the credentials end; the zero time where that is not known.
	expires time.Time
}

// of returns who presents credentials. Its error is for a distribution.Authorizer to return.
func (c *callers) of(ctx context.Context, creds distribution.Credentials) (*caller, error) {
	if creds.Token == "" {
		return nil, distribution.ErrUnauthenticated
	}
	if token.Ours(creds.Token) {
		return c.ofOwn(ctx, creds.Token)
	}
	response, known, err := c.others.AuthenticateToken(ctx, creds.Token)
	switch {
	case err != nil:
		return nil, undecided("reviewing a token", err)
	case !known:
		return nil, distribution.ErrUnauthenticated
	}
	return &caller{user: response.User}, nil
}

// undecided is the error of who could not say whether something is allowed. It is no fault of the caller's, who tries again.
func undecided(what string, err error) error {
	if said := distribution.Error(0); errors.As(err, &said) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, distribution.Explain(distribution.ErrUnavailable,
		"the cluster does not tell at this moment who you are and what you may do: try again"), err)
}

func (c *callers) ofOwn(ctx context.Context, value string) (*caller, error) {
	claims, err := c.own.Verify(ctx, value)
	switch {
	case errors.Is(err, token.ErrExpired):
		return nil, fmt.Errorf("%w: %w", distribution.Explain(distribution.ErrUnauthenticated, "the token has expired: get another one, as by kubectl image login"), err)
	case errors.Is(err, token.ErrInvalid):
		return nil, fmt.Errorf("%w: %w", distribution.ErrUnauthenticated, err)
	case err != nil:
		return nil, undecided("verifying a token", err)
	}
	who := claims.Identity
	return &caller{
		user:    &user.DefaultInfo{Name: who.Name, UID: who.UID, Groups: who.Groups, Extra: who.Extra},
		access:  claims.Access,
		expires: claims.Expires,
	}, nil
}

// boundTo says whether the credentials may be used to do something, as far as they are bound.
func (c *caller) boundTo(repo distribution.Repository, action distribution.Action) bool {
	return c.access == nil || slices.ContainsFunc(*c.access, func(a token.Access) bool {
		return a.Type == accessRepository && a.Name == repo.String() && slices.Contains(a.Actions, string(action))
	})
}

// handshake gives the tokens of the registry endpoint's handshake.
type handshake struct {
	callers    *callers
	authorizer authorizer.Authorizer
}

// Token implements distribution.Tokens. What is given ends no later than what is presented, where that says when; so that who has one
// cannot go on for ever, a token of the handshake gives no other.
func (h *handshake) Token(ctx context.Context, creds distribution.Credentials, asked []distribution.Scope) (distribution.Token, error) {
	caller, err := h.callers.of(ctx, creds)
	if err != nil {
		return distribution.Token{}, err
	}
	if caller.access != nil {
		return distribution.Token{}, fmt.Errorf("a token of the handshake for another: %w", distribution.ErrUnauthenticated)
	}
	granted, access, err := h.grant(ctx, caller, asked)
	if err != nil {
		return distribution.Token{}, err
	}
	lifetime := handshakeLifetime
	if !caller.expires.IsZero() {
		lifetime = min(lifetime, h.callers.own.Until(caller.expires))
	}
	who := token.Identity{
		Name: caller.user.GetName(), UID: caller.user.GetUID(), Groups: caller.user.GetGroups(), Extra: caller.user.GetExtra(),
	}
	value, claims, err := h.callers.own.Issue(ctx, who, &access, lifetime)
	if tooLarge := (*token.TooLargeError)(nil); errors.As(err, &tooLarge) {
		return distribution.Token{}, fmt.Errorf("%w: %w", distribution.ErrTokenTooLarge, err)
	}
	return distribution.Token{Value: value, IssuedAt: claims.IssuedAt, Expires: claims.Expires, Scopes: granted}, err
}

// grant returns what of the scopes a caller may do.
func (h *handshake) grant(ctx context.Context, caller *caller, asked []distribution.Scope) (
	granted []distribution.Scope, access []token.Access, err error) {
	access = []token.Access{}
	for _, scope := range asked {
		allowed, names := distribution.Scope{Repository: scope.Repository}, []string(nil)
		for _, action := range scope.Actions {
			err := authorizeLayers(ctx, h.authorizer, caller.user, scope.Repository, action)
			switch {
			case errors.Is(err, distribution.ErrDenied):
				continue
			case err != nil:
				return nil, nil, err
			}
			allowed.Actions, names = append(allowed.Actions, action), append(names, string(action))
		}
		if len(names) > 0 {
			granted = append(granted, allowed)
			access = append(access, token.Access{Type: accessRepository, Name: scope.Repository.String(), Actions: names})
		}
	}
	return granted, access, nil
}
