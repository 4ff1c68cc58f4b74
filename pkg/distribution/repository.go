// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxNameLength bounds a repository name, in bytes. Clients commonly refuse
// names that are longer than 255 together with the host.
const maxNameLength = 255

// The grammar of the specification, section "Pulling manifests", one path
// component at a time.
var (
	componentPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	tagPattern       = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// reservedTagPrefix begins the tags by which Tagger keeps what a history names.
const reservedTagPrefix = "anchor-"

// Repository names a repository of the endpoint, HOST/NAMESPACE/NAME. The zero
// value names none and stands for the endpoint itself.
type Repository struct {
	Namespace string
	Name      string
}

// ParseRepository parses NAMESPACE/NAME: exactly two components of the
// specification's grammar. Its error wraps ErrNameInvalid.
func ParseRepository(s string) (Repository, error) {
	namespace, name, _ := strings.Cut(s, "/")
	repo := Repository{Namespace: namespace, Name: name}
	if err := repo.Validate(); err != nil {
		return Repository{}, err
	}
	return repo, nil
}

// Validate returns an error that wraps ErrNameInvalid unless both components
// follow the grammar.
func (r Repository) Validate() error {
	if len(r.String()) > maxNameLength || !componentPattern.MatchString(r.Namespace) || !componentPattern.MatchString(r.Name) {
		return fmt.Errorf("%q: %w", r.String(), ErrNameInvalid)
	}
	return nil
}

// String returns NAMESPACE/NAME.
func (r Repository) String() string { return r.Namespace + "/" + r.Name }

// parseDigest accepts the two registered algorithms of the image
// specification, in their only spelling.
func parseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%q: %w", s, ErrDigestInvalid)
	}
	switch d.Algorithm() {
	case digest.SHA256, digest.SHA512:
		return d, nil
	default:
		return "", fmt.Errorf("%q: %w", s, ErrDigestInvalid)
	}
}
