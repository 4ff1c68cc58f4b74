// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxLocation bounds where an upload goes on, in bytes: it is held by whoever
// uploads.
const maxLocation = 4 << 10

// Session is an upload at the registry, which may be gone on with by any process.
type Session struct {
	// Location is where it goes on: a path of the registry, with its query. The
	// registry alone says what it is; whoever sends something there does so with the
	// credentials of the mirror.
	Location string
	// Size is how many bytes the registry has, as far as is known.
	Size int64
}

// Endpoint is the host of the registry, by which sessions of one are told from those
// of another.
func (r *Repository) Endpoint() string { return r.registry.endpoint }

// Begin begins an upload, whose content will probably be of that algorithm.
func (r *Repository) Begin(ctx context.Context, algorithm digest.Algorithm) (Session, error) {
	q := request{method: http.MethodPost, path: "blobs/uploads/"}
	if algorithm != digest.Canonical {
		q.query = url.Values{"digest-algorithm": {algorithm.String()}}
	}
	a, err := r.do(ctx, q)
	switch {
	case err != nil:
		return Session{}, err
	case !a.is(http.StatusAccepted):
		return Session{}, r.registry.refused(a, "beginning to store a blob")
	}
	location, err := r.location(a)
	return Session{Location: location}, err
}

// location returns where an upload goes on, which is nowhere but at the registry.
func (r *Repository) location(a *answer) (string, error) {
	to, err := a.next()
	if err != nil || to.Host == "" {
		return "", unavailable("%s does not say where an upload goes on", r.registry.endpoint)
	}
	location := to.RequestURI()
	switch {
	case !strings.EqualFold(to.Host, r.registry.endpoint), to.Scheme != a.Request.URL.Scheme, to.User != nil, !strings.HasPrefix(location, "/"):
		return "", unavailable("%s has uploads go on at another host, which is not followed; check the address in %s", r.registry.endpoint, r.registry.config.Name)
	case len(location) > maxLocation:
		return "", unavailable("%s has an upload go on at a path of more than %d bytes", r.registry.endpoint, maxLocation)
	}
	return location, nil
}

// at returns the URL of a session.
func (r *Repository) at(s Session) (*url.URL, error) {
	to, err := url.ParseRequestURI(s.Location)
	if err != nil || to.Host != "" || to.Scheme != "" {
		return nil, fmt.Errorf("a location that is none of %s", r.registry.endpoint)
	}
	to.Scheme, to.Host = "https", r.registry.endpoint
	if r.registry.plain.Load() {
		to.Scheme = "http"
	}
	return to, nil
}

// Append sends a part of a blob, of size bytes or, where that is -1, as many as there
// are. It goes by as it comes. An error of the content is returned as it is.
func (r *Repository) Append(ctx context.Context, s Session, content io.Reader, size int64) (Session, error) {
	to, err := r.at(s)
	if err != nil {
		return s, err
	}
	part := newStream(content, size)
	q := request{method: http.MethodPatch, at: to, header: http.Header{}}
	if size > 0 {
		q.header.Set("Content-Range", fmt.Sprintf("%d-%d", s.Size, s.Size+size-1))
	}
	a, err := r.send(ctx, q, part)
	switch {
	case part.failure() != nil: // which the registry could not help
		return s, part.failure()
	case err != nil:
		return s, err
	case !a.is(http.StatusAccepted, http.StatusNoContent, http.StatusCreated, http.StatusOK):
		return s, r.registry.refused(a, "storing a part of a blob")
	}
	return r.progress(a, Session{s.Location, s.Size + part.count})
}

// progress is what an answer says of a session.
func (r *Repository) progress(a *answer, s Session) (Session, error) {
	if a.Header.Get("Location") != "" {
		location, err := r.location(a)
		if err != nil {
			return s, err
		}
		s.Location = location
	}
	// 0-0 is of one byte, or of none.
	value := strings.TrimPrefix(a.Header.Get("Range"), "bytes=")
	if end, ok := strings.CutPrefix(value, "0-"); ok {
		if last, err := strconv.ParseUint(end, 10, 62); err == nil && (last > 0 || s.Size > 1) {
			s.Size = int64(last) + 1
		}
	}
	return s, nil
}

// Finish sends the rest of a blob, as Append does, and makes it one of the
// repository. That the content has the digest is for the registry to see to.
func (r *Repository) Finish(ctx context.Context, s Session, content io.Reader, size int64, d digest.Digest) error {
	to, err := r.at(s)
	if err != nil {
		return err
	}
	rest := newStream(content, size)
	err = r.finish(ctx, to, rest, d)
	if own := rest.failure(); own != nil {
		return own
	}
	return err
}

// Status asks how far an upload is.
func (r *Repository) Status(ctx context.Context, s Session) (Session, error) {
	to, err := r.at(s)
	if err != nil {
		return s, err
	}
	a, err := r.do(ctx, request{method: http.MethodGet, at: to})
	switch {
	case err != nil:
		return s, err
	case !a.is(http.StatusNoContent, http.StatusOK, http.StatusAccepted):
		return s, r.registry.refused(a, "looking for an upload")
	}
	return r.progress(a, s)
}

// Cancel gives an upload up. One that is gone, or that the registry does not let
// anybody end, is no error.
func (r *Repository) Cancel(ctx context.Context, s Session) error {
	to, err := r.at(s)
	if err != nil {
		return err
	}
	_, err = r.do(ctx, request{method: http.MethodDelete, at: to})
	return err
}

// MountFrom has the repository hold a blob that another one of the same namespace
// holds, and reports whether it does.
func (r *Repository) MountFrom(ctx context.Context, from *Repository, d digest.Digest) (bool, error) {
	if r.namespace != from.namespace || r.registry != from.registry {
		return false, nil
	}
	// A registry that mounts from anywhere would give out what other namespaces have.
	desc, err := from.Blob(ctx, d)
	if err != nil || r.path == from.path {
		return err == nil, err
	}
	mounted, err := r.mount(ctx, desc, from.path)
	r.abandon(ctx, d)
	if mounted && d.Algorithm() != digest.Canonical { // distribution says so, and forgets its name
		mounted, err = r.has(ctx, "blobs", desc)
	}
	if mounted {
		r.holds(d)
	}
	return mounted, err
}
