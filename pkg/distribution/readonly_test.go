// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// readOnly is the writing half of a backend that refuses everything.
type readOnly struct{}

func (readOnly) Mount(context.Context, Repository, Repository, digest.Digest) error {
	return ErrUnsupported
}

func (readOnly) StartUpload(context.Context, Repository, digest.Algorithm) (Upload, error) {
	return nil, ErrUnsupported
}

func (readOnly) ResumeUpload(context.Context, Repository, string) (Upload, error) {
	return nil, ErrUnsupported
}

func (readOnly) PutManifest(context.Context, Repository, ocispec.Descriptor, []byte, []string) error {
	return ErrUnsupported
}

func (readOnly) DeleteTag(context.Context, Repository, string) error { return ErrUnsupported }

func (readOnly) DeleteManifest(context.Context, Repository, digest.Digest) error {
	return ErrUnsupported
}

func (readOnly) DeleteBlob(context.Context, Repository, digest.Digest) error { return ErrUnsupported }
