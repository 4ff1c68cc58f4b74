// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package front is the Backend of the registry endpoint that stores nothing: it
// says in which place the repositories of a namespace lie, at an external mirror or
// in the store of this server, and passes on what is read and written.
//
// It owns what stands between the endpoint and a mirror: how uploads go on that any
// replica may be asked about, and what the errors of one mean to the clients of the
// other. How requests look is pkg/distribution's, how mirrors are found and spoken
// to is pkg/importer/mirror's. It is a package of its own because neither of those
// knows the other.
//
// Invariants:
//   - Content goes by: nothing is written to disk, and of a blob no more is in memory
//     than the parts that are under way.
//   - Whoever gets a manifest, or all of a blob, gets what has the digest.
//   - The credentials of a mirror are used for the repositories of the namespace
//     alone, and where a mirror has an upload go on is never for clients to choose:
//     what they hold of it is sealed, for one repository.
//   - Nothing that a mirror wrote is repeated but content, tags and digests.
package front
