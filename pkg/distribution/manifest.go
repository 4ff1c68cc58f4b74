// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/limit"
)

const (
	// maxTagParameters bounds the tags that one push by digest may set.
	maxTagParameters = 16
	// defaultManifestBytes is the size that every registry is to take, by the specification.
	defaultManifestBytes = 4 << 20
	// maxManifests is how many manifests are pushed at once, or digests deleted, for which
	// manifests lie in memory, and maxManifestsOfNamespace how many of them to one namespace.
	maxManifests            = 32
	maxManifestsOfNamespace = 4
)

// manifestTypes are the media types of manifests that are served.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
}

// referrersTagPattern is of the tags by which clients keep what refers to a manifest,
// section "Referrers Tag Schema", and of cosign's, which add a suffix.
var referrersTagPattern = regexp.MustCompile(`^sha(256-[0-9a-f]{64}|512-[0-9a-f]{64,128})(\.[a-zA-Z0-9._-]+)?$`)

// ReservedTag reports whether a tag is Tagger's own, which clients neither see nor
// write.
func ReservedTag(tag string) bool { return strings.HasPrefix(tag, reservedTagPrefix) }

// ReferrersTag reports whether a tag is one of those that say what refers to a
// manifest, rather than what an image is called.
func ReferrersTag(tag string) bool { return referrersTagPattern.MatchString(tag) }

// Subject returns the digest of what a manifest refers to, empty where it refers to
// nothing. Its error is ErrManifestInvalid.
func Subject(manifest []byte) (digest.Digest, error) {
	head, err := readHead(manifest)
	if err != nil || head.Subject == nil {
		return "", err
	}
	dgst, err := parseDigest(head.Subject.Digest)
	if err != nil {
		return "", Explain(ErrManifestInvalid, "invalid manifest: subject.digest is not a digest")
	}
	return dgst, nil
}

// manifestHead is what a manifest says of itself.
type manifestHead struct {
	MediaType string `json:"mediaType"`
	Subject   *struct {
		Digest string `json:"digest"`
	} `json:"subject"`
}

func readHead(manifest []byte) (manifestHead, error) {
	var head manifestHead
	if err := json.Unmarshal(manifest, &head); err != nil {
		return head, fmt.Errorf("%w: %w", Explain(ErrManifestInvalid, "invalid manifest: it is not JSON, or mediaType or subject are not what they should be"), err)
	}
	return head, nil
}

// putManifest is PUT /v2/<name>/manifests/<reference>, section "Pushing Manifests".
func (h *handler) putManifest(ctx context.Context, r *http.Request, req request) (func(http.ResponseWriter), error) {
	tags, err := tagsOf(r, req)
	if err != nil {
		return nil, err
	}
	if r.ContentLength > h.options.MaxManifestBytes {
		return nil, h.manifestTooLarge()
	}
	release, err := h.manifestPlace(ctx, req.repo.Namespace)
	if err != nil {
		return nil, err
	}
	defer release()
	raw, err := h.readManifest(r)
	if err != nil {
		return nil, err
	}
	desc, err := describe(r, req, raw)
	if err != nil {
		return nil, err
	}
	subject, err := Subject(raw)
	if err != nil {
		return nil, err
	}
	if err := h.backend.PutManifest(ctx, req.repo, desc, raw, tags); err != nil {
		return nil, err
	}
	respond := created(req.repo, "manifests", desc.Digest)
	return func(w http.ResponseWriter) {
		if subject != "" {
			w.Header().Set("OCI-Subject", subject.String())
		}
		if req.digest != "" {
			for _, tag := range tags {
				w.Header().Add("OCI-Tag", tag)
			}
		}
		respond(w)
	}, nil
}

// tagsOf returns the tags that a push sets: that of the path, or those that come
// with a digest.
func tagsOf(r *http.Request, req request) ([]string, error) {
	tags := r.URL.Query()["tag"]
	if req.digest == "" {
		tags = []string{req.tag}
	}
	if len(tags) > maxTagParameters {
		return nil, Explain(ErrManifestInvalid, "too many tags at once: %d are accepted", maxTagParameters)
	}
	for _, tag := range tags {
		switch {
		case !tagPattern.MatchString(tag):
			return nil, Explain(ErrManifestInvalid, "invalid tag: it has letters, digits, and ._- behind the first character, at most 128")
		case ReservedTag(tag):
			return nil, ErrReserved
		}
	}
	return tags, nil
}

