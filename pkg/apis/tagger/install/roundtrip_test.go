// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"math/rand"
	"testing"

	apitesting "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/roundtrip"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/fuzzer"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// TestRoundTrip converts every internal type to every served version, serialises that, and back.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	roundtrip.RoundTripTestForAPIGroup(t, Install, fuzzer.Funcs)
}

// TestRoundTripServed serialises every served type as it is: what a client sent and no conversion has seen.
func TestRoundTripServed(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	Install(scheme)
	codecs := serializer.NewCodecFactory(scheme)
	filler := apitesting.FuzzerFor(apitesting.MergeFuzzerFuncs(metafuzzer.Funcs, fuzzer.Funcs), rand.NewSource(rand.Int63()), codecs)
	roundtrip.RoundTripExternalTypesWithoutProtobuf(t, scheme, codecs, filler, nil)
}

func TestInstall(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	Install(scheme)
	if got := scheme.PrioritizedVersionsForGroup(tagger.GroupName); len(got) != 1 || got[0] != v1beta1.SchemeGroupVersion {
		t.Errorf("served versions: %v, want %v alone", got, v1beta1.SchemeGroupVersion)
	}
	for _, kind := range []string{"Image", "ImageList", "ImageImport", "ImageImportList", "ImageRollback", "MirrorRelease",
		"MirrorReleaseList", "RegistryToken", "RegistryKey", "RegistryKeyList"} {
		for _, version := range []schema.GroupVersion{tagger.SchemeGroupVersion, v1beta1.SchemeGroupVersion} {
			if !scheme.Recognizes(version.WithKind(kind)) {
				t.Errorf("%s is not known", version.WithKind(kind))
			}
		}
	}
}
