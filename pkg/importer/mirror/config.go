// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"k8s.io/apimachinery/pkg/util/validation"

	"tagger.dev/tagger/pkg/importer"
)

// Config is how a mirror is reached. Equal ones share their connections.
type Config struct {
	// Name says in the texts of errors where it is configured, as in "the Secret
	// tagger/mirror-registry-config".
	Name string
	// Host is that of the registry, as importer.CanonicalHost writes it.
	Host string
	// PullHost is by which host nodes pull; empty: Host.
	PullHost string
	// Repository is the one below which all images lie; empty: each namespace has
	// its own.
	Repository string
	// Username and Password, a Token with or without Username, or all. The token is an OAuth2 refresh token
	// (docker calls it identity token) or else a Bearer token that is sent as it is:
	// whichever the registry accepts.
	Username, Password, Token string
	// CA are certificate authorities in PEM, trusted beside those of Options.
	CA string
	// Insecure accepts unverified TLS and plain HTTP, for credentials as well.
	Insecure bool
	// Guarded: a tenant chose the address, so that Options.Guard is to look at it.
	Guarded bool
}

// String keeps the credentials out of whatever prints a Config.
func (c Config) String() string { return "the mirror " + c.Host + " of " + c.Name }

// GoString is String, for %#v.
func (c Config) GoString() string { return c.String() }

// repository returns the repository of an Image, without its host, and the name by
// which nodes pull it.
func (c Config) repository(namespace, image string) (repository, pullName string, err error) {
	// A name with a _ could be that of another namespace's repository.
	if len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(image)) > 0 {
		return "", "", importer.NewError(importer.Invalid, nil, "the mirror has repositories for Images alone, and none can be called %s/%s", namespace, image)
	}
	repository = namespace + "/" + image
	if c.Repository != "" {
		repository = c.Repository + "/" + namespace + "_" + image // neither name can have a _
	}
	host := c.PullHost
	if host == "" {
		host = c.Host
	}
	if _, err := importer.ParseReference(host + "/" + repository); err != nil {
		return "", "", importer.NewError(importer.Invalid, err, "the mirror cannot have a repository for the Image %s/%s; shorten the repository of %s, or the name",
			namespace, image, c.Name)
	}
	return repository, host + "/" + repository, nil
}
