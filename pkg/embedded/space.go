// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// checkSpaceEvery is how many bytes are written between two looks at the disk.
const checkSpaceEvery = 8 << 20

// checkSpace returns an error that wraps unix.ENOSPC when size more bytes would
// use up the reserve of the store's disk.
func (s *Store) checkSpace(size int64) error {
	free, err := freeBytes(s.dir)
	if err != nil {
		return err
	}
	if free-size < s.reserve {
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
// or what the namespace of ctx may have.
func (s *Store) bounded(ctx context.Context, r io.Reader) io.Reader {
	return &spaceReader{Reader: r, store: s, take: func(n int) error { return s.quota.take(ctx, int64(n)) }}
}

type spaceReader struct {
	io.Reader
	store     *Store
	take      func(n int) error
	unchecked int64
}

func (r *spaceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		if err := r.take(n); err != nil {
			return 0, err
		}
	}
	if r.unchecked += int64(n); r.unchecked >= checkSpaceEvery {
		r.unchecked = 0
		if err := r.store.checkSpace(0); err != nil {
			return 0, err
		}
	}
	return n, err
}
