// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/importer"
)

const (
	// tagsPerPage is how many tags are asked for at once.
	tagsPerPage = 1000
	// maxTags bounds those of a repository, maxPages the pages of any list, and
	// maxReferrers what refers to one manifest.
	maxTags      = 100_000
	maxPages     = 256
	maxReferrers = 4096
)

// tagPattern is what a tag looks like, in the OCI distribution specification.
var tagPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// absent is the error of what the registry has not got; errdefs.IsNotFound holds.
func (r *Repository) absent(what string) error {
	return fmt.Errorf("%s in %s: %w", what, r.path, errdefs.ErrNotFound)
}

// Resolve returns what a tag points to, as the registry says: its size may be -1.
// Where there is no such tag errdefs.IsNotFound holds for the error.
func (r *Repository) Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error) {
	a, err := r.do(ctx, request{method: http.MethodHead, path: "manifests/" + tag, header: accepting("manifests")})
	switch {
	case err != nil:
		return ocispec.Descriptor{}, err
	case a.absent(tag):
		return ocispec.Descriptor{}, r.absent("tag " + tag)
	case !a.is(http.StatusOK):
		return ocispec.Descriptor{}, r.registry.refused(a, "tag "+tag)
	}
	if named := digest.Digest(a.Header.Get("Docker-Content-Digest")); named.Validate() == nil {
		mediaType, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
		return ocispec.Descriptor{MediaType: mediaType, Digest: named, Size: a.ContentLength}, nil
	}
	m, err := r.document(ctx, tag)
	switch {
	case err != nil:
		return ocispec.Descriptor{}, err
	case m == nil:
		return ocispec.Descriptor{}, r.absent("tag " + tag)
	}
	return ocispec.Descriptor{MediaType: m.typed(), Digest: digest.FromBytes(m.raw), Size: int64(len(m.raw))}, nil
}

// Manifest returns a manifest whose bytes have the digest, with its media type.
// Where there is none errdefs.IsNotFound holds for the error.
func (r *Repository) Manifest(ctx context.Context, d digest.Digest) (ocispec.Descriptor, []byte, error) {
	m, err := r.document(ctx, d.String())
	switch {
	case err != nil:
		return ocispec.Descriptor{}, nil, err
	case m == nil:
		return ocispec.Descriptor{}, nil, r.absent("manifest " + d.String())
	case d.Algorithm().FromBytes(m.raw) != d:
		return ocispec.Descriptor{}, nil, unavailable("%s answered another manifest than %s", r.registry.endpoint, d)
	}
	desc := ocispec.Descriptor{MediaType: m.typed(), Digest: d, Size: int64(len(m.raw))}
	if !importer.IsManifest(desc.MediaType) {
		return ocispec.Descriptor{}, nil, r.absent("manifest " + d.String() + " of a type that is known")
	}
	return desc, m.raw, nil
}

// typed returns the media type of a document: that which the registry says, or
// else what the document says itself.
func (m *manifest) typed() string {
	if importer.IsManifest(m.mediaType) {
		return m.mediaType
	}
	var document struct {
		MediaType string `json:"mediaType"`
	}
	_ = json.Unmarshal(m.raw, &document) // what is none has no type
	return document.MediaType
}

// Blob returns the descriptor of a blob. Where there is none errdefs.IsNotFound
// holds for the error.
func (r *Repository) Blob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	a, err := r.do(ctx, request{method: http.MethodHead, path: "blobs/" + d.String()})
	switch {
	case err != nil:
		return ocispec.Descriptor{}, err
	case a.absent(d.String()):
		return ocispec.Descriptor{}, r.absent("blob " + d.String())
	case !a.is(http.StatusOK):
		return ocispec.Descriptor{}, r.registry.refused(a, "looking for "+d.String())
	case a.ContentLength < 0:
		return ocispec.Descriptor{}, unavailable("%s does not say how large %s is", r.registry.endpoint, d)
	}
	return ocispec.Descriptor{Digest: d, Size: a.ContentLength}, nil
}

// ReadBlob reads size bytes of a blob from an offset, as they come. Who reads all of
// the blob and gets to the end has read what has the digest; of a part nothing is
// verified. Content of another length or digest is an error for which
// errdefs.IsFailedPrecondition holds.
func (r *Repository) ReadBlob(ctx context.Context, desc ocispec.Descriptor, offset, size int64) (io.ReadCloser, error) {
	return r.read(ctx, "blobs", desc, offset, size)
}

// ReadManifest is ReadBlob for a manifest: registries know no parts of those, so that
// what lies before is read and dropped.
func (r *Repository) ReadManifest(ctx context.Context, desc ocispec.Descriptor, offset, size int64) (io.ReadCloser, error) {
	return r.read(ctx, "manifests", desc, offset, size)
}

