// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command image makes an image of binaries of tagger-apiserver, one for each platform: an OCI layout, and an archive of it. The
// image has the binary, the root certificates of Mozilla and an empty /tmp, and an SBOM comes with each platform. It is made
// of the arguments alone: neither the clock nor the machine nor the user shows in it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
)

const program = "tagger-apiserver"

func main() {
	var version, revision string
	var created time.Time
	var name registry.Reference
	dir := flag.String("output", ".", "Directory that gets the layout and the archive; it must have neither.")
	flag.StringVar(&version, "version", "", "Version of the binaries.")
	flag.StringVar(&revision, "revision", "", "Commit that the binaries were built from.")
	flag.Func("created", "Time of all that is in the image, in RFC 3339.", func(s string) (err error) {
		created, err = time.Parse(time.RFC3339, s)
		return err
	})
	flag.Func("name", "Name of the image: HOST[:PORT]/REPOSITORY:TAG.", func(s string) (err error) {
		if name, err = registry.ParseReference(s); err != nil {
			return err
		}
		return name.ValidateReferenceAsTag()
	})
	flag.Parse()

	b := builder{created: created.UTC(), annotations: map[string]string{
		ocispec.AnnotationTitle:       program,
		ocispec.AnnotationDescription: "A Kubernetes API server that records what image tags mean, and mirrors the images",
		ocispec.AnnotationAuthors:     "The Tagger Authors",
		ocispec.AnnotationLicenses:    "Apache-2.0",
		ocispec.AnnotationSource:      "https://tagger.dev/tagger",
		ocispec.AnnotationVersion:     version,
		ocispec.AnnotationRevision:    revision,
		ocispec.AnnotationCreated:     created.UTC().Format(time.RFC3339),
	}}
	digest, err := b.build(context.Background(), *dir, name, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}
