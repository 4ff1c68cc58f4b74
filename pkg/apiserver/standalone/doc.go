// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package standalone owns the data directory of a server that runs without a
// Kubernetes cluster: its lock and format version, its certificate authority,
// the administrator's token and kubeconfig.
//
// It knows where the embedded etcd and image store lie in the directory, and
// nothing about either.
//
// Invariants:
//   - The directory can be entered by its owner alone (0700); secrets in it are
//     readable by the owner alone (0600).
//   - One process at a time has the directory open.
//   - Files change atomically, and are on the disk before the call returns.
//   - Authority and token outlive restarts. Serving certificates do not need
//     to, and are never written.
package standalone
