// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of docker's image manifest version 2, which OCI has no names for.
const (
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// acceptedTypes are the manifests that can be kept, in order of preference.
var acceptedTypes = []string{ocispec.MediaTypeImageIndex, dockerList, ocispec.MediaTypeImageManifest, dockerManifest}

// ManifestTypes returns the media types of the manifests that can be kept, in order
// of preference.
func ManifestTypes() []string { return slices.Clone(acceptedTypes) }

// IsManifest tells the media types of manifests from those of blobs.
func IsManifest(mediaType string) bool { return slices.Contains(acceptedTypes, mediaType) }

// IsIndex tells the media types of manifests that name others.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
}

// ManifestParts returns what a manifest that was served as mediaType names: other
// manifests, and the blobs that have to be beside it. Errors are *Error of Kind
// UnsupportedManifest.
func ManifestParts(raw []byte, mediaType string) (manifests, blobs []ocispec.Descriptor, err error) {
	m, err := parseManifest(raw, mediaType, digest.FromBytes(raw))
	if err != nil {
		return nil, nil, err
	}
	return m.children, m.blobs, nil
}

// vagueTypes say nothing of what a document is; then it may say so itself.
var vagueTypes = []string{"", "application/json", "application/octet-stream", "text/plain"}

// manifest is a checked image manifest or index.
type manifest struct {
	raw []byte
	// self has media type, digest and size alone.
	self ocispec.Descriptor
	// config is nil for an index.
	config *ocispec.Descriptor
	// children are the manifests of an index.
	children []ocispec.Descriptor
	// blobs are config and layers, and what an index lists that is no manifest.
	// Layers that may not be distributed are left out.
	blobs []ocispec.Descriptor
}

// parseManifest checks a document that was served under a Content-Type and has
// the digest dgst, which the caller has verified. It follows the OCI image
// specification, docker's image manifest version 2, and refuses what different
// readers would read differently (CVE-2021-41190). The errors have the Kind
// UnsupportedManifest.
func parseManifest(raw []byte, contentType string, dgst digest.Digest) (*manifest, error) {
	served, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		served = ""
	}
	switch {
	case served == dockerSchema1, served == dockerSchema1Signed:
		return nil, schema1()
	case served == "text/html":
		return nil, unsupported("the registry answered with a web page; check that the host is a registry")
	case !slices.Contains(acceptedTypes, served) && !slices.Contains(vagueTypes, served):
		return nil, unsupported("it is neither an OCI nor a docker image")
	}
	var document struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        *descriptor     `json:"config"`
		Layers        descriptors     `json:"layers"`
		Manifests     descriptors     `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &document); errors.Is(err, errTooManyDescriptors) {
		return nil, unsupported("its manifest lists more than %d things", maxDescriptors)
	} else if err != nil {
		return nil, failure(UnsupportedManifest, err, "its manifest is not valid JSON of its kind")
	}
	switch stated := document.MediaType; {
	case document.SchemaVersion == 1, document.FSLayers != nil:
		return nil, schema1()
	case document.SchemaVersion != 2:
		return nil, unsupported("its manifest has no known schemaVersion")
	case slices.Contains(acceptedTypes, stated) && slices.Contains(acceptedTypes, served) && stated != served:
		return nil, unsupported("its manifest says that it is of another media type than the registry says")
	case !slices.Contains(acceptedTypes, served) && slices.Contains(acceptedTypes, stated):
		served = stated
	case !slices.Contains(acceptedTypes, served):
		return nil, unsupported("neither the registry nor the manifest says what media type it has")
	}
	m := &manifest{raw: raw, self: ocispec.Descriptor{MediaType: served, Digest: dgst, Size: int64(len(raw))}}
	isIndex := IsIndex(served)
	switch {
	case document.Manifests != nil && (document.Config != nil || document.Layers != nil):
		return nil, unsupported("its manifest is an index and an image at once")
	case isIndex && (document.Config != nil || document.Layers != nil), !isIndex && document.Manifests != nil:
		return nil, unsupported("its manifest has the content of another media type")
	case isIndex:
		return m, m.index(document.Manifests)
	case document.Config == nil:
		return nil, unsupported("its manifest names no config")
	}
	return m, m.image(document.Config, document.Layers)
}

// maxDescriptors bounds what one manifest lists. A list is counted while it is
// read: in memory a descriptor is far larger than the shortest one is in JSON.
const maxDescriptors = 10000

var errTooManyDescriptors = errors.New("too many descriptors")

// descriptor is what counts of a descriptor here. The rest is not read into
// memory, where much of it would take many times the space that it has in JSON.
type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	URLs      urls          `json:"urls"`
	Data      []byte        `json:"data"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

func (d *descriptor) oci() ocispec.Descriptor {
	o := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, URLs: d.URLs, Data: d.Data}
	if d.Platform != nil {
		o.Platform = &ocispec.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}
	}
	return o
}

// urls are a single empty one where a descriptor has any: none is ever followed,
// and only that there are some counts.
type urls []string

// UnmarshalJSON implements json.Unmarshaler.
func (u *urls) UnmarshalJSON(raw []byte) error {
	*u = nil
	decoder, present, err := openList(raw)
	if !present || !decoder.More() {
		return err
	}
	*u = urls{""}
	var first string
	return decoder.Decode(&first)
}

// descriptors is a list of bounded length.
type descriptors []descriptor

