// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
)

// FuzzManifest: whatever a manifest says, its labels are such that containerd takes them, name what it names, and are not too many.
func FuzzManifest(f *testing.F) {
	some := digest.FromString("some").String()
	for _, raw := range []string{
		`{"config":{"digest":"` + some + `"},"layers":[{"digest":"` + some + `"},{}]}`, `{"manifests":[{"digest":"` + some + `"}]}`,
		`{"subject":{"digest":"` + some + `"}}`, `{"layers":null,"manifests":null}`, `{"layers":[]}`, `{"layers":{}}`, `{"layers":[null]}`, `{"fsLayers":[]}`,
		`{"config":null}`, `{"layers":[{"digest":"sha256:../.."}]}`, `{"layers":[{"mediaType":"` + ocispec.MediaTypeImageLayerNonDistributable + `","digest":"` + some + `"}]}`, //nolint:staticcheck // it is still pushed
		`{"LAYERS":[],"layers":[{}]}`, `{"layers":[{}],"layers":[{},{}]}`, `null`, `[]`, `1`, ``,
	} {
		f.Add(true, []byte(raw))
		f.Add(false, []byte(raw))
	}
	f.Fuzz(func(t *testing.T, isIndex bool, raw []byte) {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if isIndex {
			desc.MediaType = ocispec.MediaTypeImageIndex
		}
		subject, subjectErr := distribution.Subject(raw)
		if subjectErr == nil && subjectOf(raw) != subject {
			t.Errorf("the subject is %q and %q", subject, subjectOf(raw))
		}
		children, err := childrenOf(desc.MediaType, raw)
		if err != nil {
			return
		}
		found, err := manifestLabels(desc, raw)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want an invalid argument", err)
			}
			return
		}
		if len(children) > maxManifestParts+1 || len(found) > len(children)+1 {
			t.Errorf("%d labels for %d children", len(found), len(children))
		}
		named := map[string]bool{}
		for _, child := range children {
			named[child.Digest.String()] = true
		}
		for key, value := range found {
			if err := labels.Validate(key, value); err != nil {
				t.Error(err)
			}
			if key != mediaTypeLabel && (!named[value] || digest.Digest(value).Validate() != nil || !strings.HasPrefix(key, referenceLabelPrefix)) {
				t.Errorf("the label %s is %q", key, value)
			}
		}
	})
}

// FuzzDescribe: whatever a referrer says of itself, it takes no more room in the list than there is.
func FuzzDescribe(f *testing.F) {
	for _, raw := range []string{
		`{"artifactType":"a/b","annotations":{"k":"v"}}`, `{"config":{"mediaType":"a/b"}}`, `{"artifactType":5,"annotations":["x"]}`,
		`{"annotations":{"k":1}}`, `{"annotations":null}`, `{"artifactType":"` + strings.Repeat("x", 256) + `"}`, `{`, `[]`, `null`, ``,
	} {
		f.Add([]byte(raw), 20)
	}
	f.Fuzz(func(t *testing.T, raw []byte, room int) {
		if room < 0 {
			return
		}
		d, left := ocispec.Descriptor{}, room
		if err := describeArtifact(bytes.NewReader(raw), &d, &left); err != nil {
			return
		}
		listed, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if left < 0 || left > room || len(d.ArtifactType) > maxArtifactType || d.Annotations != nil && len(d.Annotations) > room-left {
			t.Errorf("%s takes %d of %d", listed, room-left, room)
		}
	})
}
