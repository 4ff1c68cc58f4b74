// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// startUpload is POST /v2/<name>/blobs/uploads/: a mount, a whole blob at once, or the
// beginning of an upload, sections "Pushing Blobs" and "Mounting a blob from another
// repository".
func (h *handler) startUpload(ctx context.Context, r *http.Request, creds Credentials, req request) (func(http.ResponseWriter), error) {
	query := r.URL.Query()
	if query.Has("mount") {
		dgst, err := parseDigest(query.Get("mount"))
		if err != nil {
			return nil, err
		}
		switch err := h.mount(ctx, creds, req.repo, query.Get("from"), dgst); {
		case err == nil:
			return created(req.repo, "blobs", dgst), nil
		case !errors.Is(err, ErrBlobUnknown):
			return nil, err
		}
		// What cannot be mounted is uploaded.
	}
	algorithm, dgst, err := wanted(query.Get("digest"), query.Get("digest-algorithm"))
	if err != nil {
		return nil, err
	}
	if dgst != "" && !query.Has("mount") {
		if err := h.checkSize(r.ContentLength, 0); err != nil {
			return nil, err
		}
	}
	upload, err := h.backend.StartUpload(ctx, req.repo, algorithm)
	if err != nil {
		return nil, err
	}
	defer upload.Close()
	if dgst == "" || query.Has("mount") {
		return accepted(req.repo, upload), nil
	}
	if err := upload.Commit(ctx, h.bounded(r.Body, 0), r.ContentLength, dgst); err != nil {
		// Nobody knows of this upload, so that nobody goes on with it.
		return nil, errors.Join(bodyError(err), upload.Cancel(context.WithoutCancel(ctx)))
	}
	return created(req.repo, "blobs", dgst), nil
}

// wanted returns the digest that is to come, if it is known, and its algorithm.
func wanted(dgst, algorithm string) (digest.Algorithm, digest.Digest, error) {
	switch {
	case dgst != "":
		d, err := parseDigest(dgst)
		if err != nil {
			return "", "", err
		}
		return d.Algorithm(), d, nil
	case algorithm == "":
		return digest.Canonical, "", nil
	case algorithm != digest.SHA256.String() && algorithm != digest.SHA512.String():
		return "", "", ErrDigestInvalid
	}
	return digest.Algorithm(algorithm), "", nil
}

// mount has a repository hold what another one holds, if the caller may read that.
// Anything that stands against it is ErrBlobUnknown: the caller uploads the blob then.
func (h *handler) mount(ctx context.Context, creds Credentials, repo Repository, from string, dgst digest.Digest) error {
	source, err := ParseRepository(from)
	if err != nil { // none is named, or none that can be
		return ErrBlobUnknown
	}
	if _, err := h.authz.Authorize(ctx, creds, source, ActionPull); err != nil {
		if errors.Is(err, ErrDenied) || errors.Is(err, ErrInsufficientScope) {
			return ErrBlobUnknown // to be sent then
		}
		return err
	}
	if err := h.backend.Mount(ctx, repo, source, dgst); err != nil {
		if errors.Is(err, ErrNameUnknown) {
			return ErrBlobUnknown
		}
		return err
	}
	return nil
}

// upload is what is done with an upload that was begun.
func (h *handler) upload(ctx context.Context, header http.Header, r *http.Request, req request) (func(http.ResponseWriter), error) {
	var dgst digest.Digest
	if req.method == http.MethodPut {
		var err error
		if dgst, err = parseDigest(r.URL.Query().Get("digest")); err != nil {
			return nil, err
		}
	}
	upload, err := h.backend.ResumeUpload(ctx, req.repo, req.upload)
	if err != nil {
		return nil, err
	}
	defer upload.Close()
	switch req.method {
	case http.MethodDelete:
		if err := upload.Cancel(ctx); err != nil {
			return nil, err
		}
		return func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, nil
	case http.MethodPatch, http.MethodPut:
		length, err := h.checkChunk(r, upload.Size())
		if errors.Is(err, ErrRangeInvalid) {
			if refresh(ctx, upload) == nil {
				length, err = h.checkChunk(r, upload.Size())
			}
		}
		if err != nil {
			setProgress(header, req.repo, upload)
			return nil, err
		}
		body := h.bounded(r.Body, upload.Size())
		if r.ContentLength < 0 && length >= 0 {
			body = &chunkReader{body, length}
		}
		if req.method == http.MethodPut {
			if err := upload.Commit(ctx, body, length, dgst); err != nil {
				return nil, bodyError(err)
			}
			return created(req.repo, "blobs", dgst), nil
		}
		if err := upload.Append(ctx, body, length); err != nil {
			return nil, bodyError(err)
		}
		return accepted(req.repo, upload), nil
	default:
		if err := refresh(ctx, upload); err != nil {
			return nil, err
		}
		setProgress(header, req.repo, upload)
		return func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, nil
	}
}

