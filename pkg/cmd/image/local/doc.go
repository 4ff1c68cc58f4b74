// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package local is about images outside the cluster, on the machine where somebody types: where they lie, how they are read, and
// how they are written there. It knows nothing of the cluster.
//
// Every image is an OCI graph to its callers: a layout, whether on disk, packed in an archive or kept in scratch. What an archive
// or a layout has is never changed, byte for byte; only layers that a container engine handed out uncompressed are compressed.
//
// The stores of podman and docker are read and written by podman and docker: `save` and `load` work wherever these programs do,
// without root, on a machine elsewhere, and through a docker context. A store that belongs to a user namespace cannot be opened
// by a process outside it.
package local
