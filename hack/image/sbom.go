// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
)

const (
	sbomType = "application/vnd.cyclonedx+json"

	// rootsModule is where the root certificates come from.
	rootsModule = "golang.org/x/crypto/x509roots/fallback"
)

// newSBOM returns what is in an image, in CycloneDX: the modules that were linked into its binary (go.mod names more), the
// standard library of Go, and the root certificates. Ours is what is left of cyclonedx-gomod without a client of git.
func newSBOM(image digest.Digest, info *buildinfo.BuildInfo, version, created string) ([]byte, error) {
	self, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("this program does not know its own modules")
	}
	rootsAt := slices.IndexFunc(self.Deps, func(m *debug.Module) bool { return m.Path == rootsModule })
	if rootsAt < 0 {
		return nil, fmt.Errorf("%s is not among the modules of this program", rootsModule)
	}

	container, err := component(cyclonedx.ComponentTypeContainer, packageurl.TypeOCI, program, image.String())
	if err != nil {
		return nil, err
	}
	server, err := component(cyclonedx.ComponentTypeApplication, packageurl.TypeGolang, info.Main.Path, version)
	if err != nil {
		return nil, err
	}
	certificates, err := component(cyclonedx.ComponentTypeData, packageurl.TypeGolang, rootsModule, self.Deps[rootsAt].Version)
	if err != nil {
		return nil, err
	}
	components := []cyclonedx.Component{server, certificates}
	var linked []string
	stdlib := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range append(info.Deps, stdlib) {
		if module.Replace != nil {
			module = module.Replace
		}
		library, err := component(cyclonedx.ComponentTypeLibrary, packageurl.TypeGolang, module.Path, module.Version)
		if err != nil {
			return nil, err
		}
		components, linked = append(components, library), append(linked, library.BOMRef)
	}

	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Timestamp: created, Component: &container}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{
		{Ref: container.BOMRef, Dependencies: &[]string{server.BOMRef, certificates.BOMRef}},
		{Ref: server.BOMRef, Dependencies: &linked},
	}
	var content bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&content, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return content.Bytes(), err
}

// component returns a component that is known by its package URL.
func component(kind cyclonedx.ComponentType, ecosystem, name, version string) (cyclonedx.Component, error) {
	namespace, last := path.Split(name)
	url := packageurl.NewPackageURL(ecosystem, namespace, last, version, nil, "")
	if err := url.Normalize(); err != nil {
		return cyclonedx.Component{}, fmt.Errorf("%s: %w", name, err)
	}
	purl := url.ToString()
	return cyclonedx.Component{BOMRef: purl, Type: kind, Name: name, Version: version, PackageURL: purl}, nil
}
