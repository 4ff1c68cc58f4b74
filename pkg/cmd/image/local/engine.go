// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// maxComplaint is how much is repeated of what an engine says, in bytes.
const maxComplaint = 1024

// An engine is a program that keeps images.
type engine struct {
	program   string
	transport string
}

func engineOf(transport string) engine {
	if transport == DockerDaemon {
		return engine{program: "docker", transport: transport}
	}
	return engine{program: "podman", transport: transport}
}

// Engines returns the transports of those container engines that run here, podman's first.
func Engines(ctx context.Context) []string {
	var running []string
	for _, transport := range []string{ContainersStorage, DockerDaemon} {
		if engineOf(transport).runs(ctx) {
			running = append(running, transport)
		}
	}
	return running
}

// Has says whether there is an image by that name in the store of an engine.
func Has(ctx context.Context, where Location) bool {
	if where.Transport == DockerDaemon {
		return ID(ctx, where) != ""
	}
	_, err := engineOf(where.Transport).output(ctx, "image", "exists", where.Reference) // a list for several platforms as well
	return err == nil
}

// ID returns the identity of an image in the store of an engine, without the name of its algorithm; it is empty where there is no
// such image.
func ID(ctx context.Context, where Location) string {
	out, err := engineOf(where.Transport).output(ctx, "image", "inspect", "--format", "{{.Id}}", where.Reference)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(strings.TrimSpace(out), "sha256:")
}

// runs says whether the engine can be used: docker's command alone is not enough, and some are podman by another name.
func (e engine) runs(ctx context.Context) bool {
	version, err := e.output(ctx, "--version")
	if err != nil || e.program == "docker" && strings.HasPrefix(version, "podman") {
		return false
	}
	_, err = e.output(ctx, "version", "--format", "{{.Client.Version}} {{.Server.Version}}")
	if e.program == "docker" {
		return err == nil
	}
	return true
}

// save writes an image to an archive: a list for several platforms with all of them. It returns which kind of archive it is: the
// one that changes nothing of the config, by which the engine knows the image.
func (e engine) save(ctx context.Context, reference, file string) (transport string, err error) {
	if e.program == "docker" {
		// Without a tag all that there are would be saved. What has none may be an ID.
		if latest := tagged(reference); ID(ctx, Location{Transport: e.transport, Reference: latest}) != "" {
			reference = latest
		}
		_, err := e.output(ctx, "save", "--output", file, reference)
		return DockerArchive, err
	}
	if _, err := e.output(ctx, "manifest", "exists", reference); err == nil {
		_, err := e.output(ctx, "manifest", "push", "--all", reference, OCIArchive+":"+file)
		return OCIArchive, err
	}
	transport = OCIArchive
	if kind, err := e.output(ctx, "image", "inspect", "--format", "{{.ManifestType}}", reference); err == nil && strings.TrimSpace(kind) == dockerManifest {
		transport = DockerArchive
	}
	_, err = e.output(ctx, "save", "--quiet", "--format", transport, "--output", file, reference)
	return transport, err
}

// load reads an archive into the store.
func (e engine) load(ctx context.Context, archive io.Reader) error {
	_, err := e.run(ctx, archive, "load", "--quiet")
	return err
}

func (e engine) output(ctx context.Context, args ...string) (string, error) {
	return e.run(ctx, nil, args...)
}

// run runs the engine, and returns what it wrote. A failure says what it complained of, last.
func (e engine) run(ctx context.Context, in io.Reader, args ...string) (string, error) {
	out, complaint := &bytes.Buffer{}, &bytes.Buffer{}
	cmd := exec.CommandContext(ctx, e.program, args...) //nolint:gosec // G204: the programs are fixed, and no shell reads the arguments
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, complaint
	err := cmd.Run()
	switch {
	case err == nil:
		return out.String(), nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not installed: %w", e.program, err)
	}
	lines := strings.Split(strings.TrimSpace(complaint.String()), "\n")
	last := lines[len(lines)-1]
	return "", fmt.Errorf("%s %s: %s (%w)", e.program, args[0], last[:min(len(last), maxComplaint)], err)
}
