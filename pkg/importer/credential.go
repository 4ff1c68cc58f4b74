// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Keychain knows the credentials for a reference.
type Keychain interface {
	// Credentials returns those that match ref, the most specific first and
	// without the anonymous one, which is always tried last. An error that is not
	// an *Error counts as Unavailable. With an error and credentials that are not
	// nil the source is asked nevertheless, and the error told if it refuses; so it
	// is with any error where the source is insecure.
	Credentials(ctx context.Context, ref Reference) ([]Credential, error)
}

// Credential is what may be shown to a registry. The zero value is the anonymous
// one. Equal credentials are ==.
type Credential struct {
	Username, Password string
	// RefreshToken is an OAuth2 refresh token, which docker calls identity token.
	RefreshToken string
	// AccessToken is a Bearer token that is sent as it is.
	AccessToken string
	// InsecureTransport lets it travel over plain HTTP and unverified TLS. Without,
	// it travels over verified TLS and to loopback alone.
	InsecureTransport bool
}

// anonymous reports whether there is nothing in c to show.
func (c Credential) anonymous() bool { return c.wire() == auth.EmptyCredential }

func (c Credential) wire() auth.Credential {
	return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.RefreshToken, AccessToken: c.AccessToken}
}
