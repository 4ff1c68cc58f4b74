// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/utils/clock"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

const (
	// maxTries is how often a transfer is begun before it is given up. What was moved is not moved again, nor what came of a blob.
	maxTries = 4
	// maxManifest is how large a manifest may be, in bytes.
	maxManifest = 4 << 20
	// maxManifests is how many an image may have.
	maxManifests = 1000
	// firstPause is how long to wait before the second try; each later one is twice as long.
	firstPause = time.Second
)

// A transfer moves the graph of an image, and tells a display how far it is. It is read through, by several goroutines.
type transfer struct {
	source content.ReadOnlyStorage
	root   ocispec.Descriptor
	clock  clock.Clock

	lock      sync.Mutex // of what follows
	display   display
	manifests map[godigest.Digest][]byte
	children  map[godigest.Digest][]ocispec.Descriptor
	sizes     map[godigest.Digest]int64
	moved     map[godigest.Digest]int64
	progress  v1beta1.ImportProgress
}

// newTransfer looks at all manifests of an image, so that it is known how much is to be moved.
func newTransfer(ctx context.Context, source content.ReadOnlyStorage, root ocispec.Descriptor, display display, clock clock.Clock) (*transfer, error) {
	t := &transfer{
		source: source, root: root, clock: clock, display: display,
		manifests: map[godigest.Digest][]byte{}, children: map[godigest.Digest][]ocispec.Descriptor{},
		sizes: map[godigest.Digest]int64{}, moved: map[godigest.Digest]int64{},
	}
	err := t.retry(ctx, func() error { return t.look(ctx, root) })
	return t, err
}

// look notes a blob, and what it names.
func (t *transfer) look(ctx context.Context, blob ocispec.Descriptor) error {
	if _, known := t.children[blob.Digest]; known {
		return nil
	}
	children, err := content.Successors(ctx, t, blob) // of a manifest, which is kept
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := t.look(ctx, child); err != nil {
			return err
		}
	}
	t.children[blob.Digest] = children
	if _, known := t.sizes[blob.Digest]; !known {
		t.sizes[blob.Digest] = blob.Size
		t.progress.BlobsTotal++
		t.progress.BytesTotal += blob.Size
	}
	return nil
}

// total is how large the image is.
func (t *transfer) total() int64 { return t.progress.BytesTotal }

// Resolve implements oras.ReadOnlyTarget: all that is asked for is the image.
func (t *transfer) Resolve(context.Context, string) (ocispec.Descriptor, error) { return t.root, nil }

// Exists implements content.ReadOnlyStorage.
func (t *transfer) Exists(ctx context.Context, blob ocispec.Descriptor) (bool, error) {
	return t.source.Exists(ctx, blob)
}

// Fetch implements content.ReadOnlyStorage. Manifests are kept, and read once.
func (t *transfer) Fetch(ctx context.Context, blob ocispec.Descriptor) (io.ReadCloser, error) {
	if !isManifest(blob) {
		body, err := t.source.Fetch(ctx, blob)
		if err != nil {
			return nil, err
		}
		t.note(blob.Digest, 0)
		return &counted{ReadCloser: body, transfer: t, blob: blob}, nil
	}
	t.lock.Lock()
	body, known := t.manifests[blob.Digest]
	count := len(t.manifests)
	t.lock.Unlock()
	if !known {
		if blob.Size > maxManifest || count > maxManifests {
			return nil, fmt.Errorf("the manifest %s is larger than %d bytes, or one of more than %d", blob.Digest, maxManifest, maxManifests)
		}
		var err error
		if body, err = content.FetchAll(ctx, t.source, blob); err != nil {
			return nil, err
		}
		t.lock.Lock()
		t.manifests[blob.Digest] = body
		t.lock.Unlock()
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

func isManifest(blob ocispec.Descriptor) bool {
	switch blob.MediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, "application/vnd.oci.artifact.manifest.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	}
	return false
}

// push moves the image to a repository, where it gets a tag.
func (t *transfer) push(ctx context.Context, repository oras.Target, tag string) error {
	return t.move(ctx, func(options oras.CopyGraphOptions) error {
		_, err := oras.Copy(ctx, t, tag, repository, tag, oras.CopyOptions{CopyGraphOptions: options})
		return err
	})
}

// pull moves the image to a place on this machine.
func (t *transfer) pull(ctx context.Context, storage content.Storage) error {
	return t.move(ctx, func(options oras.CopyGraphOptions) error {
		return oras.CopyGraph(ctx, t, storage, t.root, options)
	})
}

func (t *transfer) move(ctx context.Context, do func(oras.CopyGraphOptions) error) error {
	options := oras.CopyGraphOptions{
		Concurrency: streams, MaxMetadataBytes: maxManifest,
		PostCopy:      func(_ context.Context, blob ocispec.Descriptor) error { t.done(blob, false); return nil },
		OnCopySkipped: func(_ context.Context, blob ocispec.Descriptor) error { t.done(blob, true); return nil },
	}
	err := t.retry(ctx, func() error { return do(options) })
	if err == nil {
		t.done(t.root, true)
	}
	return err
}

// retry does something again that failed by what may heal by itself.
func (t *transfer) retry(ctx context.Context, do func() error) error {
	pause := firstPause
	for try := 1; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil || try == maxTries || !mayHeal(err) {
			return err
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			pause = max(pause, time.Duration(seconds)*time.Second)
		}
		t.say(fmt.Sprintf("%s; trying again in %s", why(err), pause))
		timer := t.clock.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C():
		}
		pause *= 2
	}
}

