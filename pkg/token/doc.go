// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package token owns the tokens that Tagger itself issues for its registry endpoint: what they say, and the keys that sign them.
//
// A token is a JSON Web Token (RFC 7519) signed by ECDSA on P-256 (ES256). Whom it stands for somebody else has found out; what that
// one may do it does not say. One that is bound says in a claim "access", as the token specification of the distribution
// project has it, what alone it may be used for.
//
// The package knows nothing of HTTP, of etcd, and of who asks for tokens.
//
// Invariants:
//   - A token is good for MaxLifetime at most, for one audience alone, and is accepted for no longer than the key that signed it.
//   - A key signs for one day, by UTC, and is made an hour before. All servers on one store name the key of a day alike, so
//     that the second to make it finds it there.
//   - Neither tokens nor keys get into errors or logs.
package token
