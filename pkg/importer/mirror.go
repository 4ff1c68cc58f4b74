// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"tagger.dev/tagger/pkg/limit"
)

const (
	// maxConfigBytes is the largest config that is read for its platform.
	maxConfigBytes = 1 << 20
	// reportEvery is how many bytes of a blob pass between two reports.
	reportEvery = 1 << 20
)

// Mirrored is what was copied.
type Mirrored struct {
	// Size is that of all distinct blobs, in bytes. As in Resolved.Size and in
	// Progress, neither manifests nor layers that are not copied are counted.
	Size int64
	// Platforms are those that indexes name. That of a single image is read from
	// its config while that is copied; nil where the mirror had it already.
	Platforms []string
	// MediaType of the top-level document.
	MediaType string
}

// Progress of a Mirror, cumulative. What the mirror had already counts as done.
type Progress struct {
	Blobs, BlobsTotal int
	Bytes, BytesTotal int64
}

// Mirror copies res and everything below it, by digest: all platforms, every
// byte as it is, except layers that may not be distributed and have URLs of
// their own. Blobs that dst does not have and cannot link are streamed into it,
// several at once, without being kept here; then the manifests follow, each
// after all that it names, and the root last. Nothing is committed or tagged:
// that is the caller's, for it ends the protection of half-copied content.
//
// Progress may be nil. It is called when the total is known, at every MiB or so
// and at the end of every blob, never by two goroutines at once; the copy waits
// for it, so it has to return quickly.
//
// Equal blobs that several calls copy in one scope from one repository at the
// same time are fetched once. Errors are *Error. An unfinished copy leaves what
// it pushed, and the next one finds it there.
func (i *Importer) Mirror(ctx context.Context, src Source, res *Resolved, dst Destination, progress func(Progress)) (*Mirrored, error) {
	mirrored, err := i.mirror(ctx, src, res, dst, progress)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err() // not what it made fail first
	}
	return mirrored, i.about(src.Reference, err)
}

func (i *Importer) mirror(ctx context.Context, src Source, res *Resolved, dst Destination, progress func(Progress)) (*Mirrored, error) {
	s, err := i.open(ctx, src)
	if err != nil {
		return nil, err
	}
	root, err := s.root(ctx, res)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(ctx, root)
	if err != nil {
		return nil, err
	}
	c := &copying{session: s, dst: dst, plan: p, meter: newMeter(progress, p)}
	if root.config != nil && isImageConfig(root.config.MediaType) && root.config.Size <= maxConfigBytes {
		c.wanted = root.config.Digest
	}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	mirrored := &Mirrored{Size: p.size, Platforms: p.platforms(), MediaType: root.self.MediaType}
	if name := ConfigPlatform(c.config.Bytes()); name != "" {
		mirrored.Platforms = []string{name}
	}
	return mirrored, nil
}

// copying is one copy of what is planned.
type copying struct {
	*session
	dst   Destination
	plan  *plan
	meter *meter
	// wanted is the config of a single image, which is kept in config as far as it
	// passes through here.
	wanted digest.Digest
	config bytes.Buffer
}

// run copies the blobs, then the manifests.
func (c *copying) run(ctx context.Context) error {
	if err := c.copyBlobs(ctx); err != nil {
		return err
	}
	return c.copyManifests(ctx)
}

func (c *copying) copyBlobs(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.options.StreamsPerHost)
	for _, d := range c.plan.blobs {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return c.copyBlob(ctx, d) })
	}
	return g.Wait()
}

// copyBlob lets one of several equal downloads go first; the others then find
// the blob by Mount, for their destinations may be different repositories.
func (c *copying) copyBlob(ctx context.Context, d ocispec.Descriptor) error {
	turn, err := c.blobs.Acquire(ctx, c.src.Scope+" "+c.src.Reference.WithDigest(d.Digest))
	if err != nil {
		return err
	}
	defer turn()
	held, err := c.dst.Mount(ctx, identity(d))
	if err != nil {
		return DestinationFailure(err)
	}
	if held {
		c.meter.blob(d.Size)
		return nil
	}
	r := &blobReader{desc: d, meter: c.meter, host: c.src.Reference.Endpoint()}
	if d.Digest == c.wanted {
		r.copy = &c.config
	}
	if inlined(d) {
		r.body = bytes.NewReader(d.Data)
	} else {
		body, done, err := c.stream(ctx, d)
		if err != nil {
			return err
		}
		defer done()
		r.body = body
	}
	if err := r.verdict(c.dst.Push(ctx, identity(d), r)); err != nil {
		return err
	}
	c.meter.blob(d.Size - r.count)
	return nil
}

