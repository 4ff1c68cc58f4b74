// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package queue decides which import runs when: it watches ImageImports, runs their attempts, and records the outcome, first
// in the Image and then in the ImageImport. How an image is resolved and copied is package importer's.
//
// Invariants: an import is recorded at most once, whatever is interrupted (Image.status.recordedImports); what was recorded
// earlier is never lost by a failure; nothing is kept in memory that etcd does not have, so that after a restart every
// unfinished import is taken up again.
package queue
