// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// claimSize is how many bytes of the disk a writer claims at a time.
const claimSize = 1 << 20

// space is what may be written to the disk of the store beside its reserve. What writers
// have claimed and not written yet nobody else gets.
type space struct {
	dir     string
	reserve int64
	free    func(dir string) (int64, error)
	mu      sync.Mutex
	claimed int64
}

// check returns an error that wraps unix.ENOSPC when size more bytes would use up the
// reserve.
func (s *space) check(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fits(size)
}

// claim fails where check would.
func (s *space) claim(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fits(size); err != nil {
		return err
	}
	s.claimed += size
	return nil
}

func (s *space) unclaim(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimed -= size
}

// fits is called with mu held.
func (s *space) fits(size int64) error {
	free, err := s.free(s.dir)
	if err != nil {
		return err
	}
	if free-s.claimed-size < s.reserve {
		return fmt.Errorf("%d bytes are free, of which %d are kept for what else is written there: %w", free, s.reserve, unix.ENOSPC)
	}
	return nil
}

// freeBytes returns how much may still be written to the disk of a folder.
func freeBytes(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("looking how much space is left: %w", err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil //nolint:unconvert // the types differ between systems
}

// bounded returns r such that it ends when what is read of it would use up the reserve,
// or what the namespace of ctx may have. Done is called when nothing is read any more,
// and what was read is written.
func (s *Store) bounded(ctx context.Context, r io.Reader) (bounded io.Reader, done func()) {
	b := &spaceReader{Reader: r, space: &s.space, take: func(n int) error { return s.quota.take(ctx, int64(n)) }}
	return b, b.done
}

type spaceReader struct {
	io.Reader
	space *space
	take  func(n int) error
	// claimed are the bytes of its claim, left those of them that were not read.
	claimed, left int64
}

// Read implements io.Reader.
func (r *spaceReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		r.done()
		if err := r.space.claim(claimSize); err != nil {
			return 0, err
		}
		r.claimed, r.left = claimSize, claimSize
	}
	n, err := r.Reader.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if n > 0 {
		if err := r.take(n); err != nil {
			return 0, err
		}
	}
	return n, err
}

func (r *spaceReader) done() {
	r.space.unclaim(r.claimed)
	r.claimed = 0
}