// manifestPlaces returns how many manifests of a size may lie in memory: fewer where they
// may be larger than is usual.
func manifestPlaces(size int64) int {
	return int(min(maxManifests, max(maxManifestsOfNamespace, maxManifests*defaultManifestBytes/size)))
}

// manifestPlace waits until there is room for another manifest in memory.
func (h *handler) manifestPlace(ctx context.Context, namespace string) (release func(), err error) {
	return h.place(ctx, "manifests are pushed, or manifests and blobs deleted", limit.Place{Of: h.namespaceManifests, Key: namespace}, limit.Place{Of: h.manifests})
}

// readManifest reads a body of bounded size, in a bounded time: others wait for its
// place.
func (h *handler) readManifest(r *http.Request) ([]byte, error) {
	if body, ok := r.Body.(*movingBody); ok {
		body.until = time.Now().Add(h.options.StallTimeout)
	}
	var raw []byte
	var err error
	if length := r.ContentLength; length >= 0 {
		raw = make([]byte, length)
		_, err = io.ReadFull(r.Body, raw)
	} else {
		raw, err = io.ReadAll(io.LimitReader(r.Body, h.options.MaxManifestBytes+1))
	}
	switch {
	case err != nil:
		return nil, bodyError(err)
	case int64(len(raw)) > h.options.MaxManifestBytes:
		return nil, h.manifestTooLarge()
	}
	return raw, nil
}

func (h *handler) manifestTooLarge() error {
	return Explain(ErrSizeInvalid, "the manifest is larger than the %d bytes that this registry accepts", h.options.MaxManifestBytes)
}

// describe returns the descriptor of a manifest that was sent, which is to be of a
// type that is served, the same in its header and its body, and of the digest that was
// asked for.
func describe(r *http.Request, req request, raw []byte) (ocispec.Descriptor, error) {
	head, err := readHead(raw)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	mediaType := head.MediaType
	if value := r.Header.Get("Content-Type"); value != "" {
		if mediaType, _, err = mime.ParseMediaType(value); err != nil {
			return ocispec.Descriptor{}, Explain(ErrManifestInvalid, "invalid manifest: Content-Type is no media type")
		}
	}
	switch {
	case !slices.Contains(manifestTypes, mediaType):
		return ocispec.Descriptor{}, Explain(ErrManifestInvalid, "manifests of this media type are not served: it is one of %s", strings.Join(manifestTypes, ", "))
	case head.MediaType != "" && head.MediaType != mediaType:
		return ocispec.Descriptor{}, Explain(ErrManifestInvalid, "invalid manifest: its mediaType is not that of Content-Type")
	}
	want := req.digest
	if want == "" {
		if value := r.URL.Query().Get("digest"); value != "" {
			if want, err = parseDigest(value); err != nil {
				return ocispec.Descriptor{}, err
			}
		}
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if want != "" {
		if desc.Digest = want.Algorithm().FromBytes(raw); desc.Digest != want {
			return ocispec.Descriptor{}, Explain(ErrDigestInvalid, "the manifest has another digest than that of the path")
		}
	}
	return desc, nil
}

// remove is DELETE of a tag, a manifest or a blob, section "Content Management".
func (h *handler) remove(ctx context.Context, req request) (func(http.ResponseWriter), error) {
	if req.digest != "" { // the store reads what is deleted, and a mirror what may name it
		release, err := h.manifestPlace(ctx, req.repo.Namespace)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	var err error
	switch {
	case req.kind == kindBlob:
		err = h.backend.DeleteBlob(ctx, req.repo, req.digest)
	case req.digest != "":
		err = h.backend.DeleteManifest(ctx, req.repo, req.digest)
	case ReservedTag(req.tag):
		err = ErrManifestUnknown
	default:
		err = h.backend.DeleteTag(ctx, req.repo, req.tag)
	}
	if err != nil {
		return nil, err
	}
	return func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) }, nil
}
