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

	// Mount has a repository hold a blob that another one holds, which the caller
	// may read. It fails with ErrBlobUnknown where that cannot be done.
	Mount(ctx context.Context, repo, from Repository, dgst digest.Digest) error
	// StartUpload begins an upload, whose content will probably be of that algorithm.
	StartUpload(ctx context.Context, repo Repository, algorithm digest.Algorithm) (Upload, error)
	// ResumeUpload returns an upload that was begun and is neither committed nor
	// cancelled, for one caller at a time; the others wait until ctx ends. It fails
	// with ErrUploadUnknown where the repository has none of that name.
	ResumeUpload(ctx context.Context, repo Repository, id string) (Upload, error)
	// PutManifest stores a manifest and points tags at it, which may be none. It
	// has been looked at no further than desc says; digest and size are right. It
	// fails with ErrManifestInvalid where it cannot be read as its media type, and
	// with ErrManifestBlobUnknown where something that it names is not there.
	PutManifest(ctx context.Context, repo Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error
	// DeleteTag removes a tag and leaves what it points to.
	DeleteTag(ctx context.Context, repo Repository, tag string) error
	// DeleteManifest removes a manifest and all tags that point to it. It fails with
	// ErrInUse where another manifest names it; where not all are known, that is one
	// that the history of an Image has.
	DeleteManifest(ctx context.Context, repo Repository, dgst digest.Digest) error
	// DeleteBlob removes a blob. It fails with ErrInUse where a manifest names it, as
	// DeleteManifest does.
	DeleteBlob(ctx context.Context, repo Repository, dgst digest.Digest) error
}

// Upload is a blob that comes in pieces, at the hands of one caller. After an error
// it may have more than before, but not other bytes than those that were sent.
type Upload interface {
	// ID is by what ResumeUpload finds it. It may be another one after Append.
	ID() string
	// Size is how many bytes there are.
	Size() int64
	// Append adds what r has, to its end; size is how much that is, or -1 where
	// it is not known.
	Append(ctx context.Context, r io.Reader, size int64) error
	// Commit adds what r has, as Append does, and makes the content a blob of the
	// repository. It fails with ErrDigestInvalid where it has another digest; then
	// the upload is no more.
	Commit(ctx context.Context, r io.Reader, size int64, dgst digest.Digest) error
	// Cancel gives the upload up.
	Cancel(ctx context.Context) error
	// Close lets others have it. It is called after all else.
	io.Closer
}

// Refresher is an Upload that does not know by itself how much there is, once a
// request for it failed.
type Refresher interface {
	Upload
	// Refresh asks where the upload is, after which ID and Size may be others.
	Refresh(ctx context.Context) error
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
// one that wraps ErrDenied where these may not do that, and one that wraps
// ErrInsufficientScope where their owner may, but not by a token that is bound
// to something else. Any other error is the server's fault.
// For the endpoint itself, /v2/, repo is the zero Repository: the question is
// then only whether the credentials are good.
type Authorizer interface {
	Authorize(ctx context.Context, creds Credentials, repo Repository, action Action) (context.Context, error)
}
