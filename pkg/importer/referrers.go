// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// maxSubjects bounds the manifests of an image whose referrers are looked for.
	maxSubjects = 64
	// maxReferrers bounds what is copied of the referrers of one image.
	maxReferrers = 256
)

// signatureSuffixes are those of cosign's tags, ALGORITHM-HEX.sig for example,
// which name what belongs to a digest without referring to it.
var signatureSuffixes = []string{".sig", ".att", ".sbom"}

// MirrorReferrers copies what refers to res and to the manifests that it lists:
// signatures, SBOMs, attestations. It finds them by the referrers API of the OCI
// distribution specification (1.1), by that specification's tag scheme where a
// registry has no such API, and by cosign's tags for the root. What dst has is
// not fetched again, and what refers to a referrer is not looked for.
//
// The image itself has to be in dst. Nothing is committed: the returned tags are
// those of cosign, for Destination.Commit. What a registry lists falsely, so that
// it does not refer to what it is listed for, is left out. Errors are *Error;
// what was copied before stays.
func (i *Importer) MirrorReferrers(ctx context.Context, src Source, res *Resolved, dst Destination) (map[string]digest.Digest, error) {
	tags, err := i.mirrorReferrers(ctx, src, res, dst)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	return tags, i.about(src.Reference, err)
}

func (i *Importer) mirrorReferrers(ctx context.Context, src Source, res *Resolved, dst Destination) (map[string]digest.Digest, error) {
	s, err := i.open(ctx, src)
	if err != nil {
		return nil, err
	}
	root, err := s.root(ctx, res)
	if err != nil {
		return nil, err
	}
	subjects := []digest.Digest{root.self.Digest}
	for _, child := range distinct(root.children) {
		if len(subjects) < maxSubjects && child.Digest != root.self.Digest {
			subjects = append(subjects, child.Digest)
		}
	}
	found := &found{tags: map[string]digest.Digest{}, manifests: map[digest.Digest]*manifest{}}
	g, looking := errgroup.WithContext(ctx)
	g.SetLimit(s.options.StreamsPerHost)
	for _, subject := range subjects {
		g.Go(func() error { return s.findReferrers(looking, subject, dst, found) })
	}
	for _, suffix := range signatureSuffixes {
		g.Go(func() error { return s.findTagged(looking, schemeTag(root.self.Digest)+suffix, found) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, m := range found.manifests {
		p, err := s.plan(ctx, m)
		if err != nil {
			return nil, err
		}
		c := &copying{session: s, dst: dst, plan: p, meter: newMeter(nil, p)}
		if err := c.copyBlobs(ctx); err != nil {
			return nil, err
		}
		if err := c.copyManifests(ctx); err != nil {
			return nil, err
		}
	}
	return found.tags, nil
}

// found is what there is to copy. It is filled by several goroutines.
type found struct {
	mu        sync.Mutex
	tags      map[string]digest.Digest
	manifests map[digest.Digest]*manifest
}

func (f *found) add(m *manifest, tag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.manifests[m.self.Digest]; !known && len(f.manifests) == maxReferrers {
		return
	}
	f.manifests[m.self.Digest] = m
	if tag != "" {
		f.tags[tag] = m.self.Digest
	}
}

// schemeTag is the tag of the referrers of a digest where there is no API, and
// the stem of cosign's.
func schemeTag(d digest.Digest) string {
	tag := d.Algorithm().String() + "-" + d.Encoded()
	return tag[:min(len(tag), 128-len(".sbom"))] // which sha512 exceeds
}

// findReferrers fetches the manifests that refer to a subject and that dst lacks.
func (s *session) findReferrers(ctx context.Context, subject digest.Digest, dst Destination, found *found) error {
	listed, err := s.listReferrers(ctx, subject)
	if err != nil {
		return err
	}
	for _, d := range listed[:min(len(listed), maxReferrers)] {
		if held, err := dst.Complete(ctx, d.Digest); err != nil {
			return DestinationFailure(err)
		} else if held {
			continue
		}
		m, err := s.child(ctx, d)
		switch kind := KindOf(err); {
		case kind == NotFound, kind == UnsupportedManifest, kind == DigestMismatch: // listed, and not so
			continue
		case err != nil:
			return err
		}
		if m.refersTo(subject) {
			found.add(m, "")
		}
	}
	return nil
}

// listReferrers returns the descriptors of what refers to a subject, as the
// source tells.
func (s *session) listReferrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	host := s.src.Reference.endpoint()
	if _, none := s.clients.noReferrers.Get(host); !none {
		raw, err := s.optional(ctx, "referrers", subject.String())
		if err != nil {
			return nil, err
		}
		if raw != nil {
			return listed(raw), nil
		}
		s.clients.noReferrers.Add(host, struct{}{})
	}
	raw, err := s.optional(ctx, "manifests", schemeTag(subject))
	if err != nil || raw == nil {
		return nil, err
	}
	return listed(raw), nil
}

// listed returns the manifests that an index lists, none of what is no index.
func listed(raw []byte) []ocispec.Descriptor {
	var index ocispec.Index
	if json.Unmarshal(raw, &index) != nil {
		return nil
	}
	return slices.DeleteFunc(distinct(index.Manifests), func(d ocispec.Descriptor) bool {
		return checkDescriptor(d) != nil || !slices.Contains(acceptedTypes, d.MediaType)
	})
}

// findTagged fetches the manifest under a tag that need not be there.
func (s *session) findTagged(ctx context.Context, tag string, found *found) error {
	resp, err := s.do(ctx, http.MethodGet, "manifests", tag)
	if err != nil {
		if notOffered(err) {
			return nil
		}
		return err
	}
	contentType := resp.Header.Get("Content-Type")
	raw, err := readManifest(resp, s.options.MaxManifestBytes)
	if err != nil {
		return err
	}
	m, err := parseManifest(raw, contentType, digest.FromBytes(raw))
	if err != nil {
		return nil //nolint:nilerr // something else has the name of a signature: the image is none the worse for it
	}
	found.add(m, tag)
	return nil
}

// optional returns a document that need not be there; nil where it is not.
func (s *session) optional(ctx context.Context, below, object string) ([]byte, error) {
	resp, err := s.do(ctx, http.MethodGet, below, object)
	if err != nil {
		if notOffered(err) {
			return nil, nil
		}
		return nil, err
	}
	return readManifest(resp, s.options.MaxManifestBytes)
}

// notOffered reports whether an answer is that of a registry that does not have,
// or does not know of, what was asked for.
func notOffered(err error) bool {
	var answer *answerError
	return errors.As(err, &answer) && slices.Contains([]int{
		http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusGone, http.StatusNotImplemented,
	}, answer.status)
}

// refersTo reports whether a manifest says that it is about a subject.
func (m *manifest) refersTo(subject digest.Digest) bool {
	var document struct {
		Subject *ocispec.Descriptor `json:"subject"`
	}
	return json.Unmarshal(m.raw, &document) == nil && document.Subject != nil && document.Subject.Digest == subject
}
