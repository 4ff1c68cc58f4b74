// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package mirror finds where images are mirrored to, in a Secret, in the ConfigMap
// of KEP-1755 or in the store of this server, and writes them to any registry of
// the OCI distribution specification. It owns how that place is configured and the
// wire to it; what is copied, and when, is for package importer and its callers.
//
// Invariants:
//
//   - Blobs stream through. Their length and digest are checked on the way, and
//     one that is wrong is cut before its last byte leaves.
//   - Blobs are mounted from repositories of the same Kubernetes namespace alone,
//     which are always named.
//   - Nothing is deleted but tags, and those only when asked.
//   - Credentials go to the configured host, to the token service that it names
//     and nowhere else; over verified TLS unless the configuration is insecure.
//   - No error holds what a registry wrote, nor anything of a Secret but its name
//     and keys.
//   - Nothing sleeps or retries on its own, but for the lists of referrers where a
//     registry keeps none itself; everything obeys its context.
package mirror
