// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Backend is where the content lies. All methods are called concurrently, and
// only with names, tags and digests that follow the grammar.
//
// What is not there is reported by an error that wraps ErrNameUnknown,
// ErrManifestUnknown or ErrBlobUnknown; any other error is the server's fault.
// A digest is looked for in the given repository alone: that another one holds
// it makes no difference.
type Backend interface {
	// Resolve returns the descriptor that a tag points to.
	Resolve(ctx context.Context, repo Repository, tag string) (ocispec.Descriptor, error)
	// Manifest opens a manifest; its descriptor carries the media type.
	Manifest(ctx context.Context, repo Repository, dgst digest.Digest) (Content, error)
	// Referrers returns the manifests of the repository whose subject is the given
	// one, with artifact type and annotations; none where that is not there.
	Referrers(ctx context.Context, repo Repository, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Tags returns the tags of a repository, in lexical order.
	Tags(ctx context.Context, repo Repository) ([]string, error)
	// Blob opens a blob.
	Blob(ctx context.Context, repo Repository, dgst digest.Digest) (Content, error)
}

// Content is an opened manifest or blob, which the caller closes. It stays
// readable until then, even when it is deleted meanwhile.
type Content interface {
	io.ReaderAt
	io.Closer
	// Descriptor returns digest and size in bytes, and for a manifest its
	// media type.
	Descriptor() ocispec.Descriptor
}

// Action is what a caller wants to do with a repository.
type Action string

// The actions there are.
const (
	// ActionPull reads manifests and blobs.
	ActionPull Action = "pull"
	// ActionPush writes manifests and blobs.
	ActionPush Action = "push"
	// ActionDelete removes tags, manifests and blobs.
	ActionDelete Action = "delete"
)

// Credentials are what a request presents; the zero value is an anonymous one.
// A Basic password and a Bearer token are the same thing here, since docker
// clients can only send the former.
type Credentials struct {
	// Username of Basic authentication; empty with Bearer.
	Username string
	// Token is the Bearer token or the Basic password.
	Token string
}

// String keeps the token out of whatever prints credentials.
func (c Credentials) String() string {
	if c == (Credentials{}) {
		return "anonymous"
	}
	return "[redacted]"
}

// GoString is String, for %#v.
func (c Credentials) GoString() string { return c.String() }

// Authorizer decides who may do what. It is called for every well-formed
// request, concurrently.
//
// It returns the context in which the Backend is to do that, which may say for
// whom; an error that wraps ErrUnauthenticated to ask for (other) credentials,
// one that wraps ErrDenied where these may not do that. Any other error is the
// server's fault.
// For the endpoint itself, /v2/, repo is the zero Repository: the question is
// then only whether the credentials are good.
type Authorizer interface {
	Authorize(ctx context.Context, creds Credentials, repo Repository, action Action) (context.Context, error)
}
