// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"tagger.dev/tagger/pkg/importer"
)

// Repository is one repository of a mirror as one import writes to it. Its methods
// may be called concurrently.
//
// Nothing protects content there from the registry's own collection of garbage
// before Commit: what that takes is missed by Complete, and copied again.
type Repository struct {
	registry  *Registry
	namespace string // of Kubernetes
	path      string

	mu sync.Mutex
	// sessions are uploads that were begun by mounts that were refused.
	sessions map[digest.Digest]*url.URL
}

var _ importer.Destination = (*Repository)(nil)

// manifest is one with all its bytes.
type manifest struct {
	digest    digest.Digest
	mediaType string
	raw       []byte
}

// do sends a request to this repository.
func (r *Repository) do(ctx context.Context, q request) (*answer, error) {
	q.repository = r.path
	return r.registry.do(ctx, q)
}

// Mount implements importer.Destination. Of a blob that the repository holds it
// learns by mounting it from the repository itself, where the registry does that;
// what is refused begins the upload, so that neither costs a request more. From
// another repository of the namespace it mounts what this process has seen there.
func (r *Repository) Mount(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if importer.IsManifest(desc.MediaType) {
		return r.has(ctx, "manifests", desc)
	}
	from := r.path
	if holder, ok := r.registry.holders.Get(holding{r.namespace, desc.Digest}); ok {
		from = holder.(string)
	}
	if from != r.path || r.registry.mounts.Load() == mountsYes {
		mounted, err := r.mount(ctx, desc, from)
		switch {
		case mounted:
			r.holds(desc.Digest)
			return true, nil
		case from == r.path, ctx.Err() != nil:
			return false, err
		}
		// The other repository has lost it, or may not be read.
		r.registry.holders.Remove(holding{r.namespace, desc.Digest})
	}
	held, err := r.has(ctx, "blobs", desc)
	if held {
		r.holds(desc.Digest)
		r.abandon(ctx, desc.Digest)
	}
	return held, err
}

// holds remembers that this repository holds a blob.
func (r *Repository) holds(d digest.Digest) {
	r.registry.holders.Add(holding{r.namespace, d}, r.path)
}

// has asks for a manifest or a blob.
func (r *Repository) has(ctx context.Context, among string, desc ocispec.Descriptor) (bool, error) {
	a, err := r.do(ctx, request{method: http.MethodHead, path: among + "/" + desc.Digest.String(), header: accepting(among)})
	switch {
	case err != nil:
		return false, err
	case a.absent(desc.Digest.String()):
		return false, nil
	case !a.is(http.StatusOK):
		return false, r.registry.refused(a, "looking for "+desc.Digest.String())
	}
	return a.ContentLength < 0 || a.ContentLength == desc.Size, nil
}

// accepting returns the header by which manifests are asked for.
func accepting(among string) http.Header {
	if among != "manifests" {
		return nil
	}
	return http.Header{"Accept": {strings.Join(importer.ManifestTypes(), ", ")}}
}

