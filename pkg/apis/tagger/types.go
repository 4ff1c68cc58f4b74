// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// MaxImportAttempts is how often an import is tried.
const MaxImportAttempts = 10

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Image is one tag of a remote repository, and the digests that it has meant.
type Image struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec   ImageSpec
	Status ImageStatus
}

// ImageSpec says what to follow and how.
type ImageSpec struct {
	From            string
	Mirror          bool
	Insecure        bool
	RefreshInterval *metav1.Duration
	Suspend         bool
	HistoryLimit    *int32
}

// ImageStatus is what Tagger has recorded of an Image.
type ImageStatus struct {
	HashReferences  []HashReference
	RecordedImports []HashReference
	LastAttemptTime *metav1.Time
	Conditions      []metav1.Condition
}

// HashReference is one generation of an Image.
type HashReference struct {
	From            string
	ImageReference  string
	SourceReference string
	ImportedAt      metav1.Time
	ResolvedAt      metav1.MicroTime
	ImportUID       types.UID
	MediaType       string
	Size            int64
	Platforms       []string

	ReferrersCheckedAt *metav1.Time
	RolledBack         bool
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageList is a list of Images.
type ImageList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []Image
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageRollback puts an earlier reference of an Image in front again. It is asked for and answered, and never stored.
type ImageRollback struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec   ImageRollbackSpec
	Status ImageRollbackStatus
}

// ImageRollbackSpec says which entry of the history to go back to: at most one of the fields is set.
type ImageRollbackSpec struct {
	Digest string
	Number *int32
}

// ImageRollbackStatus is what came of a rollback.
type ImageRollbackStatus struct {
	HashReference    *HashReference
	Unchanged        bool
	RefreshSuspended bool
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageImport is one import of an Image: what was asked for, and how it went.
type ImageImport struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec   ImageImportSpec
	Status ImageImportStatus
}

// ImageImportSpec says what to import. What is absent is filled in from the Image at creation.
type ImageImportSpec struct {
	TargetImage             string
	From                    string
	Mirror                  *bool
	Insecure                *bool
	TTLSecondsAfterFinished *int32
}

// ImageImportStatus is how the import went so far.
type ImageImportStatus struct {
	HashReference   *HashReference
	ImportAttempts  []ImportAttempt
	Conditions      []metav1.Condition
	Progress        *ImportProgress
	Claim           *ImportClaim
	RequestedAt     metav1.MicroTime
	StartTime       *metav1.Time
	NextAttemptTime *metav1.Time
	CompletionTime  *metav1.Time
}

// ImportAttempt is one attempt of an import.
type ImportAttempt struct {
	When    metav1.Time
	Succeed bool
	Reason  string
}

// ImportProgress is how far the mirroring of the current attempt has come.
type ImportProgress struct {
	Blobs      int64
	BlobsTotal int64
	Bytes      int64
	BytesTotal int64
}

// ImportClaim says which server works at the import.
type ImportClaim struct {
	Holder      string
	RenewTime   *metav1.MicroTime
	Transitions int32
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// ImageImportList is a list of ImageImports.
type ImageImportList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []ImageImport
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// MirrorRelease is what an Image does not mean any more, and what the mirror therefore need not keep for it.
type MirrorRelease struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec   MirrorReleaseSpec
	Status MirrorReleaseStatus
}

// MirrorReleaseSpec says what to release, and when.
type MirrorReleaseSpec struct {
	Namespace       string
	Image           string
	ImageReferences []string
	RequestedAt     metav1.MicroTime
	DueTime         metav1.Time
}

// MirrorReleaseStatus says why the release is not done yet.
type MirrorReleaseStatus struct {
	Failures        int32
	Message         string
	NextAttemptTime *metav1.Time
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// MirrorReleaseList is a list of MirrorReleases.
type MirrorReleaseList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []MirrorRelease
}
