// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +genclient
// +genclient:method=Import,verb=create,subresource=import,input=ImageImport,result=ImageImport
// +genclient:method=Rollback,verb=create,subresource=rollback,input=ImageRollback,result=ImageRollback
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Image follows one tag of a remote repository and records which digest it meant and when.
type Image struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. The name is at most 63 characters long.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What to follow, and how to import it.
	// +optional
	Spec ImageSpec `json:"spec,omitempty"`
	// What Tagger has recorded. Written by Tagger, through images/status; in a create or an update of the Image it is ignored.
	// +optional
	Status ImageStatus `json:"status,omitempty"`
}

// ImageSpec says what an Image follows and how it is imported.
type ImageSpec struct {
	// Where the image is imported from: a reference as docker takes it, for example "quay.io/company/myapp:latest"
	// ("nginx" means "docker.io/library/nginx:latest"). At most 255 characters, kept as written. Absent: the Image is fed
	// by pushes alone and cannot be imported.
	// +optional
	From string `json:"from,omitempty"`
	// Whether an import also copies the image into the mirror registry, all platforms and byte for byte, so that nothing
	// outside is needed to run it. Default false: only the digest is recorded.
	// +optional
	Mirror bool `json:"mirror"`
	// Whether the source may be reached over plain HTTP or TLS that does not verify. Credentials are not sent to such a
	// source, except on the server's own loopback. Default false.
	// +optional
	Insecure bool `json:"insecure"`
	// How often the image is imported again without being asked, for example "15m": so long after an import of it was last tried,
	// and up to a tenth of that later, so that Images do not all come at once. A new Image is imported within a minute. At least
	// one minute; needs from. Absent: never.
	// +optional
	RefreshInterval *metav1.Duration `json:"refreshInterval,omitempty"`
	// Stops the refresh of refreshInterval while true, also one that is under way; imports that are asked for still run. A
	// rollback, a push and an import from elsewhere set it, so that no schedule undoes them. Default false.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
	// How many entries status.hashReferences keeps, from 1 to 25. Default 25. When it is lowered, the oldest entries go at
	// the next import.
	// +optional
	// +default=ref(DefaultHistoryLimit)
	HistoryLimit *int32 `json:"historyLimit,omitempty"`
}

// ImageStatus is what Tagger has recorded of an Image.
type ImageStatus struct {
	// The digests that the tag has meant, newest first by the time the tag was resolved, at most spec.historyLimit of them.
	// The same digest again refreshes the first entry and adds none. A rollback puts an earlier one in front once more.
	// +optional
	// +listType=atomic
	HashReferences []HashReference `json:"hashReferences,omitempty"`
	// What was recorded for imports whose own status may not say so yet: makes sure that an import that was interrupted is
	// recorded once. For Tagger's own use; an entry goes when its import has finished.
	// +optional
	// +listType=atomic
	RecordedImports []HashReference `json:"recordedImports,omitempty"`
	// When an import of the Image was last tried, whether that succeeded or not. The next refresh of spec.refreshInterval is counted
	// from it.
	// +optional
	LastAttemptTime *metav1.Time `json:"lastAttemptTime,omitempty"`
	// The state of the Image. "Imported" is True when the newest import recorded a reference, or a rollback or a push did since
	// (then the reason is RolledBack or Pushed), False with a typed reason and a message when its last attempt failed; what was
	// recorded earlier stays valid. After the current reference was deleted at the registry the reason is Deleted: True where
	// another took its place, Unknown where none is left. Its observedGeneration is the newest generation of the Image whose from, mirror and insecure were
	// imported, or that was rolled back.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
}

