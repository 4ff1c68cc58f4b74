// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// bin is where the programs of an image lie.
const bin = "/usr/local/bin"

// Image makes an image of statically linked programs, which are found by PATH; it runs the first. There is nothing else in it.
func Image(programs ...string) (v1.Image, error) {
	var archive bytes.Buffer
	files := tar.NewWriter(&archive)
	for _, program := range programs {
		content, err := os.ReadFile(program)
		if err != nil {
			return nil, err
		}
		at := strings.TrimPrefix(path.Join(bin, filepath.Base(program)), "/")
		if err := files.WriteHeader(&tar.Header{Name: at, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := files.Write(content); err != nil {
			return nil, err
		}
	}
	if err := files.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
	config.Config.Entrypoint = []string{path.Join(bin, filepath.Base(programs[0]))}
	config.Config.Env = []string{"PATH=" + bin}
	return mutate.ConfigFile(image, config)
}

// ImportPrograms makes an image of programs, found by PATH, known to containerd; see Image.
func (c *Cluster) ImportPrograms(ctx context.Context, reference string, programs ...string) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	var paths []string
	for _, program := range programs {
		path, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	image, err := Image(paths...)
	if err != nil {
		return err
	}
	archive := c.path(programs[0] + ".tar")
	if err := tarball.WriteToFile(archive, tag, image); err != nil {
		return err
	}
	return c.Import(ctx, archive)
}
