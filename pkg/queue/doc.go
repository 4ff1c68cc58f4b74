// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package queue decides which import runs when: it watches ImageImports, runs their attempts, and records the outcome, first
// in the Image and then in the ImageImport. How an image is resolved and copied is package importer's.
//
// Several replicas of the server may each have a Controller on one etcd. Any of them may run any import: it claims one for an
// attempt, says now and then that it works at it, and releases it with the outcome. What a replica that died had claimed is
// taken over by another.
//
// Invariants: an import is recorded at most once, whatever is interrupted (Image.status.recordedImports) and by whoever runs it
// (a claim is confirmed between reading the Image and writing it); what was recorded earlier is never lost by a failure; nothing
// is kept in memory that others or the next start need.
package queue
