// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/keychain"
	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/pkg/version"
)

// SourceOptions are the flags that say what imports may read, from where, and with which credentials.
type SourceOptions struct {
	RegistryAuthFile string
	RegistryCertsDir string

	AllowedRegistries []string
	BlockedRegistries []string
	AllowInsecure     bool
	AllowLoopback     bool
	AllowPrivate      bool

	MaxManifestSize resource.QuantityValue
	MaxImageSize    resource.QuantityValue

	BlobStreams        int
	BlobStreamsPerHost int
}

func newSourceOptions() SourceOptions {
	return SourceOptions{
		AllowInsecure:      true,
		AllowLoopback:      true,
		AllowPrivate:       true,
		MaxManifestSize:    resource.QuantityValue{Quantity: resource.MustParse("4Mi")},
		MaxImageSize:       resource.QuantityValue{Quantity: resource.MustParse("0")},
		BlobStreams:        32,
		BlobStreamsPerHost: 8,
	}
}

func (o *SourceOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.RegistryAuthFile, "registry-auth-file", o.RegistryAuthFile,
		"A docker config.json with the credentials of the registries that imports read from. It is read at each import. Default: all imports are anonymous.")
	flags.StringVar(&o.RegistryCertsDir, "registry-certs-dir", o.RegistryCertsDir,
		"Directory with the certificate authorities of single registries, as docker lays it out: DIR/HOST[:PORT]/*.crt. They are trusted for that host beside those of the system. Read at the start.")
	flags.StringSliceVar(&o.AllowedRegistries, "allowed-registries", o.AllowedRegistries,
		"HOST[:PORT] of the registries that may be imported from, with * for any part, such as *.example.com or registry.example.com:*. Without a port the default one is meant. Token services and redirects may lead elsewhere. Default: all.")
	flags.StringSliceVar(&o.BlockedRegistries, "blocked-registries", o.BlockedRegistries,
		"HOST[:PORT] of the registries that must not be imported from, not by a redirect or a token service either, with * for any part. Without a port every port is meant. Goes before --allowed-registries.")
	flags.BoolVar(&o.AllowInsecure, "allow-insecure-sources", o.AllowInsecure,
		"Whether an import may ask for plain HTTP or TLS that is not verified.")
	flags.BoolVar(&o.AllowLoopback, "allow-loopback-sources", o.AllowLoopback,
		"Whether imports may reach loopback addresses of this machine. Link-local, multicast and cloud metadata addresses are always refused.")
	flags.BoolVar(&o.AllowPrivate, "allow-private-sources", o.AllowPrivate,
		"Whether imports may reach private addresses: RFC 1918, RFC 6598, RFC 4193.")
	flags.Var(&o.MaxManifestSize, "max-manifest-size", "Largest manifest that is imported or pushed; those of one image that is imported may have eight times as much together.")
	flags.Var(&o.MaxImageSize, "max-image-size", "Largest image that is mirrored: all distinct blobs of all platforms. 0: no limit.")
	flags.IntVar(&o.BlobStreams, "blob-streams", o.BlobStreams, "How many blobs are read at once.")
	flags.IntVar(&o.BlobStreamsPerHost, "blob-streams-per-host", o.BlobStreamsPerHost, "How many blobs are read at once from one registry.")
}

// maxManifestSize is what the image store accepts.
const maxManifestSize = 32 << 20

func (o *SourceOptions) validate() []error {
	_, errs := o.importerOptions()
	if n := o.MaxManifestSize.Value(); n < 1 || n > maxManifestSize {
		errs = append(errs, fmt.Errorf("--max-manifest-size %s: must be between 1 and 32Mi", &o.MaxManifestSize))
	}
	if o.MaxImageSize.Value() < 0 {
		errs = append(errs, fmt.Errorf("--max-image-size %s: must not be negative", &o.MaxImageSize))
	}
	for flag, n := range map[string]int{"--blob-streams": o.BlobStreams, "--blob-streams-per-host": o.BlobStreamsPerHost} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("%s %d: must be at least 1", flag, n))
		}
	}
	if o.RegistryAuthFile != "" {
		if _, err := os.Stat(o.RegistryAuthFile); err != nil {
			errs = append(errs, fmt.Errorf("--registry-auth-file: %w", err))
		}
	}
	return errs
}

// importerOptions returns what the flags alone say, and what is wrong with those that name hosts and their certificates.
func (o *SourceOptions) importerOptions() (options importer.Options, errs []error) {
	options = importer.Options{
		AllowLoopback:    o.AllowLoopback,
		RefusePrivate:    !o.AllowPrivate,
		RefuseInsecure:   !o.AllowInsecure,
		Proxy:            http.ProxyFromEnvironment,
		UserAgent:        version.UserAgent("tagger-apiserver"),
		StreamsPerHost:   o.BlobStreamsPerHost,
		Streams:          o.BlobStreams,
		MaxManifestBytes: o.MaxManifestSize.Value(),
		MaxImageBytes:    o.MaxImageSize.Value(),
	}
	wrong := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", flag, err))
		}
	}
	var err error
	options.AllowedRegistries, err = importer.ParseHostPatterns(o.AllowedRegistries)
	wrong("--allowed-registries", err)
	options.BlockedRegistries, err = importer.ParseHostPatterns(o.BlockedRegistries)
	wrong("--blocked-registries", err)
	if o.RegistryCertsDir != "" {
		options.HostCAs, err = importer.LoadHostCAs(o.RegistryCertsDir)
		wrong("--registry-certs-dir", err)
	}
	return options, errs
}

// mirrorOptions returns how mirrors at other registries are reached. What guards sources guards those that a tenant chose.
func (o *SourceOptions) mirrorOptions() mirror.Options {
	return mirror.Options{
		Guard:            importer.Guard{AllowLoopback: o.AllowLoopback, RefusePrivate: !o.AllowPrivate},
		Proxy:            http.ProxyFromEnvironment,
		UserAgent:        version.UserAgent("tagger-apiserver"),
		Connections:      o.BlobStreamsPerHost,
		MaxManifestBytes: o.MaxManifestSize.Value(),
	}
}

// importer returns what imports, within the guard rails, and the credentials for it. OwnHosts are those of the registry
// endpoint.
func (o *SourceOptions) importer(ownHosts []string) (*importer.Importer, importer.Keychain, error) {
	options, errs := o.importerOptions()
	options.OwnHosts = ownHosts
	const place = "the file of --registry-auth-file"
	credentials := keychain.None
	options.CredentialsPlace = place + ", which is not set"
	if o.RegistryAuthFile != "" {
		credentials = keychain.AuthFile(o.RegistryAuthFile)
		options.CredentialsPlace = place
	}
	return importer.New(options), credentials, errors.Join(errs...)
}
