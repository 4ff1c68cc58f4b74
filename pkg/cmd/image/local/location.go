// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// The transports of a Location, called as skopeo and podman call them.
const (
	OCI               = "oci"                // a folder in the OCI image layout
	OCIArchive        = "oci-archive"        // such a folder as a tar archive
	DockerArchive     = "docker-archive"     // what docker save writes
	DockerDaemon      = "docker-daemon"      // docker's store
	ContainersStorage = "containers-storage" // podman's and buildah's store
)

// Transports are all of them.
var transports = []string{OCI, OCIArchive, DockerArchive, DockerDaemon, ContainersStorage}

// likeArchive matches what names an archive, as far as one can see.
var likeArchive = regexp.MustCompile(`\.(tar|tar\.gz|tgz)(:|$)`)

// Transports returns all transports.
func Transports() []string { return slices.Clone(transports) }

// A Location is where an image lies on this machine. Its text is TRANSPORT:PATH[:REFERENCE], or TRANSPORT:REFERENCE for an engine's
// store.
type Location struct {
	Transport string
	Path      string // of a folder or an archive
	Reference string // which image of those that are there; empty for the only one
}

// Parse reads a Location.
func Parse(text string) (Location, error) {
	transport, rest, found := strings.Cut(text, ":")
	if !found || !slices.Contains(transports, transport) {
		if likeArchive.MatchString(text) {
			return Location{}, fmt.Errorf("%q does not say which kind of archive it is: %s:%s or %s:%s", text, DockerArchive, text, OCIArchive, text)
		}
		return Location{}, fmt.Errorf("%q does not begin with one of %s", text, strings.Join(prefixes(), ", "))
	}
	where := Location{Transport: transport}
	if where.InStore() {
		where.Reference = rest
		if rest == "" {
			return Location{}, fmt.Errorf("%q names no image, as in %s:myapp:latest", text, transport)
		}
		return where, nil
	}
	drive := ""
	if runtime.GOOS == "windows" && len(rest) > 1 && rest[1] == ':' {
		drive, rest = rest[:2], rest[2:]
	}
	where.Path, where.Reference, _ = strings.Cut(rest, ":")
	where.Path = drive + where.Path
	if where.Path == "" {
		return Location{}, fmt.Errorf("%q names no file or folder, as in %s:myapp", text, transport)
	}
	return where, nil
}

func prefixes() []string {
	all := Transports()
	for i := range all {
		all[i] += ":"
	}
	return all
}

// InStore says whether the image lies in the store of a container engine.
func (l Location) InStore() bool {
	return l.Transport == DockerDaemon || l.Transport == ContainersStorage
}

// Program is the container engine in whose store the image lies.
func (l Location) Program() string { return engineOf(l.Transport).program }

// TakesIndex says whether an image for several platforms can lie there.
func (l Location) TakesIndex() bool { return l.Transport == OCI || l.Transport == OCIArchive }

// Tagged returns the location with a tag, where it names an image of an engine and none of its tags.
func (l Location) Tagged(tag string) Location {
	if l.Reference != "" && (l.InStore() || l.Transport == DockerArchive) && tagged(l.Reference) != l.Reference {
		l.Reference += ":" + tag
	}
	return l
}

func (l Location) String() string {
	parts := []string{l.Transport}
	for _, part := range []string{l.Path, l.Reference} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ":")
}
