// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// maxSubjects bounds the manifests of an image whose referrers are looked for.
	maxSubjects = 64
	// maxReferrers bounds what is copied of the referrers of one image.
	maxReferrers = 256
	// maxPages bounds the pages of a list of referrers, which may be empty.
	maxPages = 64
	// noReferrersFor is how long a repository is taken at its word that there is no
	// referrers API.
	noReferrersFor = time.Hour
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
// The image itself has to be in dst. Nothing is committed: the tags are for
// Destination.Commit. What a registry lists falsely, so that it does not refer to
// what it is listed for, is passed over. Errors are *Error; what was copied before
// stays.
func (i *Importer) MirrorReferrers(ctx context.Context, src Source, res *Resolved, dst Destination) (*Referrers, error) {
	referrers, err := i.mirrorReferrers(ctx, src, res, dst)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	return referrers, i.about(src.Reference, err)
}

// Referrers is what refers to an image, as far as it was copied.
type Referrers struct {
	// Tags are those of cosign.
	Tags map[string]digest.Digest
	// LeftOut is how many manifests were not copied, for there are more than 256, or
	// more than may be held in memory, or something below them is missing. What lies on pages that were not asked for is
	// not counted.
	LeftOut int
}

func (i *Importer) mirrorReferrers(ctx context.Context, src Source, res *Resolved, dst Destination) (*Referrers, error) {
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
	found := &found{tags: map[string]digest.Digest{}, memory: manifestShare * s.options.MaxManifestBytes}
	g, looking := errgroup.WithContext(ctx)
	g.SetLimit(s.options.StreamsPerHost)
	for _, subject := range subjects {
		g.Go(func() error { return s.findReferrers(looking, subject, dst, found) })
	}
	for _, suffix := range signatureSuffixes {
		g.Go(func() error { return s.findTagged(looking, ReferrersTag(root.self.Digest)+suffix, found) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := s.sift(ctx, found); err != nil {
		return nil, err
	}
	p, err := s.plan(ctx, found.manifests...)
	if err != nil {
		return nil, err
	}
	c := &copying{session: s, dst: dst, plan: p, meter: newMeter(nil, p)}
	return &Referrers{Tags: found.tags, LeftOut: found.leftOut}, c.run(ctx)
}

// sift leaves out what was found that is no whole image, so that the others come
// along: an index of which something is missing, or that is too deep.
func (s *session) sift(ctx context.Context, found *found) error {
	whole := found.manifests[:0]
	for _, m := range found.manifests {
		if len(m.children) > 0 {
			if _, err := s.plan(ctx, m); isContentFailure(err) {
				found.leftOut++
				maps.DeleteFunc(found.tags, func(_ string, d digest.Digest) bool { return d == m.self.Digest })
				continue
			} else if err != nil {
				return err
			}
		}
		whole = append(whole, m)
	}
	found.manifests = whole
	return nil
}

// isContentFailure reports whether a failure is of what was asked for alone, and
// says nothing of what lies beside it.
func isContentFailure(err error) bool {
	return slices.Contains([]Kind{NotFound, UnsupportedManifest, DigestMismatch}, KindOf(err))
}

// found is what there is to copy. It is filled by several goroutines.
type found struct {
	mu        sync.Mutex
	tags      map[string]digest.Digest
	manifests []*manifest
	// taken counts the manifests that there is room for, memory is what is left for
	// others, in bytes; leftOut counts those that there is none for.
	taken   int
	memory  int64
	leftOut int
}

// room takes the room of another manifest, if there is any.
func (f *found) room(size int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken == maxReferrers || size > f.memory {
		f.leftOut++
		return false
	}
	f.taken++
	f.memory -= size
	return true
}

// giveBack gives room back that was not needed after all.
func (f *found) giveBack(size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken--
	f.memory += size
}

// add adds a manifest for which there is room.
func (f *found) add(m *manifest, tag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.manifests = append(f.manifests, m)
	if tag != "" {
		f.tags[tag] = m.self.Digest
	}
}

// ReferrersTag is the tag of the referrers of a digest where there is no API, with
// at most 64 digits as the specification has it, and the stem of cosign's.
func ReferrersTag(d digest.Digest) string {
	digits := d.Encoded()
	return d.Algorithm().String() + "-" + digits[:min(len(digits), 64)]
}

// findReferrers fetches the manifests that refer to a subject and that dst lacks.
// Those that there is no room for are left out.
func (s *session) findReferrers(ctx context.Context, subject digest.Digest, dst Destination, found *found) error {
	listed, err := s.listReferrers(ctx, subject)
	if err != nil {
		return err
	}
	for _, d := range listed {
		if d.Size > s.options.MaxManifestBytes {
			continue // it is none
		}
		if held, err := dst.Complete(ctx, d.Digest); err != nil {
			return DestinationFailure(err)
		} else if held || !found.room(d.Size) {
			continue
		}
		m, err := s.child(ctx, d)
		switch {
		case isContentFailure(err): // listed, and not so
		case err != nil:
			return err
		case m.refersTo(subject):
			found.add(m, "")
			continue
		}
		found.giveBack(d.Size)
	}
	return nil
}

// listReferrers returns the descriptors of what refers to a subject, as the
// source tells.
func (s *session) listReferrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if _, none := s.clients.noReferrers.Get(s.route()); !none {
		all, offered, err := s.pages(ctx, subject)
		if err != nil || offered {
			return all, err
		}
		s.clients.noReferrers.Add(s.route(), struct{}{}, noReferrersFor)
	}
	raw, _, err := s.optional(ctx, object{"manifests", ReferrersTag(subject), ""})
	if err != nil || raw == nil {
		return nil, err
	}
	return listed(raw), nil
}

// pages asks the referrers API, for as many pages as there are or are sensible;
// offered says whether there is that API.
func (s *session) pages(ctx context.Context, subject digest.Digest) (all []ocispec.Descriptor, offered bool, err error) {
	of := object{"referrers", subject.String(), ""}
	for page := range maxPages {
		raw, header, err := s.optional(ctx, of)
		if err != nil || raw == nil {
			return distinct(all), page > 0, err
		}
		all = append(all, listed(raw)...)
		if of.query = NextPage(header); of.query == "" || len(all) >= maxReferrers {
			break
		}
	}
	return distinct(all), true, nil
}

// NextPage returns the query of the link to the next page (RFC 8288), or "". No
// other part of the link counts: it is the same list at the same host.
func NextPage(header http.Header) string {
	for _, link := range linkRegexp.FindAllStringSubmatch(strings.Join(header.Values("Link"), ", "), -1) {
		_, parameters, err := mime.ParseMediaType("link/link" + link[2])
		if err != nil || !slices.Contains(strings.Fields(strings.ToLower(parameters["rel"])), "next") {
			continue
		}
		if u, err := url.Parse(link[1]); err == nil {
			return u.Query().Encode()
		}
	}
	return ""
}

// linkRegexp finds the links of a header: the target, and its parameters, which
// are written as those of a media type.
var linkRegexp = regexp.MustCompile(`<([^<>]*)>((?:\s*;\s*[^\s",;=]+(?:\s*=\s*(?:"[^"]*"|[^\s",;]*))?)*)`)

// listed returns the manifests that an index lists, none of what is no index or
// lists too much. Of their descriptors it keeps what identifies them alone: there
// are many lists, and the rest may be as large as they are.
func listed(raw []byte) []ocispec.Descriptor {
	var index struct {
		Manifests descriptors `json:"manifests"`
	}
	if json.Unmarshal(raw, &index) != nil {
		return nil
	}
	var manifests []ocispec.Descriptor
	for _, entry := range index.Manifests {
		if d := entry.oci(); checkDescriptor(d) == nil && slices.Contains(acceptedTypes, d.MediaType) {
			manifests = append(manifests, identity(d))
		}
	}
	return distinct(manifests)
}

// findTagged fetches the manifest under a tag that need not be there.
func (s *session) findTagged(ctx context.Context, tag string, found *found) error {
	raw, header, err := s.optional(ctx, object{"manifests", tag, ""})
	if err != nil || raw == nil {
		return err
	}
	m, err := parseManifest(raw, header.Get("Content-Type"), digest.FromBytes(raw))
	if err != nil {
		return nil //nolint:nilerr // something else has the name of a signature: the image is none the worse for it
	}
	if found.room(m.self.Size) {
		found.add(m, tag)
	}
	return nil
}

// optional returns a document that need not be there; nil where it is not.
func (s *session) optional(ctx context.Context, of object) ([]byte, http.Header, error) {
	resp, err := s.do(ctx, http.MethodGet, of)
	if err != nil {
		if notOffered(err) {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	raw, err := readManifest(resp, s.options.MaxManifestBytes)
	return raw, resp.Header, err
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
