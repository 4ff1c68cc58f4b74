// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"tagger.dev/tagger/pkg/importer"
)

// referrer is what counts of a manifest for those that look for it by its subject.
type referrer struct {
	Subject      *ocispec.Descriptor `json:"subject"`
	ArtifactType string              `json:"artifactType"`
	Config       *ocispec.Descriptor `json:"config"`
	Annotations  map[string]string   `json:"annotations"`
}

// subjectOf returns the subject of a manifest and the descriptor by which it is
// listed there; no subject where it has none.
func subjectOf(m manifest) (subject digest.Digest, listed ocispec.Descriptor) {
	var document referrer
	if json.Unmarshal(m.raw, &document) != nil || document.Subject == nil || document.Subject.Digest.Validate() != nil {
		return "", ocispec.Descriptor{}
	}
	listed = ocispec.Descriptor{
		MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.raw)),
		ArtifactType: document.ArtifactType, Annotations: document.Annotations,
	}
	if listed.ArtifactType == "" && document.Config != nil {
		listed.ArtifactType = document.Config.MediaType
	}
	return document.Subject.Digest, listed
}

const (
	// settleTime is after how long a list of referrers that was written is read again: longer than a replica takes between
	// reading and writing one.
	settleTime = time.Second
	// maxReindexes bounds how often a list is written before it has what it should.
	maxReindexes = 5
)

// refer lets a manifest that was pushed be found by its subject, if it has one:
// where the registry does not see to that, by the tag that the OCI distribution
// specification has for it. It makes sure of that where it is to settle.
func (r *Repository) refer(ctx context.Context, m manifest, known, settle bool) error {
	subject, listed := subjectOf(m)
	if subject == "" {
		return nil
	}
	if known {
		r.registry.referrers.Add(struct{}{}, true, referrersFor)
	}
	return r.reindex(ctx, subject, settle, func(index *ocispec.Index) bool {
		if lists(index, m.digest) {
			return false
		}
		index.Manifests = append(index.Manifests, listed)
		return true
	})
}

// referNoMore has a manifest that was deleted be found by its subject no more. That another replica writes the list at the same time
// is left at that: it then names what is not there.
func (r *Repository) referNoMore(ctx context.Context, m manifest) error {
	subject, _ := subjectOf(m)
	if subject == "" {
		return nil
	}
	return r.reindex(ctx, subject, false, func(index *ocispec.Index) bool {
		before := len(index.Manifests)
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == m.digest })
		return len(index.Manifests) != before
	})
}

// reindex changes the list of what refers to a subject, where that is kept by its
// tag. Registries write no tag on a condition: another replica may have read the list
// before this one wrote it, and write it afterwards without the change. Who is to
// settle looks again when that is over, and repeats the change where it is lost.
func (r *Repository) reindex(ctx context.Context, subject digest.Digest, settle bool, change func(*ocispec.Index) (changed bool)) error {
	if offered, err := r.offersReferrers(ctx, subject); err != nil || offered {
		return err
	}
	for range maxReindexes {
		if written, err := r.rewrite(ctx, subject, change); err != nil || !written || !settle {
			return err
		}
		select {
		case <-r.registry.options.Clock.After(settleTime):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return unavailable("the list of what refers to %s at %s is written by others all the time", subject, r.registry.endpoint)
}

// rewrite reads a list of referrers and, if it is changed, writes it.
func (r *Repository) rewrite(ctx context.Context, subject digest.Digest, change func(*ocispec.Index) (changed bool)) (written bool, err error) {
	select {
	case r.registry.indexing <- struct{}{}:
		defer func() { <-r.registry.indexing }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	index, err := r.index(ctx, subject)
	if err != nil || !change(index) {
		return false, err
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return false, err
	}
	if limit := r.registry.options.MaxManifestBytes; int64(len(raw)) > limit {
		return false, unavailable("the list of what refers to %s is larger than %d bytes", subject, limit)
	}
	_, err = r.put(ctx, importer.ReferrersTag(subject), manifest{mediaType: index.MediaType, raw: raw})
	return err == nil, err
}

// listed returns errIncomplete for a referrer that cannot be found by its subject:
// an import may have ended before it was, and another replica may have written the
// list at the same time.
func (r *Repository) listed(ctx context.Context, m manifest) error {
	subject, _ := subjectOf(m)
	if subject == "" {
		return nil
	}
	if offered, err := r.offersReferrers(ctx, subject); err != nil || offered {
		return err
	}
	index, err := r.index(ctx, subject)
	if err == nil && !lists(index, m.digest) {
		return errIncomplete
	}
	return err
}

// offersReferrers reports whether the registry has the referrers API, for which
// every registry that has it answers any digest with a list. That it has none is only
// remembered where it says so: it may refuse one caller, or not have the repository.
func (r *Repository) offersReferrers(ctx context.Context, subject digest.Digest) (bool, error) {
	if known, ok := r.registry.referrers.Get(struct{}{}); ok {
		return known.(bool), nil
	}
	a, err := r.do(ctx, request{method: http.MethodGet, path: "referrers/" + subject.String(), header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}})
	switch {
	case err != nil:
		return false, err
	case a.StatusCode >= http.StatusInternalServerError && !a.is(http.StatusNotImplemented), a.is(http.StatusTooManyRequests):
		return false, r.registry.refused(a, "looking for what refers to "+subject.String())
	}
	offered := a.is(http.StatusOK)
	if offered || hasNoReferrers(a) {
		r.registry.referrers.Add(struct{}{}, offered, referrersFor)
	}
	return offered, nil
}

// hasNoReferrers reports whether an answer says that there is no referrers API. Others
// may be of what is not there, as a 404 with a code, or of who asks.
func hasNoReferrers(a *answer) bool {
	if code, found := importer.FirstErrorCode(bytes.NewReader(a.body)); found && a.is(http.StatusNotFound) {
		return slices.Contains([]string{"", errcode.ErrorCodeUnsupported, "METHOD_UNKNOWN"}, code) // the last is crane's
	}
	return a.is(http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented)
}

// index returns the list of what refers to a subject, as its tag has it.
func (r *Repository) index(ctx context.Context, subject digest.Digest) (*ocispec.Index, error) {
	tag := importer.ReferrersTag(subject)
	found, err := r.document(ctx, tag)
	if err != nil {
		return nil, err
	}
	index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	if found == nil {
		return index, nil
	}
	if found.mediaType != ocispec.MediaTypeImageIndex || json.Unmarshal(found.raw, index) != nil {
		return nil, unavailable("the tag %s at %s is no list of what refers to %s; delete it there", tag, r.registry.endpoint, subject)
	}
	return index, nil
}

func lists(index *ocispec.Index, d digest.Digest) bool {
	return slices.ContainsFunc(index.Manifests, func(listed ocispec.Descriptor) bool { return listed.Digest == d })
}
