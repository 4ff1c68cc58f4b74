// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	godigest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
)

// defaultTag is the tag of a name that has none.
const defaultTag = "latest"

// nameShapes are what an image of the cluster may be called.
const nameShapes = "NAME, NAMESPACE/NAME or HOST:PORT/NAMESPACE/NAME, each maybe with :TAG"

var (
	validTag  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	validName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
)

// remoteName is an image of the cluster, as a user names it.
type remoteName struct {
	host      string // empty: what the cluster publishes
	namespace string // empty: that of the command
	name      string
	tag       string // empty where there is a digest alone
	digest    godigest.Digest
	// typed is what the user typed, without tag and digest.
	typed string
}

// parseName reads [[HOST[:PORT]/]NAMESPACE/]NAME[:TAG][@DIGEST].
func parseName(text string) (remoteName, error) {
	var n remoteName
	rest, sum, hasDigest := strings.Cut(text, "@")
	if hasDigest {
		n.digest = godigest.Digest(sum)
		if err := n.digest.Validate(); err != nil {
			return n, fmt.Errorf("%q is no digest, as in sha256:5a37… with all its digits", sum)
		}
	}
	last := strings.LastIndex(rest, "/") + 1
	name, tag, hasTag := strings.Cut(rest[last:], ":")
	switch {
	case hasTag && tag == "":
		return n, fmt.Errorf("%q has no tag after the colon", text)
	case hasTag && !validTag.MatchString(tag):
		return n, fmt.Errorf("%q is no tag", tag)
	case !hasTag && !hasDigest:
		tag = defaultTag
	}
	n.name, n.tag, n.typed = name, tag, rest[:last]+name
	parts := strings.Split(n.typed, "/")
	if len(parts) > 1 && parts[0] == "localhost" { // as podman shows what has no registry
		return n, fmt.Errorf("localhost is neither a namespace nor a host with a port; did you mean %s?", strings.TrimPrefix(text, "localhost/"))
	}
	switch len(parts) {
	case 1:
	case 2:
		n.namespace = parts[0]
	case 3:
		n.host, n.namespace = parts[0], parts[1]
		if n.host == "" {
			return n, errors.New("the host before the first / is empty")
		}
		if !strings.ContainsAny(n.host, ".:") {
			return n, fmt.Errorf("%q has too many parts, and %s is no host, which has a dot or a port: %s is expected", text, n.host, nameShapes)
		}
	default:
		return n, fmt.Errorf("%q has too many parts: %s is expected", text, nameShapes)
	}
	if lower := strings.ToLower(n.name); lower != n.name && validName.MatchString(lower) {
		return n, fmt.Errorf("%q is no name of an image: names are lower case, as in %s", n.name, lower)
	}
	if !validName.MatchString(n.name) {
		return n, fmt.Errorf("%q is no name of an image: %s is expected", n.name, nameShapes)
	}
	if len(parts) > 1 && len(validation.IsDNS1123Label(n.namespace)) > 0 {
		return n, fmt.Errorf("%q is no namespace: %s is expected", n.namespace, nameShapes)
	}
	return n, nil
}

// repository is the name as registries know it.
func (n remoteName) repository() string { return n.namespace + "/" + n.name }

// version is what the repository is asked for.
func (n remoteName) version() string {
	if n.digest != "" {
		return n.digest.String()
	}
	return n.tag
}

func (n remoteName) String() string {
	if n.digest != "" {
		return n.repository() + "@" + n.digest.String()
	}
	return n.repository() + ":" + n.tag
}

// onHere is what the image is called on this machine where nothing else is said.
func (n remoteName) onHere() string { return n.typed + ":" + n.tagHere() }

// tagHere is the tag that the image gets on this machine. One that is named by digest alone is not latest, and moves no tag of another.
func (n remoteName) tagHere() string {
	if n.tag == "" {
		return n.digest.Algorithm().String() + "-" + n.digest.Encoded()[:shortDigest]
	}
	return n.tag
}

// inNamespace completes a name by the namespace of the command, and refuses two that differ.
func (n remoteName) inNamespace(cmd *cobra.Command, namespace string) (remoteName, error) {
	switch {
	case n.namespace == "":
		n.namespace = namespace
	case n.namespace != namespace && cmd.Flags().Changed("namespace"):
		return n, usageError(cmd, "%s is in the namespace %s, and --namespace says %s", n.typed, n.namespace, namespace)
	}
	return n, nil
}
