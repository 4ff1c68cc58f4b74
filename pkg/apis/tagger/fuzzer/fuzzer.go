// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fuzzer fills the types of the tagger.dev group with random values for round-trip tests, such values as an object
// has after it was decoded: a field with a default is never absent then.
package fuzzer

import (
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/randfill"

	"tagger.dev/tagger/pkg/apis/tagger"
)

// Funcs returns the functions that fill the types for which plain random values do not do.
func Funcs(runtimeserializer.CodecFactory) []any {
	return []any{
		func(spec *tagger.ImageSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			if spec.HistoryLimit == nil {
				spec.HistoryLimit = ptr.To(c.Int31())
			}
		},
		func(spec *tagger.ImageImportSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			if spec.TTLSecondsAfterFinished == nil {
				spec.TTLSecondsAfterFinished = ptr.To(c.Int31())
			}
		},
		func(spec *tagger.RegistryTokenSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			if spec.ExpirationSeconds == nil {
				spec.ExpirationSeconds = ptr.To(c.Int63())
			}
		},
	}
}