// refresh has an upload say how much there is now.
func refresh(ctx context.Context, upload Upload) error {
	if elsewhere, ok := upload.(Refresher); ok {
		return elsewhere.Refresh(ctx)
	}
	return nil
}

// checkChunk refuses a chunk that does not continue an upload of that size, by its
// Content-Range, or that makes it too large. It returns how long it is to be, -1 where
// nothing says so.
func (h *handler) checkChunk(r *http.Request, size int64) (length int64, err error) {
	length = r.ContentLength
	if value := r.Header.Get("Content-Range"); value != "" {
		first, last, err := parseChunkRange(value)
		switch {
		case err != nil:
			return 0, err
		case first != size:
			return 0, ErrRangeInvalid
		case length >= 0 && length != last-first+1:
			return 0, Explain(ErrUploadInvalid, "Content-Range and Content-Length of the chunk do not agree")
		}
		length = last - first + 1
	}
	return length, h.checkSize(length, size)
}

// chunkReader fails where a chunk, whose length nothing but its Content-Range says, has
// another one. What came of it is the upload's, but no more than the range has.
type chunkReader struct {
	io.Reader
	room int64
}

func (c *chunkReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	switch {
	case int64(n) > c.room:
		n, err = int(c.room), Explain(ErrUploadInvalid, "the chunk is longer than its Content-Range says: ask by GET where the upload goes on")
	case errors.Is(err, io.EOF) && int64(n) < c.room:
		err = Explain(ErrUploadInvalid, "the chunk is shorter than its Content-Range says: ask by GET where the upload goes on")
	}
	c.room -= int64(n)
	return n, err
}

// parseChunkRange parses the Content-Range of a chunk: FIRST-LAST, which is not that
// of RFC 9110, and nothing else. Clients are known to write the unit as well.
func parseChunkRange(value string) (first, last int64, err error) {
	invalid := Explain(ErrUploadInvalid, "invalid Content-Range: it is FIRST-LAST, in bytes")
	value, _, _ = strings.Cut(strings.TrimPrefix(value, "bytes "), "/")
	from, to, ok := strings.Cut(value, "-")
	if !ok {
		return 0, 0, invalid
	}
	a, errA := strconv.ParseUint(from, 10, 62) // so that the length is a number as well
	b, errB := strconv.ParseUint(to, 10, 62)
	if errA != nil || errB != nil || b < a {
		return 0, 0, invalid
	}
	return int64(a), int64(b), nil
}

// accepted answers that an upload goes on.
func accepted(repo Repository, upload Upload) func(http.ResponseWriter) {
	id, size := upload.ID(), upload.Size()
	return func(w http.ResponseWriter) {
		writeProgress(w.Header(), repo, id, size)
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
	}
}

func setProgress(header http.Header, repo Repository, upload Upload) {
	writeProgress(header, repo, upload.ID(), upload.Size())
}

// writeProgress says where an upload goes on. That nothing was sent yet cannot be
// written as a range; 0-0 is what clients expect then.
func writeProgress(header http.Header, repo Repository, id string, size int64) {
	header.Set("Location", request{kind: kindUpload, repo: repo, upload: id}.path())
	header.Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
	header.Set("Docker-Upload-UUID", id)
}

// created answers that a blob or manifest is there.
func created(repo Repository, kind string, dgst digest.Digest) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Location", pathPrefix+repo.String()+"/"+kind+"/"+dgst.String())
		w.Header().Set("Docker-Content-Digest", dgst.String())
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusCreated)
	}
}
