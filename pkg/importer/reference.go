// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	_ "crypto/sha256" // digests of references and manifests
	_ "crypto/sha512"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
)

// DockerHub is the host of references that name none.
const DockerHub = "docker.io"

const (
	// dockerHubEndpoint is where the registry of docker.io answers.
	dockerHubEndpoint = "registry-1.docker.io"
	// maxName bounds host and repository together, in bytes.
	maxName = 255
	// maxReference leaves room for the longest tag and digest beside it.
	maxReference = maxName + 1 + 128 + 1 + len("sha512:") + 128
)

// Reference is an image reference in canonical form: equal references are ==.
// The zero value is not a reference; ParseReference makes them.
type Reference struct {
	host, repository, tag string
	digest                digest.Digest
}

// ParseReference reads a reference as docker does: a name without a host is one
// of docker.io, one without a namespace there is in library/, and one with
// neither tag nor digest is :latest. Beyond that, hosts are brought to one form:
// lower case, no trailing dot, the aliases of docker.io folded into it, IPv6
// addresses in brackets in their shortest form. Every error is an *Error of
// Kind Invalid that says what is wrong and what to write instead.
//
// The grammar is that of the distribution project's reference package.
func ParseReference(s string) (Reference, error) {
	if err := refuseNonReference(s); err != nil {
		return Reference{}, err
	}
	host, rest := splitHost(s)
	host, err := CanonicalHost(host)
	if err != nil {
		return Reference{}, err
	}
	name := rest
	if i := strings.IndexAny(rest, ":@"); i >= 0 {
		name = rest[:i]
	}
	switch {
	case name == "":
		return Reference{}, invalid("the reference names no repository; write host/repository:tag")
	case strings.ToLower(name) != name:
		return Reference{}, invalid("the repository %q has upper-case letters, which repositories cannot have; write %q", name, strings.ToLower(name))
	}
	if host == DockerHub && !strings.Contains(name, "/") {
		name, rest = "library/"+name, "library/"+rest
	}
	if len(host)+1+len(name) > maxName {
		return Reference{}, invalid("host and repository are %d bytes long; at most %d are allowed", len(host)+1+len(name), maxName)
	}
	return parseRest(host, name, rest)
}

// refuseNonReference catches what people paste in place of a reference, before
// any of it could be quoted: only here may s hold a password.
func refuseNonReference(s string) error {
	switch {
	case s == "":
		return invalid("the reference is empty; write host/repository:tag")
	case len(s) > maxReference:
		return invalid("the reference is %d bytes long; at most %d are allowed", len(s), maxReference)
	case strings.ContainsFunc(s, unicode.IsSpace):
		return invalid("the reference contains white space; remove it")
	case strings.Contains(s, "://"):
		return invalid("the reference starts with a scheme such as https://; write host/repository:tag without it")
	case reference.IsFullIdentifier(s):
		return invalid("the reference is an image ID, which no registry can look up; write repository@sha256:… instead")
	}
	// No digest has a slash, so an @ before one ends a user name.
	if i := strings.IndexByte(s, '@'); i >= 0 && strings.Contains(s[i:], "/") {
		return invalid("the reference contains a user name or password; keep credentials out of it and write host/repository:tag")
	}
	return nil
}

// splitHost tells a host from the first part of a repository as docker does.
func splitHost(s string) (host, rest string) {
	first, rest, found := strings.Cut(s, "/")
	if found && (first == "localhost" || strings.ContainsAny(first, ".:[")) {
		return first, rest
	}
	return DockerHub, s
}

