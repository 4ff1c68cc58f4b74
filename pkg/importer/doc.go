// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package importer asks a remote registry what a reference means and copies
// that content into a mirror. It owns the reference grammar, the wire to the
// source (authentication, redirects, address guard, time limits), the checks
// of manifests, and the copy. It does not own which import runs when or how
// often (pkg/queue), where the mirror is (whoever implements Destination), nor
// where credentials come from (Keychain, package keychain).
//
// Invariants:
//
//   - A digest is believed only when it is the one already known, or when its
//     bytes were hashed here.
//   - No bytes are changed and no platform is chosen: an index stays an index.
//   - Credentials travel only over verified TLS or to loopback, unless their owner
//     says otherwise (Credential.InsecureTransport), and never to another host or
//     port than the one that asked for them.
//   - Every failure is an *Error with a Kind. Its text names hosts, status codes
//     and codes of the OCI distribution specification, never what a host wrote.
//   - A registry that asked for a pause is not asked before it is over, by
//     whomever it was told.
//   - Nothing sleeps or retries on its own; everything obeys its context.
//
// Limits hold for an Importer, so a process should have one.
package importer
