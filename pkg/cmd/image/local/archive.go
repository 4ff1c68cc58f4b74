// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// maxLinks is how many links in a row are followed in an archive.
const maxLinks = 10

// errCutOff is of an archive that ends in the middle, as a copy that was interrupted.
var errCutOff = errors.New("this archive is cut off; it ends before its last file does")

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

// openArchive opens a tar archive. One that is compressed by gzip is unpacked in scratch first.
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
	magic := make([]byte, 2)
	if _, err := io.ReadFull(a.file, magic); err != nil {
		return errors.New("this is not an archive")
	}
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if bytes.Equal(magic, gzipMagic) {
		if err := a.unpack(scratch); err != nil {
			return err
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
func (a *archive) unpack(scratch string) error {
	compressed := a.file
	defer func() { _ = compressed.Close() }() // it was read
	reader, err := gzip.NewReader(bufio.NewReader(compressed))
	if err != nil {
		return err
	}
	if a.file, err = os.CreateTemp(scratch, "archive-*.tar"); err != nil {
		a.file = compressed
		return err
	}
	_, err = io.Copy(a.file, reader) //nolint:gosec // G110: it is the user's own file
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
