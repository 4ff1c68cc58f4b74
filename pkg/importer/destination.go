// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Destination is one repository of the mirror. All methods are called
// concurrently. The descriptor of a manifest has the media type of a manifest,
// so that it can be told from a blob.
//
// An error becomes MirrorUnavailable, unless it is an *Error, or
// errdefs.IsUnauthorized or IsPermissionDenied holds for it
// (MirrorUnauthorized).
type Destination interface {
	// Mount reports whether the repository holds desc, after linking it from
	// another repository of the same Kubernetes namespace where that is possible.
	Mount(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// Push stores the content of desc and reads r to its end, unless the content
	// is there already. A manifest with a subject that is there is found by that
	// from then on. It verifies length and digest; for the error of a wrong
	// one errdefs.IsFailedPrecondition or IsInvalidArgument holds. An error of r
	// is returned as it is or wrapped, and nothing is stored then.
	Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
	// Commit points each tag at a manifest, all of whose content is there, and
	// thereby protects that from collection for as long as the tag is. What refers
	// to a manifest is protected with it. That of unfinished copies ends.
	Commit(ctx context.Context, tags map[string]digest.Digest) error
	// Untag removes tags, those that are there.
	Untag(ctx context.Context, tags ...string) error
	// Tagged returns those of some digests to which a tag points, but for tags that
	// are left out; all of them where there are too many tags to tell.
	Tagged(ctx context.Context, digests []digest.Digest, leftOut func(tag string) bool) ([]digest.Digest, error)
	// Complete reports whether root and everything below it can be read back in
	// this repository.
	Complete(ctx context.Context, root digest.Digest) (bool, error)
}
