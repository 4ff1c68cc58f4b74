// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package embedded runs in this process what Tagger otherwise finds outside: an
// etcd of one member, and an image store. No other package imports their
// server code.
//
// The image store is containerd's content store, core/metadata over
// plugins/content/local, and this package adds next to no storage of its own. It maps
// our terms onto containerd's:
//
//   - A Kubernetes namespace is a containerd namespace of the isolated policy:
//     bytes that lie in one are in another only once they were sent there too.
//   - A repository is a label on every content of the namespace that it holds.
//   - A manifest carries its media type as a label, and a reference to each thing
//     that it names, as labels that the garbage collector follows. Who looks through
//     a namespace for them reads containerd's buckets, and has none in memory.
//   - A tag is an image record NAME:TAG, and so a root of the collector.
//   - What an import has brought so far is held by a lease that expires, and so
//     is what was pushed and is named by nothing. What a client asked for by HEAD,
//     and may not send again, is kept for a while without one.
//   - An upload is an unfinished write, called upload/NAME/ID, and outlives the
//     process. One of which nothing came yet is a note in the folder uploads.
//   - What refers to a manifest that is not there is an image record
//     NAME@SUBJECT@REFERRER that expires.
//   - A namespace that the cluster has no more has a label that says since when.
//
// Invariants:
//   - Content is in the store under a digest only after its bytes were hashed
//     to that digest.
//   - A tag is written only when everything below it is there.
//   - A record whose file is gone or has another size counts as absent, for
//     reading and for writing alike, and the next push of it heals it.
//   - One process at a time has a directory open; a second one is told so.
package embedded
