// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// HostPatterns name registries: what an administrator allows or blocks. The zero
// value names none.
type HostPatterns []hostPattern

type hostPattern struct {
	host string // a glob
	port string // a glob; empty: none was named
}

// ParseHostPatterns reads patterns of the form HOST[:PORT], each of which may be
// a glob (path.Match; an asterisk also matches dots): *.example.com does not
// match example.com itself. Hosts are compared as Reference.Host is written, so
// that case, trailing dots and the names of docker.io make no difference. Errors
// name the pattern and the remedy.
func ParseHostPatterns(patterns []string) (HostPatterns, error) {
	var parsed HostPatterns
	for _, pattern := range patterns {
		if pattern == "" || strings.ContainsAny(pattern, "/@ ") {
			return nil, fmt.Errorf("%q is not HOST or HOST:PORT, with * for any part; leave scheme and repository out", pattern)
		}
		host, port := splitHostPort(pattern)
		p := hostPattern{host: canonicalName(host), port: port}
		for _, glob := range []string{p.host, p.port} {
			if _, err := path.Match(glob, ""); err != nil {
				return nil, fmt.Errorf("%q has a bracket that is not closed; write brackets only around IPv6 addresses and sets of characters", pattern)
			}
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

// names reports whether a host and its port are among the patterns. A pattern
// without a port means any port, or the default one where that is asked for.
func (patterns HostPatterns) names(host, port string, onlyDefaultPort bool) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p.host, host); !ok {
			continue
		}
		if p.port == "" && (!onlyDefaultPort || port == defaultPort) {
			return true
		}
		if ok, _ := path.Match(p.port, port); ok {
			return true
		}
	}
	return false
}

// defaultPort is that of https, which references do not name.
const defaultPort = "443"

// admit refuses what policy forbids before any request.
func (i *Importer) admit(ctx context.Context, src Source) error {
	host, port := splitHostPort(src.Reference.host)
	host = canonicalName(host)
	if port == "" {
		port = defaultPort
	}
	o := i.options
	switch {
	case i.own(src.Reference):
		return failure(Blocked, nil, "%s is this cluster's own registry, which cannot be a source; import from where the image was pushed from", src.Reference.host)
	case o.BlockedRegistries.names(host, port, false), len(o.AllowedRegistries) > 0 && !o.AllowedRegistries.names(host, port, true):
		return failure(Blocked, nil, "imports from %s are not allowed here; use another registry, or ask the administrator", src.Reference.host)
	case src.Insecure && o.RefuseInsecure:
		return failure(Blocked, nil, "insecure sources are not allowed here; use a certificate that verifies, or ask the administrator")
	case o.Admit != nil:
		return o.Admit(ctx, src)
	}
	return nil
}

// admitURL refuses blocked registries wherever a redirect or a challenge leads.
// Allowed are all others there: registries keep blobs and token services at other
// hosts.
func (o *Options) admitURL(u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = defaultPortOf(u)
	}
	if o.BlockedRegistries.names(canonicalName(u.Hostname()), port, false) {
		return failure(Blocked, nil, "the registry leads to %s, which is not allowed here; use another registry, or ask the administrator", u.Host)
	}
	return nil
}

func defaultPortOf(u *url.URL) string {
	if u.Scheme == "http" {
		return "80"
	}
	return defaultPort
}

// canonicalName brings a host without its port to the form in which equal hosts
// are equal strings.
func canonicalName(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().WithZone("").String()
	}
	switch host {
	case "index.docker.io", dockerHubEndpoint:
		return DockerHub
	}
	return host
}

// splitHostPort splits host[:port], and takes the brackets off an address.
func splitHostPort(s string) (host, port string) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		return host, port
	}
	if strings.HasPrefix(s, "[") && strings.Contains(s, ":") {
		s = strings.Trim(s, "[]")
	}
	return s, ""
}