// mayHeal says whether it makes sense to try again.
func mayHeal(err error) bool {
	var op net.Error
	var answer *errcode.ErrorResponse
	var status apierrors.APIStatus
	switch torn := (*tornError)(nil); {
	case errors.As(err, &torn):
		return true
	case errors.As(err, &answer):
		// An upload that is gone, as some are with a server, is begun anew.
		return heals(answer.StatusCode) || saysCode(err, errcode.ErrorCodeBlobUploadUnknown)
	case errors.As(err, &status):
		return heals(int(status.Status().Code))
	case errors.As(err, &http2.StreamError{}), errors.As(err, &http2.GoAwayError{}), utilnet.IsHTTP2ConnectionLost(err): //nolint:staticcheck // of kube-apiserver, whose client gives no other
		return true
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return true
	case errors.As(err, &op):
		return op.Timeout() || unreachable(err)
	}
	return false
}

func heals(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// say writes a line that stays.
func (t *transfer) say(line string) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.display.say(line)
}

// note notes how much of a blob was moved.
func (t *transfer) note(blob godigest.Digest, bytes int64) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.progress.Bytes += bytes - t.moved[blob]
	t.moved[blob] = bytes
	t.display.move(t.progress)
}

// done notes that a blob is where it should be, and where it is skipped all that it names.
func (t *transfer) done(blob ocispec.Descriptor, below bool) {
	t.lock.Lock()
	defer t.lock.Unlock()
	var mark func(ocispec.Descriptor)
	mark = func(blob ocispec.Descriptor) {
		if size, missing := t.sizes[blob.Digest]; missing {
			delete(t.sizes, blob.Digest)
			t.progress.Bytes += size - t.moved[blob.Digest]
			t.moved[blob.Digest] = size
			t.progress.Blobs++
		}
		if below {
			for _, child := range t.children[blob.Digest] {
				mark(child)
			}
		}
	}
	mark(blob)
	t.display.move(t.progress)
}

// counted is a blob that is read. Where that breaks, and the source can begin in the middle, it goes on there.
type counted struct {
	io.ReadCloser
	transfer *transfer
	blob     ocispec.Descriptor
	offset   int64
	broken   int64 // where it broke last, plus one
}

// Seek implements io.Seeker, where the source can begin in the middle.
func (c *counted) Seek(offset int64, whence int) (int64, error) {
	seeker, ok := c.ReadCloser.(io.Seeker)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	at, err := seeker.Seek(offset, whence)
	if err == nil {
		c.offset = at
		c.transfer.note(c.blob.Digest, at)
	}
	return at, err
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		c.offset += int64(n)
		c.transfer.note(c.blob.Digest, c.offset)
	}
	if err == nil || errors.Is(err, io.EOF) && c.offset == c.blob.Size || !mayHeal(err) {
		return n, err
	}
	seeker, ok := c.ReadCloser.(io.Seeker)
	if !ok || c.broken == c.offset+1 { // nothing came since
		return n, err
	}
	c.broken = c.offset + 1
	// Elsewhere first: to where it is, it would not seek.
	if _, seekErr := seeker.Seek(0, io.SeekEnd); seekErr != nil {
		return n, err
	}
	if _, seekErr := seeker.Seek(c.offset, io.SeekStart); seekErr != nil {
		return n, err
	}
	return n, nil
}
