// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package certificate owns a certificate authority of Tagger's own and the
// certificates that servers have from it, which live in memory and are renewed in
// time. Where the authority is kept is its users' concern.
package certificate
