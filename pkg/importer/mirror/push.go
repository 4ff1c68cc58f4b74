// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/importer"
)

// Push implements importer.Destination: a manifest is held in memory, a blob goes
// by in one request. Content of another length or digest is refused with
// errdefs.ErrFailedPrecondition, a descriptor that can be of nothing with
// errdefs.ErrInvalidArgument. What was sent of a blob that failed is for the
// registry to purge: distribution lets nobody end an upload of which it has a part.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, reader io.Reader) error {
	if err := desc.Digest.Validate(); err != nil || desc.Size < 0 {
		return fmt.Errorf("pushing to %s: the descriptor has no valid digest or size: %w", r.path, errdefs.ErrInvalidArgument)
	}
	content := newVerifier(desc, reader)
	push := r.pushBlob
	if importer.IsManifest(desc.MediaType) {
		push = r.pushManifest
	}
	err := push(ctx, content)
	if own := content.failure(); own != nil { // which the registry could not help
		err = own
	}
	if err != nil {
		return fmt.Errorf("pushing %s to %s: %w", desc.Digest, r.path, err)
	}
	return nil
}

func (r *Repository) pushManifest(ctx context.Context, content *verifier) error {
	if limit := r.registry.options.MaxManifestBytes; content.desc.Size > limit {
		return fmt.Errorf("a manifest of more than %d bytes: %w", limit, errdefs.ErrInvalidArgument)
	}
	raw, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	m := manifest{content.desc.Digest, content.desc.MediaType, raw}
	a, err := r.put(ctx, m.digest.String(), m)
	if err != nil {
		return err
	}
	r.remember(recent{manifest: m})
	return r.refer(ctx, m, a.Header.Get("OCI-Subject") != "", false) // an import looks again by Complete
}

func (r *Repository) pushBlob(ctx context.Context, content *verifier) error {
	session, err := r.session(ctx, content.desc.Digest)
	if err != nil {
		return err
	}
	if err := r.finish(ctx, session, newStream(content, content.desc.Size), content.desc.Digest); err != nil {
		return err
	}
	r.learnMounts(ctx, content.desc)
	return nil
}

// finish sends the rest of a blob, which ends its upload.
func (r *Repository) finish(ctx context.Context, session *url.URL, rest *stream, d digest.Digest) error {
	query := session.Query()
	query.Set("digest", d.String())
	session.RawQuery = query.Encode()
	a, err := r.send(ctx, request{method: http.MethodPut, at: session}, rest)
	switch {
	case err != nil:
		return err
	case !a.is(http.StatusCreated, http.StatusOK, http.StatusNoContent):
		return r.registry.refused(a, "storing blob "+d.String())
	case !rest.complete():
		return unavailable("%s says that it has blob %s, of which it did not take all", r.registry.endpoint, d)
	}
	r.holds(d)
	return nil
}

// send is do with a stream as the body.
func (r *Repository) send(ctx context.Context, q request, s *stream) (*answer, error) {
	q.stream = s
	if s.size == 0 { // by which net/http would mean an unknown length
		content := s.use()
		defer content.Close()
		extra, err := io.ReadAll(io.LimitReader(content, 1))
		switch {
		case err != nil:
			return nil, err
		case len(extra) > 0:
			return nil, mismatch("the content is longer than was said")
		}
		q.body, q.stream = extra, nil
	}
	return r.do(ctx, q)
}

// session returns where to send a blob: the upload that a refused mount began, or
// another.
func (r *Repository) session(ctx context.Context, d digest.Digest) (*url.URL, error) {
	r.mu.Lock()
	begun, ok := r.sessions[d]
	delete(r.sessions, d)
	r.mu.Unlock()
	if ok {
		return begun, nil
	}
	a, err := r.do(ctx, request{method: http.MethodPost, path: "blobs/uploads/"})
	if err != nil {
		return nil, err
	}
	if !a.is(http.StatusAccepted) {
		return nil, r.registry.refused(a, "beginning to store blob "+d.String())
	}
	next, err := a.next()
	if err != nil {
		return nil, unavailable("%s does not say where an upload goes on", r.registry.endpoint)
	}
	return next, nil
}

// learnMounts finds out, once for each registry, whether it mounts what a
// repository holds into that itself, and does not from one that is not there: what
// does is not to be believed, for it would give out what another namespace has.
// Failing, it is found out another time.
func (r *Repository) learnMounts(ctx context.Context, held ocispec.Descriptor) {
	known := &r.registry.mounts
	if !known.CompareAndSwap(mountsUnknown, mountsAsked) {
		return
	}
	defer r.abandon(ctx, held.Digest)
	learned := int32(mountsNo)
	mounted, err := r.mount(ctx, held, r.path)
	if mounted {
		r.abandon(ctx, held.Digest)
		var anything bool
		if anything, err = r.mount(ctx, held, r.path+"__none"); !anything { // no name can have a _
			learned = mountsYes
		}
	}
	if ctx.Err() != nil || err != nil && !isUnauthorized(err) {
		learned = mountsUnknown
	}
	known.Store(learned)
}

// abandon ends an upload that nobody needs. The registry forgets it otherwise.
func (r *Repository) abandon(ctx context.Context, d digest.Digest) {
	r.mu.Lock()
	begun, ok := r.sessions[d]
	delete(r.sessions, d)
	r.mu.Unlock()
	if ok {
		_, _ = r.do(ctx, request{method: http.MethodDelete, at: begun})
	}
}
