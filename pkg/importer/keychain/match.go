// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"cmp"
	"net"
	"path"
	"slices"
	"strings"

	"tagger.dev/tagger/pkg/importer"
)

// dockerHubKey is what docker calls docker.io in its files, and to its
// credential helpers.
const dockerHubKey = "https://index.docker.io/v1/"

// key is what an entry is for.
type key struct {
	name string // as written
	// host and port; both may have globs. Port is empty where none is named.
	host, port string
	segments   []string
}

// parseKey reads a key. It is false for what can match nothing.
func parseKey(name string) (key, bool) {
	rest := name
	for _, scheme := range []string{"https://", "http://"} {
		rest = strings.TrimPrefix(rest, scheme)
	}
	host, below, _ := strings.Cut(rest, "/")
	host = strings.ToLower(host)
	if canonical, err := importer.CanonicalHost(host); err == nil {
		host = canonical
	}
	if host == "" {
		return key{}, false
	}
	below = strings.Trim(below, "/")
	if first, after, _ := strings.Cut(below, "/"); first == "v1" || first == "v2" {
		below = after
	}
	k := key{name: name}
	k.host, k.port = splitPort(host)
	if below != "" {
		k.segments = strings.Split(below, "/")
	}
	return k, true
}

// splitPort splits host[:port].
func splitPort(s string) (host, port string) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		return host, port
	}
	return strings.Trim(s, "[]"), ""
}

// matches reports whether the key is for a host and a repository, which is in
// segments.
func (k key) matches(host, port string, repository []string) bool {
	if k.port != port || len(k.segments) > len(repository) {
		return false
	}
	labels, wanted := strings.Split(k.host, "."), strings.Split(host, ".")
	return len(labels) == len(wanted) && globs(labels, wanted) && globs(k.segments, repository[:len(k.segments)])
}

// globs reports whether each pattern matches its part.
func globs(patterns, parts []string) bool {
	for i, pattern := range patterns {
		if ok, err := path.Match(pattern, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// plain counts the parts of a key that are no globs.
func (k key) plain() int {
	n := 0
	for _, part := range append(strings.Split(k.host, "."), k.segments...) {
		if !strings.ContainsAny(part, `*?[\`) {
			n++
		}
	}
	return n
}

// matching returns the names of the entries that are for a host and a repository,
// the most specific first: the longer path, then fewer globs, then by name so
// that the order is always the same.
func matching[E any](entries map[string]E, host, repository string) []string {
	name, port := splitPort(host)
	segments := strings.Split(repository, "/")
	var keys []key
	for entry := range entries {
		if k, ok := parseKey(entry); ok && k.matches(name, port, segments) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(
			cmp.Compare(len(b.segments), len(a.segments)),
			cmp.Compare(b.plain(), a.plain()),
			cmp.Compare(a.name, b.name),
		)
	})
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return names
}
