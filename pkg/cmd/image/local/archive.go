// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// maxLinks is how many links in a row are followed in an archive.
const maxLinks = 10

// errCutOff is of an archive that ends in the middle, as a copy that was interrupted.
var errCutOff = errors.New("this archive is cut off; it ends before its last file does")

// compressions are what an archive may be compressed by: how that begins, and how it is read.
var compressions = []struct {
	magic []byte
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{gzipMagic, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{zstdMagic, func(r io.Reader) (io.ReadCloser, error) {
		decoder, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	}},
	{[]byte("BZh"), func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
	{[]byte("\xfd7zXZ\x00"), func(io.Reader) (io.ReadCloser, error) {
		return nil, errors.New("this archive is compressed by xz, which is not read here; unpack it before, by xz --decompress")
	}},
}

// archive is a tar archive as a file system of regular files, each of which can be read at any time and by several at once.
type archive struct {
	file    *os.File
	entries map[string]entry
}

// An entry is a file in an archive.
type entry struct {
	header *tar.Header
	offset int64  // of its content
	link   string // what it is a link to
}

// openArchive opens a tar archive. One that is compressed is unpacked in scratch first.
func openArchive(name, scratch string) (*archive, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a := &archive{file: file, entries: map[string]entry{}}
	if err := a.index(scratch); err != nil {
		_ = a.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

func (a *archive) Close() error { return a.file.Close() }

// index notes where each file begins.
func (a *archive) index(scratch string) error {
	magic := make([]byte, 6) // as long as the longest
	if _, err := io.ReadFull(a.file, magic); err != nil {
		return errors.New("this is not an archive")
	}
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for _, compression := range compressions {
		if bytes.HasPrefix(magic, compression.magic) {
			if err := a.unpack(compression.open, scratch); err != nil {
				return err
			}
		}
	}
	for reader := tar.NewReader(a.file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF) && len(a.entries) > 0:
			return errCutOff
		case err != nil:
			return fmt.Errorf("this is not an archive: %w", err)
		}
		name := path.Clean(header.Name)
		found := entry{header: header}
		switch header.Typeflag {
		case tar.TypeReg:
			// The reader reads no further than it must: what comes next is the content.
			if found.offset, err = a.file.Seek(0, io.SeekCurrent); err != nil {
				return err
			}
		case tar.TypeLink:
			found.link = path.Clean(header.Linkname)
		case tar.TypeSymlink:
			found.link = path.Join(path.Dir(name), header.Linkname) //nolint:gosec // G305: it is looked up in the archive, and names no file of this machine
		default:
			continue
		}
		a.entries[name] = found
	}
}

// unpack replaces a compressed archive by what is in it.
func (a *archive) unpack(open func(io.Reader) (io.ReadCloser, error), scratch string) error {
	compressed := a.file
	defer func() { _ = compressed.Close() }() // it was read
	reader, err := open(bufio.NewReader(compressed))
	if err != nil {
		return err
	}
	defer reader.Close()
	if a.file, err = os.CreateTemp(scratch, "archive-*.tar"); err != nil {
		a.file = compressed
		return err
	}
	_, err = io.Copy(a.file, reader)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errCutOff
	case err != nil:
		return fmt.Errorf("unpacking: %w", err)
	}
	_, err = a.file.Seek(0, io.SeekStart)
	return err
}

// Open implements fs.FS.
func (a *archive) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	target := name
	for range maxLinks {
		found, ok := a.entries[target]
		if !ok {
			break
		}
		if found.link == "" {
			return &archived{SectionReader: io.NewSectionReader(a.file, found.offset, found.header.Size), header: found.header}, nil
		}
		target = found.link
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// has says whether there is such a file.
func (a *archive) has(name string) bool {
	_, ok := a.entries[name]
	return ok
}

// archived is an open file of an archive.
type archived struct {
	*io.SectionReader
	header *tar.Header
}

func (f *archived) Stat() (fs.FileInfo, error) { return f.header.FileInfo(), nil }
func (*archived) Close() error                 { return nil }

// packer writes an archive.
type packer struct{ tar *tar.Writer }

// add writes a file whose content is at hand.
func (p packer) add(name string, content []byte) error {
	return p.stream(name, int64(len(content)), bytes.NewReader(content))
}

// addFile writes a file that lies on disk.
func (p packer) addFile(name, from string) error {
	file, err := os.Open(filepath.Clean(from))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return p.stream(name, info.Size(), file)
}

func (p packer) stream(name string, size int64, content io.Reader) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, Format: tar.FormatPAX}
	if size < 8<<30 { // what any tar reads
		header.Format = tar.FormatUSTAR
	}
	if err := p.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(p.tar, content)
	return err
}
