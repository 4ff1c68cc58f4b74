// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// stream is a blob, or a part of one, as the body of a request, which can be sent
// once: a second request with it is possible for as long as nothing was read.
type stream struct {
	r    io.Reader
	size int64 // -1 where it is not known
	read atomic.Bool
	uses sync.WaitGroup
	// count is how many bytes were read, err why no more are, io.EOF at the end.
	count int64
	err   error
}

func newStream(r io.Reader, size int64) *stream { return &stream{r: r, size: size} }

// begun reports whether something was read, also of no stream.
func (s *stream) begun() bool { return s != nil && s.read.Load() }

// attach makes s the body of a request.
func (s *stream) attach(req *http.Request) {
	req.ContentLength = s.size
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue")
	req.Body = s.use()
	req.GetBody = func() (io.ReadCloser, error) {
		if s.begun() {
			return nil, unavailable("%s wanted credentials anew when it had a part of a blob, which cannot be sent twice", req.URL.Host)
		}
		return s.use(), nil
	}
}

func (s *stream) use() io.ReadCloser {
	s.uses.Add(1)
	return &use{stream: s, done: sync.OnceFunc(s.uses.Done)}
}

// wait waits until nobody reads any more: a transport may do so for a while after
// it answered.
func (s *stream) wait() { s.uses.Wait() }

// failure returns why the content could not be read to its end, which the registry
// cannot help; nil where it was, or nobody tried. Nobody may be reading.
func (s *stream) failure() error {
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

// complete reports whether all was read.
func (s *stream) complete() bool { return errors.Is(s.err, io.EOF) }

// use is one request's part in a stream.
type use struct {
	*stream
	done func()
}

func (u *use) Read(p []byte) (int, error) {
	u.read.Store(true)
	n, err := u.r.Read(p)
	u.count += int64(n)
	if err != nil {
		u.err = err
	}
	return n, err
}

func (u *use) Close() error {
	u.done()
	return nil
}

func newVerifier(desc ocispec.Descriptor, r io.Reader) *verifier {
	return &verifier{r: r, desc: desc, hash: desc.Digest.Algorithm().Hash()}
}

// verifier passes on what it reads, and holds the last bytes back until it is
// known that none follow and that all have the digest: who gets all of the content
// gets the right one.
type verifier struct {
	r     io.Reader
	desc  ocispec.Descriptor
	hash  hash.Hash
	count int64
	// err is why the content is not passed on to its end, io.EOF once it was.
	err error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.count += int64(n)
	_, _ = v.hash.Write(p[:n]) // hashes never fail
	if err == nil && v.count == v.desc.Size {
		err = v.end()
	}
	switch {
	case v.count > v.desc.Size:
		err = mismatch("the content is longer than %d bytes", v.desc.Size)
	case !errors.Is(err, io.EOF):
	case v.count < v.desc.Size:
		err = mismatch("the content is shorter than %d bytes", v.desc.Size)
	case digest.NewDigest(v.desc.Digest.Algorithm(), v.hash) != v.desc.Digest:
		err = mismatch("the content has another digest than %s", v.desc.Digest)
	}
	v.err = err
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return n, err
}

// end reads past the last byte, where io.EOF is to be.
func (v *verifier) end() error {
	var one [1]byte
	for {
		n, err := v.r.Read(one[:])
		v.count += int64(n)
		if n > 0 || err != nil {
			return err
		}
	}
}

// failure returns why the content was not read to its end; nil where it was, and
// is what it should be. Nobody may be reading.
func (v *verifier) failure() error {
	if errors.Is(v.err, io.EOF) {
		return nil
	}
	return v.err
}
