// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package keychain finds the credentials for an image reference, in a docker
// config.json on disk or in Secrets. It owns how they are stored and matched,
// and never sends, keeps or prints them: where they may travel is for package
// importer to decide.
//
// A key matches as it does for the kubelet: it names a host, with its port if it
// has one, and perhaps a path below it; each label of the host and each segment
// of the path may be a glob (path.Match); a scheme in front and the /v1/ or /v2/
// of old are ignored; the names of docker.io are one. Unlike there, a path is
// matched by whole segments, so that the credentials of company are not sent for
// company2.
package keychain

import (
	"context"

	"tagger.dev/tagger/pkg/importer"
)

// None has no credentials, so that every source is asked anonymously.
var None importer.Keychain = none{}

type none struct{}

func (none) Credentials(context.Context, importer.Reference) ([]importer.Credential, error) {
	return nil, nil
}

// invisible keeps the text of its cause, which may quote a password, out of its
// own.
type invisible struct {
	text string
	err  error
}

func (e *invisible) Error() string { return e.text }
func (e *invisible) Unwrap() error { return e.err }

// broken is the error for credentials that cannot be read.
func broken(text string, err error) *importer.Error {
	return &importer.Error{Kind: importer.Unauthorized, Err: &invisible{text: text, err: err}}
}