// mount asks to mount a blob from a repository. What is refused begins an upload,
// which is kept for Push.
func (r *Repository) mount(ctx context.Context, desc ocispec.Descriptor, from string) (bool, error) {
	q := request{
		method: http.MethodPost, path: "blobs/uploads/",
		query: url.Values{"mount": {desc.Digest.String()}, "from": {from}},
	}
	if from != r.path {
		q.also = scope{from, auth.ActionPull}
	}
	a, err := r.do(ctx, q)
	switch {
	case err != nil:
		return false, err
	case a.is(http.StatusCreated):
		return true, nil
	case a.is(http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented):
		return false, nil // a registry that does not know mounts at all
	case !a.is(http.StatusAccepted):
		return false, r.registry.refused(a, "mounting "+desc.Digest.String())
	}
	session, err := a.next()
	if err != nil {
		return false, unavailable("%s does not say where an upload goes on", r.registry.endpoint)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[desc.Digest] = session
	return false, nil
}

// Commit implements importer.Destination. The registry has checked that all is
// there which a manifest names, when that was pushed. A digest that is not there is
// an error for which errdefs.IsFailedPrecondition holds.
//
// That a tag protects what lies below it is for the registry to see to. The
// collector of distribution 2, told to delete what has no tag, takes the manifests
// below a tagged index all the same; Complete finds that out.
func (r *Repository) Commit(ctx context.Context, tags map[string]digest.Digest) error {
	for tag, d := range tags {
		if err := r.tag(ctx, tag, d); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) tag(ctx context.Context, tag string, d digest.Digest) error {
	pushed, ok := r.registry.recent.Get(r.path)
	m, _ := pushed.(recent)
	if !ok || m.digest != d || slices.Contains(m.tags, tag) {
		if tagged, err := r.tagged(ctx, tag, d); err != nil || tagged {
			return err
		}
	}
	if m.digest != d {
		found, err := r.manifest(ctx, d)
		if err != nil {
			return err
		}
		if found == nil {
			return importer.NewError(importer.MirrorUnavailable, fmt.Errorf("tagging %s: %w", d, errdefs.ErrFailedPrecondition),
				"%s has not got %s; import it again", r.registry.endpoint, d)
		}
		m = recent{manifest: *found}
	}
	if _, err := r.store(ctx, m.manifest, []string{tag}); err != nil {
		return err
	}
	r.remember(recent{m.manifest, append(slices.Clip(m.tags), tag)})
	return nil
}

// recent is the manifest of a repository that was written last, with the tags that
// it got since: the first tags after it cost no look.
type recent struct {
	manifest
	tags []string
}

func (r *Repository) remember(m recent) {
	if len(m.raw) <= maxRecentBytes {
		r.registry.recent.Add(r.path, m)
	}
}

// tagged reports whether a tag points to a digest, as far as the registry tells.
func (r *Repository) tagged(ctx context.Context, tag string, d digest.Digest) (bool, error) {
	a, err := r.do(ctx, request{method: http.MethodHead, path: "manifests/" + tag, header: accepting("manifests")})
	if err != nil {
		return false, err
	}
	return a.is(http.StatusOK) && a.Header.Get("Docker-Content-Digest") == d.String(), nil
}

// manifest returns one by its digest, verified; nil where the repository has none.
func (r *Repository) manifest(ctx context.Context, d digest.Digest) (*manifest, error) {
	found, err := r.document(ctx, d.String())
	if err != nil || found == nil || d.Algorithm().FromBytes(found.raw) != d {
		return nil, err
	}
	found.digest = d
	return found, nil
}

// document returns what is under a tag or digest; nil where nothing is.
func (r *Repository) document(ctx context.Context, name string) (*manifest, error) {
	a, err := r.do(ctx, request{
		method: http.MethodGet, path: "manifests/" + name, header: accepting("manifests"), limit: r.registry.options.MaxManifestBytes,
	})
	switch {
	case err != nil:
		return nil, err
	case a.absent(name):
		return nil, nil
	case !a.is(http.StatusOK):
		return nil, r.registry.refused(a, "manifest "+name)
	}
	mediaType, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		mediaType = "" // the document may say what it is
	}
	return &manifest{mediaType: mediaType, raw: a.body}, nil
}

// put stores a manifest under a tag or digest, and asks for tags beside it.
func (r *Repository) put(ctx context.Context, name string, m manifest, tags ...string) (*answer, error) {
	a, err := r.do(ctx, request{
		method: http.MethodPut, path: "manifests/" + name, query: url.Values{"tag": tags}, header: http.Header{"Content-Type": {m.mediaType}}, body: m.raw,
	})
	if err != nil {
		return nil, err
	}
	if !a.is(http.StatusCreated, http.StatusOK, http.StatusNoContent) {
		return nil, r.registry.refused(a, "storing manifest "+name)
	}
	return a, nil
}

// maxLookedAt is how many tags Tagged asks for.
const maxLookedAt = 1000

// Tagged implements importer.Destination. It is a request for each tag.
func (r *Repository) Tagged(ctx context.Context, digests []digest.Digest, leftOut func(tag string) bool) ([]digest.Digest, error) {
	tags, err := r.Tags(ctx)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	tags = slices.DeleteFunc(tags, leftOut)
	if len(tags) > maxLookedAt {
		return digests, nil
	}
	named := []digest.Digest{}
	for _, tag := range tags {
		desc, err := r.Resolve(ctx, tag)
		switch {
		case errdefs.IsNotFound(err): // deleted meanwhile
		case err != nil:
			return nil, err
		case slices.Contains(digests, desc.Digest) && !slices.Contains(named, desc.Digest):
			if named = append(named, desc.Digest); len(named) == len(digests) {
				return named, nil
			}
		}
	}
	return named, nil
}

// Untag implements importer.Destination. Where the registry does not let tags be
// deleted errdefs.IsNotImplemented holds for the error, and they stay.
func (r *Repository) Untag(ctx context.Context, tags ...string) error {
	var errs []error
	for _, tag := range tags {
		a, err := r.do(ctx, request{
			method: http.MethodDelete, path: "manifests/" + tag, also: scope{r.path, auth.ActionDelete},
		})
		switch {
		case err != nil:
			return err
		case a.is(http.StatusAccepted, http.StatusOK, http.StatusNoContent, http.StatusNotFound, http.StatusGone):
		case a.is(http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented):
			errs = append(errs, importer.NewError(importer.MirrorUnavailable, fmt.Errorf("%d: %w", a.StatusCode, errdefs.ErrNotImplemented),
				"%s does not let the tag %s be deleted, which stays", r.registry.endpoint, tag))
		default:
			return r.registry.refused(a, "deleting the tag "+tag)
		}
	}
	return errors.Join(errs...)
}
