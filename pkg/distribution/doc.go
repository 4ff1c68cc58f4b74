// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package distribution is the registry endpoint: an http.Handler that speaks
// the OCI Distribution Specification v1.1 under /v2/.
//
// It owns the protocol and nothing else: which paths exist, what a name, a tag
// and a digest look like, ranges and preconditions, headers, the error
// documents. Content comes from a Backend, permission from an Authorizer; the
// package knows neither Kubernetes nor a store, and both interfaces are
// declared here, by their consumer.
//
// Invariants:
//   - A request is parsed as a whole before anything else sees it. What does
//     not follow the grammar reaches neither Authorizer nor Backend.
//   - Every request is authorised before the Backend is asked.
//   - A repository that the caller may not use answers exactly as one that
//     does not exist.
//   - Tags that begin with "anchor-" belong to Tagger. Nobody sees or writes them.
//   - Bodies stream: a blob is never held, a manifest is bounded, and a body that
//     stands still ends.
//   - Handlers return errors; one place writes them, from one table. Texts of
//     errors go to the log and never to a client, but for those that were made for
//     it, by Explain.
package distribution
