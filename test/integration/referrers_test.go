// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestReferrersComeAlong mirrors an image whose source lists a signature by the tag scheme and has another one under cosign's
// tag, and lets clients find both at the registry port when the source is gone.
func TestReferrersComeAlong(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	image := newImage(t, ociTypes, "amd64")
	out.Push(t, "app", image)
	root := digest.Digest(digestOf(t, image))
	size := int64(len(must(image.RawManifest())(t)))
	stem := "sha256-" + root.Encoded()

	put := func(tag, content string, subject *ocispec.Descriptor) ocispec.Descriptor {
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			ArtifactType: "application/vnd.example.signature", Subject: subject,
			Config: out.PutBlob("app", ocispec.MediaTypeEmptyJSON, []byte("{}"), digest.SHA256),
			Layers: []ocispec.Descriptor{out.PutBlob("app", "text/plain", []byte(content), digest.SHA256)},
		}
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		d := out.PutManifest(t, "app", tag, m.MediaType, raw, digest.SHA256)
		d.ArtifactType = m.ArtifactType
		return d
	}
	signature := put("", "signed", &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: root, Size: size})
	listing, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{signature},
	})
	if err != nil {
		t.Fatal(err)
	}
	out.PutManifest(t, "app", stem, ocispec.MediaTypeImageIndex, listing, digest.SHA256)
	cosigned := put(stem+".sig", "signed by cosign", nil)

	spec := v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonImported)
	if s.image(t, namespace, "app").Status.HashReferences[0].ReferrersCheckedAt == nil {
		t.Error("the Image does not say that it was looked for signatures")
	}
	out.Requests()
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonUnchanged)
	if diff := cmp.Diff(map[string]int{"HEAD manifests": 1}, out.Requests()); diff != "" {
		t.Errorf("requests at the source within a day (-want +got):\n%s", diff)
	}
	out.Close()

	repository := s.registry + "/" + namespace + "/app"
	var index ocispec.Index
	if err := json.Unmarshal([]byte(s.run(t, "regctl", "artifact", "list", repository+"@"+root.String(), "--format", "{{json .Manifest}}")), &index); err != nil {
		t.Fatal(err)
	}
	found := slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Digest == signature.Digest && d.ArtifactType == signature.ArtifactType
	})
	if !found {
		t.Errorf("regctl lists %+v, want %s", index.Manifests, signature.Digest)
	}
	for name, want := range map[string]ocispec.Descriptor{"@" + signature.Digest.String(): signature, ":" + stem + ".sig": cosigned} {
		raw := s.run(t, "crane", "manifest", repository+name)
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(raw))); got != want.Digest.String() {
			t.Errorf("crane reads %s at %s, want %s", got, name, want.Digest)
		}
	}
	if tags := s.run(t, "crane", "ls", repository); tags != "latest\n"+stem+".sig\n" {
		t.Errorf("crane lists the tags %q, want latest and cosign's", tags)
	}
}
