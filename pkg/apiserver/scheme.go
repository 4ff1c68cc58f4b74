// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"tagger.dev/tagger/pkg/apis/tagger/install"
)

var (
	// Scheme knows every type that the server serves.
	Scheme = newScheme()
	// Codecs serialises the types of Scheme.
	Codecs = serializer.NewCodecFactory(Scheme)
)

// textCodecs serialise what the API is sent and answers. Types of ours have no protobuf: who asks for that before JSON, as the
// controllers of namespaces and of garbage do, gets JSON.
type textCodecs struct{ serializer.CodecFactory }

func (c textCodecs) SupportedMediaTypes() []runtime.SerializerInfo {
	return slices.DeleteFunc(slices.Clone(c.CodecFactory.SupportedMediaTypes()), func(info runtime.SerializerInfo) bool {
		return info.MediaType == runtime.ContentTypeProtobuf
	})
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	// What the generic server itself decodes and answers, in every version of every group.
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"},
		&metav1.Status{},
		&metav1.APIVersions{},
		&metav1.APIGroupList{},
		&metav1.APIGroup{},
		&metav1.APIResourceList{},
	)
	return scheme
}
