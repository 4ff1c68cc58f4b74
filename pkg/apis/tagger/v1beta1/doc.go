// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// +k8s:deepcopy-gen=package
// +k8s:conversion-gen=tagger.dev/tagger/pkg/apis/tagger
// +k8s:defaulter-gen=TypeMeta
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=dev.tagger.v1beta1
// +groupName=tagger.dev

// Package v1beta1 is the first served version of the tagger.dev API group, and the one that etcd stores: Image, the digests
// that a remote tag has meant, ImageImport, one import of such a tag, and MirrorRelease, what the mirror need not keep any more.
// ImageRollback and RegistryToken are asked for and never stored.
package v1beta1