// UnmarshalJSON implements json.Unmarshaler.
func (list *descriptors) UnmarshalJSON(raw []byte) error {
	*list = nil
	decoder, present, err := openList(raw)
	if !present {
		return err
	}
	*list = descriptors{} // which is not an absent one
	for decoder.More() {
		if len(*list) == maxDescriptors {
			return errTooManyDescriptors
		}
		var d descriptor
		if err := decoder.Decode(&d); err != nil {
			return err
		}
		*list = append(*list, d)
	}
	return nil
}

// openList returns what reads the elements of a list in JSON one by one; null is
// not present.
func openList(raw []byte) (elements *json.Decoder, present bool, err error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	switch token, err := decoder.Token(); {
	case err != nil:
		return nil, false, err
	case token == nil: // null
		return nil, false, nil
	case token != json.Delim('['):
		return nil, false, errors.New("not a list")
	}
	return decoder, true, nil
}

func (m *manifest) index(entries descriptors) error {
	for _, entry := range entries {
		d := entry.oci()
		if err := checkDescriptor(d); err != nil {
			return err
		}
		switch {
		case d.MediaType == dockerSchema1, d.MediaType == dockerSchema1Signed:
			return schema1()
		case slices.Contains(acceptedTypes, d.MediaType):
			m.children = append(m.children, d)
		default:
			// Build caches list layers in an index.
			m.blobs = append(m.blobs, d)
		}
	}
	return nil
}

func (m *manifest) image(config *descriptor, layers descriptors) error {
	own := config.oci()
	m.config = &own
	for _, part := range append(descriptors{*config}, layers...) {
		d := part.oci()
		if err := checkDescriptor(d); err != nil {
			return err
		}
		if slices.Contains(acceptedTypes, d.MediaType) {
			return unsupported("its manifest lists another manifest as a layer")
		}
		if !isForeign(d) {
			m.blobs = append(m.blobs, d)
		}
	}
	return nil
}

// isForeign reports whether a layer is to be had from its own URLs: registries
// need not have it, and it may not be copied.
func isForeign(d ocispec.Descriptor) bool {
	switch d.MediaType {
	case dockerForeign,
		ocispec.MediaTypeImageLayerNonDistributable,     //nolint:staticcheck // deprecated, and still in use for Windows
		ocispec.MediaTypeImageLayerNonDistributableGzip, //nolint:staticcheck // deprecated for new images, and still in old ones
		ocispec.MediaTypeImageLayerNonDistributableZstd: //nolint:staticcheck // deprecated for new images, and still in old ones
		return len(d.URLs) > 0
	}
	return false
}

// maxContentSize is beyond what any content has, in bytes.
const maxContentSize = 1 << 50

func checkDescriptor(d ocispec.Descriptor) error {
	if !known(d.Digest) || d.Size < 0 || d.Size > maxContentSize {
		return unsupported("its manifest has a descriptor without a valid digest or size")
	}
	return nil
}

// known reports whether a digest is valid and of an algorithm that the image
// specification registers for registries to serve: sha256 or sha512.
func known(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// isImageConfig reports whether a blob tells the platform of an image.
func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerConfig
}

// platforms returns those that descriptors of manifests name, each once.
// Attestations are of no platform.
func platforms(children []ocispec.Descriptor) []string {
	var names []string
	for _, d := range children {
		if len(names) == maxPlatforms {
			break
		}
		if d.Platform == nil {
			continue
		}
		if name := platformName(*d.Platform); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// platformName returns os/architecture[/variant], or "" where that is unknown or
// nothing that Go or a runtime would call a platform.
func platformName(p ocispec.Platform) string {
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	if p.OS == "unknown" || p.Architecture == "unknown" || !platformRegexp.MatchString(name) {
		return ""
	}
	return name
}

// platformRegexp keeps out of statuses what a host may write in these fields.
var platformRegexp = regexp.MustCompile(`^[a-z0-9_.-]{1,32}/[a-z0-9_.-]{1,32}(/[a-z0-9_.-]{1,32})?$`)

// maxPlatforms bounds what is listed of an image.
const maxPlatforms = 100

// distinct returns the descriptors without repeated digests.
func distinct(descriptors []ocispec.Descriptor) []ocispec.Descriptor {
	seen := map[digest.Digest]bool{}
	var once []ocispec.Descriptor
	for _, d := range descriptors {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			once = append(once, d)
		}
	}
	return once
}

// totalSize adds sizes up, at most to the largest number there is.
func totalSize(descriptors []ocispec.Descriptor) int64 {
	var total int64
	for _, d := range descriptors {
		if total > math.MaxInt64-d.Size {
			return math.MaxInt64
		}
		total += d.Size
	}
	return total
}

// readManifest reads a body of at most limit bytes and closes it. It has to come
// within a minute: only blobs may take as long as they move.
func readManifest(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	tooLarge := func() error {
		return unsupported("its manifest is larger than the %d bytes allowed", limit)
	}
	if resp.ContentLength > limit {
		return nil, tooLarge()
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, classify(err, resp.Request.URL.Host)
	}
	if int64(len(raw)) > limit {
		return nil, tooLarge()
	}
	return raw, nil
}

// whenChanged says what to do about bytes that are not those that were named.
const whenChanged = "something on the way changes content: look for a broken proxy or cache, or tell the registry"

func verify(raw []byte, want digest.Digest) error {
	if got := want.Algorithm().FromBytes(raw); got != want {
		return failure(DigestMismatch, nil, "the registry served %s as %s; %s", got, want, whenChanged)
	}
	return nil
}

func schema1() error {
	return unsupported("it is a docker image of schema 1, which no current runtime accepts; push it again with a current tool")
}

func unsupported(format string, args ...any) error {
	return failure(UnsupportedManifest, nil, format, args...)
}
