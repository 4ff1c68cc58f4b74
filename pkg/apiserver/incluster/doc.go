// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package incluster owns what a server needs of the cluster that it extends: the
// certificate authority that its replicas share, the trust of kube-apiserver in
// it, and the wait for kube-apiserver at the start.
package incluster
