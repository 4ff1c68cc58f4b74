// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// Stream is a Content that lies elsewhere: it is read from front to back, where
// each ReadAt would be a request of its own.
type Stream interface {
	Content
	// Open reads size bytes from an offset, and ends then. Who reads the whole content
	// to its end has read what has the digest.
	Open(offset, size int64) (io.ReadCloser, error)
}

// Open reads size bytes of content from an offset, by one request where it lies
// elsewhere.
func Open(content Content, offset, size int64) (io.ReadCloser, error) {
	if elsewhere, ok := content.(Stream); ok {
		return elsewhere.Open(offset, size)
	}
	return io.NopCloser(io.NewSectionReader(content, offset, size)), nil
}

// serveStream sends content that lies elsewhere. For as long as nothing was read of
// it a failure is answered as any other.
func serveStream(w http.ResponseWriter, r *http.Request, content Stream) {
	source := &streamed{Stream: content, size: content.Descriptor().Size, header: w.Header()}
	defer source.closeBody()
	late := &lateWriter{ResponseWriter: w}
	http.ServeContent(late, withoutRanges(r), "", time.Time{}, source)
	switch {
	case source.err == nil:
		late.begin()
		return
	case r.Context().Err() == nil: // a caller that went away is no failure
		klog.FromContext(r.Context()).Error(source.err, "Reading content failed", "digest", content.Descriptor().Digest)
	}
	if late.begun {
		panic(http.ErrAbortHandler) // as in serveContent
	}
	for _, key := range []string{"Accept-Ranges", "Content-Range", "Docker-Content-Digest", "Etag"} {
		w.Header().Del(key)
	}
	writeError(w, source.err)
}

// lateWriter sends the header of an answer with the first byte of its body.
type lateWriter struct {
	http.ResponseWriter
	status int
	begun  bool
}

// WriteHeader implements http.ResponseWriter.
func (l *lateWriter) WriteHeader(status int) { l.status = status }

// Write implements http.ResponseWriter.
func (l *lateWriter) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.begin()
	}
	return l.ResponseWriter.Write(p)
}

// begin sends the header, once.
func (l *lateWriter) begin() {
	if !l.begun {
		l.begun = true
		l.ResponseWriter.WriteHeader(l.status)
	}
}

// streamed lets http.ServeContent read a Stream, of which nothing is asked before
// something is read: HEAD reads nothing.
type streamed struct {
	Stream
	size int64
	// header is that of the answer, in which http.ServeContent has said how much it
	// is going to read.
	header http.Header
	offset int64
	body   io.ReadCloser // from offset on; nil: it is not open
	err    error
}

// Seek implements io.Seeker.
func (s *streamed) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.offset
	case io.SeekEnd:
		offset += s.size
	}
	if offset != s.offset && s.body != nil {
		_ = s.body.Close() // it was only read
		s.body = nil
	}
	s.offset = offset
	return offset, nil
}

// Read implements io.Reader.
func (s *streamed) Read(p []byte) (int, error) {
	if s.err != nil || s.offset >= s.size {
		return 0, io.EOF // err is told otherwise
	}
	if s.body == nil {
		size := s.size - s.offset
		if length, err := strconv.ParseInt(s.header.Get("Content-Length"), 10, 64); err == nil {
			size = min(size, length)
		}
		if s.body, s.err = s.Open(s.offset, size); s.err != nil {
			return 0, io.EOF
		}
	}
	n, err := s.body.Read(p)
	s.offset += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// closeBody closes what is open.
func (s *streamed) closeBody() {
	if s.body != nil {
		_ = s.body.Close() // it was only read
	}
}

// withoutRanges returns a request for all of the content where several parts of it
// are asked for, which RFC 9110 allows: each would be a request to where it lies.
func withoutRanges(r *http.Request) *http.Request {
	if !strings.Contains(r.Header.Get("Range"), ",") {
		return r
	}
	whole := *r
	whole.Header = r.Header.Clone()
	whole.Header.Del("Range")
	return &whole
}