// CanonicalHost checks a host with or without a port and brings it to the form
// in which equal hosts are equal strings, that of Reference.Host. Errors are as
// those of ParseReference.
func CanonicalHost(s string) (string, error) {
	name, port := s, ""
	if strings.HasPrefix(s, "[") {
		address, tail, closed := strings.Cut(s[1:], "]")
		ip, err := netip.ParseAddr(address)
		if !closed || err != nil || !ip.Is6() || ip.Zone() != "" || (tail != "" && tail[0] != ':') {
			return "", invalid("the host %q is not an IPv6 address in brackets; write [address] or [address]:port", s)
		}
		name, port = "["+ip.String()+"]", tail
	} else {
		if i := strings.IndexByte(s, ':'); i >= 0 {
			name, port = s[:i], s[i:]
		}
		if strings.Contains(port[min(1, len(port)):], ":") {
			return "", invalid("the host %q has more than one colon; write IPv6 addresses in brackets", s)
		}
		name = strings.TrimSuffix(strings.ToLower(name), ".")
		if !isDomain(name) {
			return "", invalid("the host %q is not a DNS name or an IP address", s)
		}
		if port == "" && name != "localhost" && !strings.Contains(name, ".") {
			return "", invalid("the host %q needs a port, or it would read as a repository of docker.io; write %s:443", s, name)
		}
	}
	if port != "" {
		n, err := strconv.ParseUint(port[1:], 10, 16)
		if err != nil || n == 0 {
			return "", invalid("the port of %q is not a number from 1 to 65535", s)
		}
		port = ":" + strconv.FormatUint(n, 10)
	}
	switch name + port {
	case "index.docker.io", dockerHubEndpoint:
		return DockerHub, nil
	}
	return name + port, nil
}

// isDomain reports whether name is a host of the reference grammar.
func isDomain(name string) bool {
	named, err := reference.WithName(name + "/x")
	return err == nil && reference.Domain(named) == name
}

// parseRest reads repository, tag and digest. The placeholder stands for a host
// that was checked already and that the grammar may not know (IPv6).
func parseRest(host, name, rest string) (Reference, error) {
	const placeholder = "h.invalid/"
	tagAndDigest := rest[len(name):]
	tag, dgst, hasDigest := strings.Cut(tagAndDigest, "@")
	r := Reference{host: host, repository: name, tag: strings.TrimPrefix(tag, ":")}
	if _, err := reference.Parse(placeholder + name); err != nil {
		return Reference{}, invalid("%q is not a repository; use lower-case letters and digits, separated by one of . _ __ - or /", name)
	}
	if tag != "" && reference.TagRegexp.FindString(r.tag) != r.tag || tag == ":" {
		return Reference{}, invalid("%q is not a tag; use at most 128 letters, digits, _ . and -, not starting with . or -", r.tag)
	}
	if hasDigest {
		r.digest = digest.Digest(dgst)
		if !known(r.digest) {
			return Reference{}, invalid("%q is not a digest; write sha256: and 64 hexadecimal digits in lower case, or sha512: and 128", dgst)
		}
	}
	if r.tag == "" && r.digest == "" {
		r.tag = "latest"
	}
	return r, nil
}

func invalid(format string, args ...any) error {
	return failure(Invalid, nil, format, args...)
}

// String returns host/repository[:tag][@digest].
func (r Reference) String() string {
	s := r.host + "/" + r.repository
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest.String()
	}
	return s
}

// Host returns the registry as references name it, with its port if it has one.
func (r Reference) Host() string { return r.host }

// Repository returns the repository at the host.
func (r Reference) Repository() string { return r.repository }

// Tag returns the tag, empty where there is a digest alone. Where there are
// both, the digest counts.
func (r Reference) Tag() string { return r.tag }

// Digest returns the digest, empty where there is none.
func (r Reference) Digest() digest.Digest { return r.digest }

// WithDigest returns host/repository@d.
func (r Reference) WithDigest(d digest.Digest) string {
	return r.host + "/" + r.repository + "@" + d.String()
}

// Endpoint returns where the registry of r answers, as host or host:port.
func (r Reference) Endpoint() string {
	if r.host == DockerHub {
		return dockerHubEndpoint
	}
	return r.host
}

// Registry returns host and port of the registry of r, for what is counted or
// compared by registry: unlike Host it is the same for all ways to write them, with
// the default port or without, IPv4 addresses as such or within IPv6.
func (r Reference) Registry() string { return registryAt(r.host) }

func registryAt(hostPort string) string {
	host, port := splitHostPort(hostPort)
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(canonicalName(host), port)
}

// object returns what to ask the registry for: the digest, else the tag.
func (r Reference) object() string {
	if r.digest != "" {
		return r.digest.String()
	}
	return r.tag
}

// withPort completes a host with the port of https where it names none, so that
// two ways to write an endpoint compare equal.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443")
}