func (r *Repository) read(ctx context.Context, among string, desc ocispec.Descriptor, offset, size int64) (io.ReadCloser, error) {
	q := request{method: http.MethodGet, path: among + "/" + desc.Digest.String(), header: http.Header{}, open: true}
	maps.Copy(q.header, accepting(among))
	whole := offset == 0 && size == desc.Size
	if !whole {
		q.header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+size-1))
	}
	a, err := r.do(ctx, q)
	switch {
	case err != nil:
		return nil, err
	case a.absent(desc.Digest.String()):
		return nil, r.absent(desc.Digest.String())
	case !a.is(http.StatusOK) && (whole || !a.is(http.StatusPartialContent)):
		if a.is(http.StatusPartialContent) {
			a.Body.Close()
		}
		return nil, r.registry.refused(a, "reading "+desc.Digest.String())
	}
	body := &blobBody{body: a.Body, failed: func(err error) error { return r.registry.failed(ctx, err) }}
	switch {
	case whole:
		body.Reader = newVerifier(desc, body.body)
		return body, nil
	case a.is(http.StatusPartialContent):
		if !strings.HasPrefix(a.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			_ = body.Close() // it was only read
			return nil, unavailable("%s answered another part of %s than it was asked for", r.registry.endpoint, desc.Digest)
		}
	default: // it does not know ranges
		if _, err := io.CopyN(io.Discard, body.body, offset); err != nil {
			_ = body.Close() // it was only read
			return nil, body.failed(err)
		}
	}
	body.Reader = io.LimitReader(body.body, size)
	return body, nil
}

// blobBody is a blob, or a part of one, as it comes.
type blobBody struct {
	io.Reader // of body
	body      io.ReadCloser
	failed    func(error) error
}

// Read reads what is asked for. That the connection failed is told in the words of
// this package.
func (b *blobBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errdefs.IsFailedPrecondition(err) {
		err = b.failed(err)
	}
	return n, err
}

// Close ends it. A connection that has more to say is not used again.
func (b *blobBody) Close() error { return b.body.Close() }

// Tags returns the tags of the repository, in lexical order. Where there is no such
// repository errdefs.IsNotFound holds for the error.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var all []string
	found, err := r.pages(ctx, "tags/list", url.Values{"n": {fmt.Sprint(tagsPerPage)}}, nil, func(raw []byte) error {
		var page struct {
			Tags []string `json:"tags"`
		}
		if json.Unmarshal(raw, &page) != nil {
			return unavailable("%s answered what is no list of tags", r.registry.endpoint)
		}
		for _, tag := range page.Tags {
			if tagPattern.MatchString(tag) {
				all = append(all, tag)
			}
		}
		if len(all) > maxTags {
			return unavailable("%s has more than %d tags in %s", r.registry.endpoint, maxTags, r.path)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, r.absent("tags")
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Referrers returns the manifests of the repository whose subject is a digest, by
// the referrers API or, where the registry has none, by the tag that the OCI
// distribution specification has for it.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	if known, ok := r.registry.referrers.Get(struct{}{}); !ok || known.(bool) {
		size := int64(0)
		offered, err := r.pages(ctx, "referrers/"+subject.String(), nil, http.Header{"Accept": {ocispec.MediaTypeImageIndex}}, func(raw []byte) error {
			var page ocispec.Index
			if json.Unmarshal(raw, &page) != nil {
				return unavailable("%s answered what is no list of referrers", r.registry.endpoint)
			}
			all = append(all, page.Manifests...)
			if size += int64(len(raw)); size > r.registry.options.MaxManifestBytes || len(all) > maxReferrers {
				return unavailable("the list of what refers to %s is larger than %d bytes", subject, r.registry.options.MaxManifestBytes)
			}
			return nil
		})
		switch {
		case err != nil:
			return nil, err
		case offered:
			r.registry.referrers.Add(struct{}{}, true, referrersFor)
			return identified(all), nil
		}
	}
	// What clients keep under that tag may be anything.
	found, err := r.document(ctx, importer.ReferrersTag(subject))
	var index ocispec.Index
	if err != nil || found == nil || found.mediaType != ocispec.MediaTypeImageIndex || json.Unmarshal(found.raw, &index) != nil {
		return nil, err
	}
	return identified(index.Manifests), nil
}

// identified keeps of descriptors what a list of referrers has, and leaves out what
// is none.
func identified(all []ocispec.Descriptor) []ocispec.Descriptor {
	var kept []ocispec.Descriptor
	for _, d := range all {
		if d.Digest.Validate() == nil && d.Size >= 0 && importer.IsManifest(d.MediaType) {
			kept = append(kept, ocispec.Descriptor{
				MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType, Annotations: d.Annotations,
			})
		}
	}
	return kept
}

// pages reads a list to its end. It reports whether there is such a list.
func (r *Repository) pages(ctx context.Context, path string, query url.Values, header http.Header, each func(raw []byte) error) (bool, error) {
	for range maxPages {
		a, err := r.do(ctx, request{method: http.MethodGet, path: path, query: query, header: header, limit: r.registry.options.MaxManifestBytes})
		switch {
		case err != nil:
			return false, err
		case a.is(http.StatusNotFound, http.StatusGone, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented):
			return false, nil
		case !a.is(http.StatusOK):
			return false, r.registry.refused(a, path)
		}
		if err := each(a.body); err != nil {
			return false, err
		}
		if query, err = url.ParseQuery(importer.NextPage(a.Header)); err != nil {
			return false, unavailable("%s does not say where %s goes on", r.registry.endpoint, path)
		}
		if len(query) == 0 {
			return true, nil
		}
	}
	return false, unavailable("%s has %s go on for more than %d pages", r.registry.endpoint, path, maxPages)
}
