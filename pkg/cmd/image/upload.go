// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// A pusher is a repository that is pushed to. A blob that broke off goes on, when it is pushed again, with what the registry has not got.
type pusher struct {
	*remote.Repository

	lock  sync.Mutex // of what follows
	begun map[godigest.Digest]*url.URL
}

func newPusher(repository *remote.Repository) *pusher {
	return &pusher{Repository: repository, begun: map[godigest.Digest]*url.URL{}}
}

// tornError is of an upload that went on and is refused: it is begun anew.
type tornError struct{ error }

func (e *tornError) Unwrap() error { return e.error }

// Push implements content.Pusher: POST, and PUT of all of a blob; or, where that broke off, GET and PUT of the rest.
func (p *pusher) Push(ctx context.Context, blob ocispec.Descriptor, content io.Reader) error {
	if isManifest(blob) {
		return p.Repository.Push(ctx, blob, content)
	}
	at, offset, err := p.resume(ctx, blob)
	if err == nil && at == nil {
		at, err = p.begin(ctx, blob)
	}
	if err != nil {
		return err
	}
	if offset > 0 {
		if err := skip(content, offset); err != nil {
			return err
		}
	}
	err = p.finish(ctx, at, blob, offset, content)
	if refusal := (*errcode.ErrorResponse)(nil); offset > 0 && errors.As(err, &refusal) && !heals(refusal.StatusCode) {
		p.note(blob.Digest, nil)
		switch refusal.StatusCode {
		case http.StatusBadRequest, http.StatusRequestedRangeNotSatisfiable: // of the upload, or of the digest of it all
			return &tornError{err}
		}
	}
	return err
}

// begin begins to push a blob, and returns where it goes on.
func (p *pusher) begin(ctx context.Context, blob ocispec.Descriptor) (*url.URL, error) {
	scheme := "https"
	if p.PlainHTTP {
		scheme = "http"
	}
	uploads := &url.URL{Scheme: scheme, Host: p.Reference.Host(), Path: "/v2/" + p.Reference.Repository + "/blobs/uploads/"}
	answer, err := p.ask(ctx, http.MethodPost, uploads)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		return nil, refusedBy(answer)
	}
	at, err := nextOf(answer)
	p.note(blob.Digest, at)
	return at, err
}

// resume returns where a blob goes on that broke off, and how much of it is there; nil where it is to be begun.
func (p *pusher) resume(ctx context.Context, blob ocispec.Descriptor) (*url.URL, int64, error) {
	p.lock.Lock()
	at := p.begun[blob.Digest]
	p.lock.Unlock()
	if at == nil {
		return nil, 0, nil
	}
	answer, err := p.ask(ctx, http.MethodGet, at)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	if heals(answer.StatusCode) {
		return nil, 0, refusedBy(answer)
	}
	at, err = nextOf(answer)
	last, rangeErr := strconv.ParseInt(strings.TrimPrefix(answer.Header.Get("Range"), "0-"), 10, 64)
	// 0-0 is of one byte, or of none.
	if answer.StatusCode != http.StatusNoContent || err != nil || rangeErr != nil || last <= 0 || last >= blob.Size {
		p.note(blob.Digest, nil)
		return nil, 0, nil
	}
	p.note(blob.Digest, at)
	return at, last + 1, nil
}

// finish sends what is missing of a blob, and says that this is all.
func (p *pusher) finish(ctx context.Context, at *url.URL, blob ocispec.Descriptor, offset int64, content io.Reader) error {
	to, query := *at, at.Query()
	query.Set("digest", blob.Digest.String())
	to.RawQuery = query.Encode()
	rest := blob.Size - offset
	if rest == 0 {
		content = http.NoBody
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, to.String(), content)
	if err != nil {
		return err
	}
	request.ContentLength = rest
	request.Header.Set("Content-Type", "application/octet-stream")
	if offset > 0 && rest > 0 {
		request.Header.Set("Content-Range", fmt.Sprintf("%d-%d", offset, blob.Size-1))
	}
	answer, err := p.Client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		return refusedBy(answer)
	}
	p.note(blob.Digest, nil)
	return nil
}

func (p *pusher) ask(ctx context.Context, method string, at *url.URL) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		return nil, err
	}
	return p.Client.Do(request)
}

// note notes where a blob goes on; nil where it does nowhere.
func (p *pusher) note(blob godigest.Digest, at *url.URL) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.begun[blob] = at
}

// nextOf returns where a registry has an upload go on, which is nowhere but there.
func nextOf(answer *http.Response) (*url.URL, error) {
	at, err := answer.Location()
	if err != nil {
		return nil, errors.New("the registry does not say where an upload goes on")
	}
	if asked := answer.Request.URL; at.Host != asked.Host || at.Scheme != asked.Scheme {
		return nil, errors.New("the registry has an upload go on at another host, which is not followed")
	}
	return at, nil
}

// refusedBy returns the error of an answer, as oras does of its own requests.
func refusedBy(answer *http.Response) error {
	refusal := &errcode.ErrorResponse{Method: answer.Request.Method, URL: answer.Request.URL, StatusCode: answer.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if json.NewDecoder(io.LimitReader(answer.Body, maxStatus)).Decode(&body) == nil {
		refusal.Errors = body.Errors
	}
	return refusal
}

// skip passes over the beginning of a blob.
func skip(content io.Reader, offset int64) error {
	if seeker, ok := content.(io.Seeker); ok {
		if _, err := seeker.Seek(offset, io.SeekStart); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	_, err := io.CopyN(io.Discard, content, offset)
	return err
}
