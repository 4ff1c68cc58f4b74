// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// +k8s:deepcopy-gen=package
// +groupName=tagger.dev

// Package tagger is the internal version of the tagger.dev API group: the hub that every served version converts to and
// from. It is never serialised; what users write and etcd stores is package v1beta1, where the fields are documented.
package tagger