// stream begins to read a blob, once there is a place for another stream of the
// host, of the scope and of the process. Done gives them back.
func (c *copying) stream(ctx context.Context, d ocispec.Descriptor) (body io.Reader, done func(), err error) {
	release, err := limit.AcquireAll(ctx,
		limit.Place{Of: c.shares, Key: c.src.Scope}, // first: who waits for its share keeps nobody else
		limit.Place{Of: c.hosts, Key: c.src.Reference.Registry()},
		limit.Place{Of: c.streams})
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.do(ctx, http.MethodGet, object{"blobs", d.Digest.String(), ""}) //nolint:bodyclose // the caller closes the body that is returned
	if err != nil {
		release()
		return nil, nil, err
	}
	return resp.Body, func() { resp.Body.Close(); release() }, nil
}

func (c *copying) copyManifests(ctx context.Context) error {
	for _, group := range c.plan.heights() {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(c.options.StreamsPerHost)
		for _, m := range group {
			g.Go(func() error {
				if err := c.dst.Push(ctx, m.self, bytes.NewReader(m.raw)); err != nil {
					return DestinationFailure(err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// identity returns the part of a descriptor that identifies content.
func identity(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// blobReader reads a blob of the source for a Destination. It keeps the books
// that tell the source's failures from the destination's: the hash is checked
// by the destination alone, since hashing twice would cost as much as copying.
type blobReader struct {
	desc  ocispec.Descriptor
	body  io.Reader
	host  string
	meter *meter
	copy  *bytes.Buffer // nil: not wanted

	count int64
	err   error // of the source, once there is one
}

func (r *blobReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.body.Read(p)
	if excess := r.count + int64(n) - r.desc.Size; excess > 0 {
		n -= int(excess)
		err = failure(DigestMismatch, nil, "blob %s: %s sent more than its %d bytes; %s", r.desc.Digest, r.host, r.desc.Size, whenChanged)
	}
	r.count += int64(n)
	r.meter.bytes(int64(n))
	if r.copy != nil {
		r.copy.Write(p[:n])
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF) && r.count < r.desc.Size:
		err = failure(Unavailable, io.ErrUnexpectedEOF, "blob %s: %s closed the connection after %d of %d bytes", r.desc.Digest, r.host, r.count, r.desc.Size)
	case errors.Is(err, io.EOF):
		return n, io.EOF
	}
	r.err = classify(err, r.host)
	return n, r.err
}

// verdict says whose failure the error of a Push is.
func (r *blobReader) verdict(err error) error {
	switch {
	case err == nil:
		return nil
	case r.err != nil:
		return r.err
	case r.count == r.desc.Size && (errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err)):
		return failure(DigestMismatch, err, "blob %s: %s sent other content; %s", r.desc.Digest, r.host, whenChanged)
	}
	return DestinationFailure(err)
}

// meter counts what was copied. Its methods may be called concurrently.
type meter struct {
	report func(Progress)

	mu         sync.Mutex
	done       Progress
	unreported int64
}

// newMeter reports the totals of p.
func newMeter(report func(Progress), p *plan) *meter {
	if report == nil {
		report = func(Progress) {}
	}
	m := &meter{report: report, done: Progress{BlobsTotal: len(p.blobs), BytesTotal: p.size}}
	report(m.done)
	return m
}

// bytes counts a part of a blob.
func (m *meter) bytes(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done.Bytes += n
	if m.unreported += n; m.unreported >= reportEvery {
		m.unreported = 0
		m.report(m.done)
	}
}

// blob counts a whole one, of which rest bytes were not counted before.
func (m *meter) blob(rest int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done.Blobs++
	m.done.Bytes += rest
	m.unreported = 0
	m.report(m.done)
}