// HashReference is one generation of an Image: what a tag meant at a point in time.
type HashReference struct {
	// The reference that was imported, as it was written in the Image or the ImageImport; of a push, the tag at Tagger's registry
	// endpoint that was pushed.
	From string `json:"from"`
	// What to run: the mirror's reference when the image was mirrored, else the source's; always by digest.
	ImageReference string `json:"imageReference"`
	// Where the content came from, always by digest.
	// +optional
	SourceReference string `json:"sourceReference,omitempty"`
	// When the import, the push or the rollback was recorded, in seconds.
	ImportedAt metav1.Time `json:"importedAt"`
	// When the source answered which digest the tag means, in microseconds. Entries are ordered by it, so that a slow import
	// that resolved earlier never lies in front of a later one. For a push and for a rollback it is when that was recorded.
	// +optional
	ResolvedAt metav1.MicroTime `json:"resolvedAt,omitempty,omitzero"`
	// The UID of the ImageImport that recorded this. A push or a rollback, of which no object is kept, has one that no object has.
	// +optional
	ImportUID types.UID `json:"importUID,omitempty"`
	// The media type of the top-level manifest or index.
	// +optional
	MediaType string `json:"mediaType,omitempty"`
	// Bytes of all distinct blobs: configurations and layers, all platforms together. Absent where that cannot be known
	// without fetching more than the top-level manifest.
	// +optional
	Size int64 `json:"size,omitempty"`
	// The platforms that the image is for, as os/architecture[/variant]. Absent where that cannot be known without fetching
	// more than the top-level manifest.
	// +optional
	// +listType=atomic
	Platforms []string `json:"platforms,omitempty"`
	// When signatures, SBOMs and attestations of the image were last looked for at the source, to be mirrored with it. They
	// are looked for when the image is new, and by later imports once a day. Absent where the image was not mirrored, or
	// where looking for them has failed.
	// +optional
	ReferrersCheckedAt *metav1.Time `json:"referrersCheckedAt,omitempty"`
	// Whether a rollback put this entry here. An import that was asked for before that comes to lie behind it, or is not
	// tried. Absent once an import finds the same digest again.
	// +optional
	RolledBack bool `json:"rolledBack,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageList is a list of Images.
type ImageList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// The Images.
	Items []Image `json:"items"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageRollback is what images/rollback takes and answers; it is not stored. It puts an earlier reference of the Image in
// front of the history again, where that can still be pulled, and suspends the Image's refresh, so that no schedule undoes
// it.
type ImageRollback struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. Name and namespace are the Image's; they may be left out of a request. Nothing else is kept.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Which entry of the Image's history to go back to. Absent: the previous one.
	// +optional
	Spec ImageRollbackSpec `json:"spec,omitempty"`
	// What came of it. Written by Tagger alone; what a client sends here is ignored.
	// +optional
	Status ImageRollbackStatus `json:"status,omitempty"`
}

// ImageRollbackSpec says which entry of an Image's history to go back to. At most one of digest and number may be set; when
// neither is, it is number 2, the entry before the current one.
type ImageRollbackSpec struct {
	// The digest of the entry, "sha256:" and 64 hexadecimal digits in lower case (or "sha512:" and 128), or the beginning of
	// it with at least 4 of the digits, where that fits one digest of the history alone. When several entries have the
	// digest, the newest is meant. It names the same content whatever was imported meanwhile, which a number does not.
	// +optional
	Digest string `json:"digest,omitempty"`
	// The place of the entry in status.hashReferences when the request is handled: 1 is the current one, 2 the one before it,
	// as "kubectl image history" numbers them. From 1 to 25, and no more than the history has entries.
	// +optional
	Number *int32 `json:"number,omitempty"`
}

// ImageRollbackStatus is what came of a rollback.
type ImageRollbackStatus struct {
	// What is current now. It was recorded as a new entry of the history, with the time of the rollback; unless unchanged is
	// true, when it is the entry that was in front already. In the answer to a dry run: what would be recorded, without having
	// been looked for at the mirror or the source.
	// +optional
	HashReference *HashReference `json:"hashReference,omitempty"`
	// Whether the entry was the current one already, so that nothing was recorded. Default false.
	// +optional
	Unchanged bool `json:"unchanged,omitempty"`
	// Whether this rollback set the Image's spec.suspend, which stops the refresh of spec.refreshInterval until somebody sets
	// it to false. False where there is no such interval, or it was suspended before.
	// +optional
	RefreshSuspended bool `json:"refreshSuspended,omitempty"`
}

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageImport imports an Image once. Creating one starts the import and does not wait for it; it is owned by its Image,
// which is created where it is absent and spec.from is given.
type ImageImport struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What to import. Cannot be changed once created.
	// +optional
	Spec ImageImportSpec `json:"spec,omitempty"`
	// How the import went so far. Written by Tagger, through imageimports/status; in a create or an update of the ImageImport it
	// is ignored.
	// +optional
	Status ImageImportStatus `json:"status,omitempty"`
}

