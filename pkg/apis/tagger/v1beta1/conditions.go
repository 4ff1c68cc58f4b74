// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

// ConditionImported is the condition of Images and ImageImports that says whether the import succeeded.
const ConditionImported = "Imported"

// Reasons of the condition Imported that are no failures.
const (
	// ReasonPending: the import waits for its first attempt.
	ReasonPending = "Pending"
	// ReasonInProgress: an attempt runs.
	ReasonInProgress = "InProgress"
	// ReasonImported: a new reference was recorded.
	ReasonImported = "Imported"
	// ReasonUnchanged: the source names the digest that was already recorded.
	ReasonUnchanged = "Unchanged"
	// ReasonPushed: an image was pushed to Tagger's registry endpoint under the Image's name.
	ReasonPushed = "Pushed"
	// ReasonDeleted: what the Image meant was deleted at Tagger's registry endpoint, and it means what it meant before. Unknown where
	// that is nothing.
	ReasonDeleted = "Deleted"
	// ReasonRolledBack: a rollback put an earlier reference of the Image in front again.
	ReasonRolledBack = "RolledBack"
)

// Reasons of the condition Imported when an attempt failed: what went wrong, and whether another attempt may help.
const (
	// ReasonNotFound: the source has no such repository, tag or content.
	ReasonNotFound = "NotFound"
	// ReasonUnauthorized: the source refused the credentials, or the lack of them.
	ReasonUnauthorized = "Unauthorized"
	// ReasonRateLimited: the source asked to be left alone for a while.
	ReasonRateLimited = "RateLimited"
	// ReasonUnavailable: the source could not be reached, or failed.
	ReasonUnavailable = "Unavailable"
	// ReasonTimeout: the source did not answer in time.
	ReasonTimeout = "Timeout"
	// ReasonTLS: the source's certificate does not verify, or it speaks no TLS.
	ReasonTLS = "TLS"
	// ReasonBlocked: the server may not reach that source, or may not import that much: not tried again. Of an Image also: the cluster
	// refuses its refresh, by a quota or a policy, which is tried again.
	ReasonBlocked = "Blocked"
	// ReasonInvalid: what was asked for cannot be done. Not tried again.
	ReasonInvalid = "Invalid"
	// ReasonUnsupportedManifest: the source names something that is no image Tagger knows. Not tried again.
	ReasonUnsupportedManifest = "UnsupportedManifest"
	// ReasonMirrorUnavailable: the mirror could not be reached, or failed, or a key of its Secret is wrong.
	ReasonMirrorUnavailable = "MirrorUnavailable"
	// ReasonMirrorUnauthorized: the mirror refused the credentials.
	ReasonMirrorUnauthorized = "MirrorUnauthorized"
	// ReasonDigestMismatch: the source delivered other bytes than it named.
	ReasonDigestMismatch = "DigestMismatch"
	// ReasonSuperseded: an import that was asked for later succeeded first, or a rollback did, so that another attempt would undo
	// it. Not tried again.
	ReasonSuperseded = "Superseded"
)

// ReasonSeldomHeals says whether a reason of the condition Imported names a failure that seldom heals by itself: more attempts
// follow, but a person who waits is better told at once.
func ReasonSeldomHeals(reason string) bool {
	switch reason {
	case ReasonNotFound, ReasonUnauthorized, ReasonTLS:
		return true
	default:
		return false
	}
}
