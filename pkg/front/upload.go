// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer/mirror"
)

// uploadDuration is how long an upload may take.
const uploadDuration = 24 * time.Hour

// upload is an upload at an external mirror. No process knows of it: where it is,
// and how far, its ID says, which is another one after each part. Two requests that
// go on with it at once are for the mirror to tell apart; the digest shows what comes
// of that.
type upload struct {
	*remote
	session mirror.Session
	begun   time.Time
	id      string
}

var _ distribution.Refresher = (*upload)(nil)

// StartUpload implements distribution.Backend.
func (r *remote) StartUpload(ctx context.Context, _ distribution.Repository, algorithm digest.Algorithm) (distribution.Upload, error) {
	session, err := r.repository.Begin(ctx, algorithm)
	if err != nil {
		return nil, failure(err)
	}
	u := &upload{remote: r, session: session, begun: r.front.config.Clock.Now()}
	return u, u.seal(ctx)
}

// ResumeUpload implements distribution.Backend.
func (r *remote) ResumeUpload(ctx context.Context, _ distribution.Repository, id string) (distribution.Upload, error) {
	s, err := r.front.config.Keys.open(ctx, r.name, id)
	if err != nil {
		return nil, err
	}
	begun := time.Unix(s.Begun, 0)
	if age := r.front.config.Clock.Since(begun); s.Endpoint != r.repository.Endpoint() || age > uploadDuration {
		return nil, fmt.Errorf("begun %s ago at another mirror, or too long ago: %w", age, distribution.ErrUploadUnknown)
	}
	return &upload{remote: r, session: mirror.Session{Location: s.Location, Size: s.Size}, begun: begun, id: id}, nil
}

// seal makes the ID.
func (u *upload) seal(ctx context.Context) error {
	var err error
	u.id, err = u.front.config.Keys.seal(ctx, u.name, state{
		Endpoint: u.repository.Endpoint(), Location: u.session.Location, Size: u.session.Size, Begun: u.begun.Unix(),
	})
	return err
}

// ID implements distribution.Upload.
func (u *upload) ID() string { return u.id }

// Size implements distribution.Upload.
func (u *upload) Size() int64 { return u.session.Size }

// Append implements distribution.Upload.
func (u *upload) Append(ctx context.Context, content io.Reader, size int64) error {
	if size == 0 {
		return nil
	}
	session, err := u.repository.Append(ctx, u.session, content, size)
	if err != nil {
		return u.failure(err)
	}
	u.session = session
	return u.seal(ctx)
}

// Commit implements distribution.Upload.
func (u *upload) Commit(ctx context.Context, content io.Reader, size int64, dgst digest.Digest) error {
	err := u.repository.Finish(ctx, u.session, content, size, dgst)
	kind, _ := refusal(err, distribution.ErrInternal)
	// Some say of the digest that it is invalid, and some of the upload.
	var refused *mirror.RefusalError
	if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest ||
		kind != distribution.ErrDigestInvalid && kind != distribution.ErrUploadInvalid {
		return u.failure(err)
	}
	return errors.Join(distribution.Explain(distribution.ErrDigestInvalid, "what was uploaded has another digest than %s, or one that the mirror does not know", dgst),
		err, u.Cancel(context.WithoutCancel(ctx)))
}

// Refresh implements distribution.Refresher: a request that failed may have left more
// at the mirror than the ID says.
func (u *upload) Refresh(ctx context.Context) error {
	session, err := u.repository.Status(ctx, u.session)
	if refused := (*mirror.RefusalError)(nil); errors.As(err, &refused) && refused.Status == http.StatusMethodNotAllowed {
		return nil // it does not tell
	}
	if err != nil {
		return u.failure(err)
	}
	u.session = session
	return u.seal(ctx)
}

// Cancel implements distribution.Upload. Of what the mirror does not let go it is for
// the mirror to get rid.
func (u *upload) Cancel(ctx context.Context) error {
	return failure(u.repository.Cancel(ctx, u.session))
}

// Close implements distribution.Upload.
func (*upload) Close() error { return nil }

// failure is what an error means that may be of the upload, or of the content.
func (u *upload) failure(err error) error {
	var refused *mirror.RefusalError
	kind, ok := refusal(err, distribution.ErrUploadInvalid)
	switch {
	case !ok:
		return failure(err)
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound, kind == distribution.ErrUploadInvalid && u.session.Size > 0:
		// Nobody can go on with it: distribution has ended one that is not where it
		// should be.
		return fmt.Errorf("%w: %w", distribution.ErrUploadUnknown, err)
	}
	return fmt.Errorf("%w: %w", kind, err)
}