// ImageImportSpec says what to import. What is absent is filled in from the Image when the ImageImport is created, so that it
// says for ever what was asked for; later changes of the Image do not change it.
type ImageImportSpec struct {
	// The name of the Image, in the same namespace, that records the outcome. Required.
	TargetImage string `json:"targetImage"`
	// Where to import from, as in an Image. Absent: the Image's spec.from. Another reference than the Image's is recorded in
	// the history, leaves the Image's spec.from alone and needs the right to update the Image.
	// +optional
	From string `json:"from,omitempty"`
	// Whether to copy the image into the mirror registry. Absent: as the Image says.
	// +optional
	Mirror *bool `json:"mirror,omitempty"`
	// Whether the source may be reached over plain HTTP or TLS that does not verify. Absent: as the Image says. Another value
	// than the Image's needs the right to update the Image.
	// +optional
	Insecure *bool `json:"insecure,omitempty"`
	// How many seconds the ImageImport is kept after it has finished, from 0 to 2147483647. Default 3600, an hour.
	// +optional
	// +default=ref(DefaultTTLSecondsAfterFinished)
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// ImageImportStatus is how an import went so far.
type ImageImportStatus struct {
	// What was recorded in the Image, on success.
	// +optional
	HashReference *HashReference `json:"hashReference,omitempty"`
	// Every attempt, oldest first, at most ten. An import is tried again with growing pauses unless the failure cannot heal.
	// +optional
	// +listType=atomic
	ImportAttempts []ImportAttempt `json:"importAttempts,omitempty"`
	// The state of the import. "Imported" is Unknown while it waits for an attempt or runs, then True or False. The
	// reason is typed: NotFound, Unauthorized, RateLimited, Unavailable, Timeout, TLS, Blocked, Invalid,
	// UnsupportedManifest, MirrorUnavailable, MirrorUnauthorized or DigestMismatch when an attempt failed, and Superseded when a
	// later import succeeded before another attempt, or the Image was rolled back.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
	// How far the mirroring of the current attempt has come. Absent when nothing is mirrored.
	// +optional
	Progress *ImportProgress `json:"progress,omitempty"`
	// Which server works at the import. Absent while no attempt runs. For Tagger's own use.
	// +optional
	Claim *ImportClaim `json:"claim,omitempty"`
	// When the import was asked for, in microseconds. What an Image came to mean after that, by a rollback or by an import
	// that was asked for later, is not undone by another attempt.
	// +optional
	RequestedAt metav1.MicroTime `json:"requestedAt,omitempty,omitzero"`
	// When the first attempt began.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// When the next attempt begins, not before. Absent while an attempt runs and after the last one.
	// +optional
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`
	// When the import ended, for good or for bad. Absent until then.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
}

// ImportAttempt is one attempt of an import.
type ImportAttempt struct {
	// When the attempt ended.
	When metav1.Time `json:"when"`
	// Whether it succeeded.
	Succeed bool `json:"succeed"`
	// What went wrong, in words. Absent on success.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// ImportProgress is how far the mirroring of an attempt has come.
type ImportProgress struct {
	// Blobs that are at the mirror.
	Blobs int64 `json:"blobs"`
	// Distinct blobs of the image, all platforms together.
	BlobsTotal int64 `json:"blobsTotal"`
	// Bytes of blobs that are at the mirror or were copied there so far.
	Bytes int64 `json:"bytes"`
	// Bytes of all distinct blobs of the image.
	BytesTotal int64 `json:"bytesTotal"`
}

// ImportClaim says which server works at an import, for one attempt. Where several servers share an etcd, another one takes the
// import over when the object has not changed for 30 seconds.
type ImportClaim struct {
	// The server that works at the import: its host's name, "_" and a UUID that is new with each start.
	Holder string `json:"holder"`
	// When the holder last said that it still works at the import, by its own clock. It does so at least every 10 seconds.
	// +optional
	RenewTime *metav1.MicroTime `json:"renewTime,omitempty"`
	// How often the attempt was taken over from one holder by another.
	// +optional
	Transitions int32 `json:"transitions,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageImportList is a list of ImageImports.
type ImageImportList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// The ImageImports.
	Items []ImageImport `json:"items"`
}

// +genclient
// +genclient:nonNamespaced
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// MirrorRelease is what an Image does not mean any more: the mirror keeps it for some time yet, and then no longer for this Image.
// Tagger makes one when it drops entries of a history or an Image is deleted, and deletes it when it is done, or when the Image
// means the same again. It belongs to no namespace, so that it outlives the one that it is for. To give a release up, delete it:
// the mirror keeps the content then. To have it done now, also where it waits for another attempt, set spec.dueTime to the time it is.
type MirrorRelease struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What to release, and when. Only the times can be changed.
	// +optional
	Spec MirrorReleaseSpec `json:"spec,omitempty"`
	// Why it is not done yet. Written by Tagger, through mirrorreleases/status; in a create or an update of the MirrorRelease it is
	// ignored.
	// +optional
	Status MirrorReleaseStatus `json:"status,omitempty"`
}

// MirrorReleaseSpec says what the mirror need not keep any more, for which Image, and from when on.
type MirrorReleaseSpec struct {
	// The namespace of the Image. Required. Neither it nor the Image need exist any more.
	Namespace string `json:"namespace"`
	// The name of the Image. Required.
	Image string `json:"image"`
	// What the history of the Image had at the mirror, by digest, as it was recorded; from 1 to 64 of them. The content of one is
	// kept while the Image has it in its history, an import of the Image is under way, or a Pod of the namespace runs it.
	// +listType=atomic
	ImageReferences []string `json:"imageReferences"`
	// When it was last dropped from the history of the Image, or was about to be, in microseconds.
	// +optional
	RequestedAt metav1.MicroTime `json:"requestedAt,omitempty,omitzero"`
	// When it is released, not before.
	// +optional
	DueTime metav1.Time `json:"dueTime,omitempty,omitzero"`
}

// MirrorReleaseStatus says why a release is not done yet, although it is due.
type MirrorReleaseStatus struct {
	// How often in a row it failed.
	// +optional
	Failures int32 `json:"failures,omitempty"`
	// What it failed by, or what it waits for, in words.
	// +optional
	Message string `json:"message,omitempty"`
	// When it is tried again, not before. Absent before the first attempt.
	// +optional
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// MirrorReleaseList is a list of MirrorReleases.
type MirrorReleaseList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// The MirrorReleases.
	Items []MirrorRelease `json:"items"`
}
