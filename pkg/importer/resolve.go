// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Resolved is what a reference means.
type Resolved struct {
	// Digest of the top-level document.
	Digest digest.Digest
	// MediaType of that document.
	MediaType string
	// At is when the tag was resolved: just before the request whose answer was
	// used.
	At time.Time
	// Unchanged: the source still names the digest that was known. Manifest is
	// nil then, and what else was not fetched is zero.
	Unchanged bool
	// Manifest is the document, byte for byte.
	Manifest []byte
	// Size is that of the distinct blobs of an image, in bytes; 0 for an index,
	// whose images were not fetched.
	Size int64
	// Platforms are those that the descriptors of an index name, such as
	// "linux/arm64/v8", at most 100, without those of attestations; nil for an
	// image, whose config was not fetched.
	Platforms []string
}

// Resolve asks the source what its reference means. Known is the digest that is
// recorded, or empty.
//
// Where there is a known digest, a HEAD comes first, whose answer may only be
// that nothing changed: one request at a source that was asked before. Every
// other digest is believed once the manifest was fetched and hashed, by the
// digest that HEAD named, or by tag where it named none. Where nothing is known,
// the manifest has to be fetched anyway and HEAD would be a wasted round trip.
// Nothing but manifests is fetched, and no platform is chosen.
//
// Equal calls that come while one is under way share the next request. The
// answer is shared, too: it must not be changed. Errors are *Error.
func (i *Importer) Resolve(ctx context.Context, src Source, known digest.Digest) (*Resolved, error) {
	q := question{src.Scope, src.Reference, src.Insecure, known}
	res, err := i.resolves.do(ctx, q, func(ctx context.Context) (*Resolved, error) { return i.resolve(ctx, src, known) })
	return res, i.about(src.Reference, err)
}

func (i *Importer) resolve(ctx context.Context, src Source, known digest.Digest) (*Resolved, error) {
	s, err := i.open(ctx, src)
	if err != nil {
		return nil, err
	}
	at := i.options.Clock.Now()
	want := src.Reference.digest
	if known != "" {
		named, mediaType, err := s.head(ctx)
		if err != nil {
			return nil, err
		}
		if named == known && (want == "" || want == known) {
			return &Resolved{Digest: known, MediaType: mediaType, At: at, Unchanged: true}, nil
		}
		if want == "" {
			want = named
		}
		if want == "" {
			at = i.options.Clock.Now()
		}
	}
	m, err := s.manifest(ctx, want)
	if err != nil {
		return nil, err
	}
	res := &Resolved{
		Digest:    m.self.Digest,
		MediaType: m.self.MediaType,
		At:        at,
		Unchanged: m.self.Digest == known,
		Platforms: platforms(m.children),
	}
	if !res.Unchanged {
		res.Manifest = m.raw
	}
	if m.config != nil {
		res.Size = totalSize(distinct(m.blobs))
	}
	return res, nil
}

// head returns the digest that the source names, and the media type where it is
// one of a manifest. Both are empty where HEAD is of no use: registries that do
// not offer it, or answer without a digest, are asked again by GET.
func (s *session) head(ctx context.Context) (digest.Digest, string, error) {
	resp, err := s.do(ctx, http.MethodHead, object{"manifests", s.src.Reference.object(), ""})
	if err != nil {
		var answer *answerError
		if errors.As(err, &answer) && slices.Contains(headRefused, answer.status) {
			return "", "", nil
		}
		return "", "", err
	}
	defer resp.Body.Close()
	mediaType := resp.Header.Get("Content-Type")
	if !slices.Contains(acceptedTypes, mediaType) {
		mediaType = ""
	}
	return namedDigest(resp.Header), mediaType, nil
}

// headRefused are the answers of servers that do not know HEAD.
var headRefused = []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented}

// manifest fetches and checks the manifest with the digest want, or, where that
// is empty, the one that the tag names.
func (s *session) manifest(ctx context.Context, want digest.Digest) (*manifest, error) {
	return s.manifestOf(ctx, want, s.options.MaxManifestBytes)
}

// manifestOf is manifest for one of at most size bytes; a longer one is not read.
func (s *session) manifestOf(ctx context.Context, want digest.Digest, size int64) (*manifest, error) {
	name := want.String()
	if want == "" {
		name = s.src.Reference.object()
	}
	resp, err := s.do(ctx, http.MethodGet, object{"manifests", name, ""})
	if err != nil {
		return nil, err
	}
	raw, err := readManifest(resp, size)
	if err != nil {
		return nil, err
	}
	if want == "" {
		want = namedDigest(resp.Header)
	}
	if want == "" {
		want = digest.FromBytes(raw)
	}
	if err := verify(raw, want); err != nil {
		return nil, err
	}
	return parseManifest(raw, resp.Header.Get("Content-Type"), want)
}

// namedDigest returns the digest that a response claims to be of, or "".
func namedDigest(header http.Header) digest.Digest {
	d := digest.Digest(header.Get("Docker-Content-Digest"))
	if !known(d) {
		return ""
	}
	return d
}
