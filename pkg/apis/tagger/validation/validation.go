// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package validation says which Images, ImageImports and ImageRollbacks are valid. Every error names the field, the value and the remedy.
package validation

import (
	"fmt"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apimachineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tagger.dev/tagger/pkg/apis/tagger"
)

const (
	// MinRefreshInterval is the shortest interval of the scheduled import.
	MinRefreshInterval = time.Minute
	// MaxHistoryLimit is how many generations an Image keeps at most.
	MaxHistoryLimit = 25
	// MaxRecordedImports bounds what an Image remembers of imports that may be unfinished: far more than run at once.
	MaxRecordedImports = 1000
	// MaxReferenceLength is how many characters a reference may have.
	MaxReferenceLength = 255
)

// ReferenceValidator says what is wrong with an image reference, in words for its author; nil when nothing is. It is injected
// so that this package depends on nothing but apimachinery.
type ReferenceValidator func(reference string) error

// ValidateImageName says whether a name may be an Image's: a DNS label of at most 63 characters, since it is a path segment of
// the mirror's repository and the prefix of the names of its imports.
func ValidateImageName(name string, prefix bool) []string {
	return apimachineryvalidation.NameIsDNSLabel(name, prefix)
}

// ValidateImage validates an Image at its creation.
func ValidateImage(image *tagger.Image, reference ReferenceValidator) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMeta(&image.ObjectMeta, true, ValidateImageName, field.NewPath("metadata"))
	return append(errs, validateImageSpec(&image.Spec, reference, field.NewPath("spec"))...)
}

// ValidateImageUpdate validates a change of an Image's metadata and spec.
func ValidateImageUpdate(image, old *tagger.Image, reference ReferenceValidator) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMetaUpdate(&image.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validateImageSpec(&image.Spec, reference, field.NewPath("spec"))...)
}

// ValidateImageStatusUpdate validates a change of an Image's status.
func ValidateImageStatusUpdate(image, old *tagger.Image) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMetaUpdate(&image.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	status := field.NewPath("status")
	if n := len(image.Status.HashReferences); n > MaxHistoryLimit {
		errs = append(errs, field.TooMany(status.Child("hashReferences"), n, MaxHistoryLimit))
	}
	for i := range image.Status.HashReferences {
		errs = append(errs, validateHashReference(&image.Status.HashReferences[i], status.Child("hashReferences").Index(i))...)
	}
	errs = append(errs, validateRecordedImports(image.Status.RecordedImports, status.Child("recordedImports"))...)
	return append(errs, metav1validation.ValidateConditions(image.Status.Conditions, status.Child("conditions"))...)
}

// validateRecordedImports validates what an Image remembers of imports: by their UIDs, each once.
func validateRecordedImports(recorded []tagger.HashReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(recorded); n > MaxRecordedImports {
		errs = append(errs, field.TooMany(path, n, MaxRecordedImports))
	}
	seen := map[types.UID]bool{}
	for i := range recorded {
		uid, at := recorded[i].ImportUID, path.Index(i)
		switch {
		case uid == "":
			errs = append(errs, field.Required(at.Child("importUID"), "name the import that was recorded"))
		case seen[uid]:
			errs = append(errs, field.Duplicate(at.Child("importUID"), uid))
		}
		seen[uid] = true
		errs = append(errs, validateHashReference(&recorded[i], at)...)
	}
	return errs
}

func validateImageSpec(spec *tagger.ImageSpec, reference ReferenceValidator, path *field.Path) field.ErrorList {
	errs := validateReference(spec.From, reference, path.Child("from"))
	if interval := spec.RefreshInterval; interval != nil && interval.Duration < MinRefreshInterval {
		errs = append(errs, field.Invalid(path.Child("refreshInterval"), interval.Duration.String(),
			fmt.Sprintf("must be at least %s; leave it out to import only when asked", MinRefreshInterval)))
	}
	if spec.RefreshInterval != nil && spec.From == "" {
		errs = append(errs, field.Required(path.Child("from"), "a refreshInterval needs a reference to import from"))
	}
	if limit := spec.HistoryLimit; limit != nil && (*limit < 1 || *limit > MaxHistoryLimit) {
		errs = append(errs, field.Invalid(path.Child("historyLimit"), *limit,
			fmt.Sprintf("must be between 1 and %d", MaxHistoryLimit)))
	}
	return errs
}

// ValidateImageImport validates an ImageImport at its creation, after what it inherits was filled in.
func ValidateImageImport(imp *tagger.ImageImport, reference ReferenceValidator) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMeta(&imp.ObjectMeta, true, apimachineryvalidation.NameIsDNSSubdomain,
		field.NewPath("metadata"))
	return append(errs, ValidateImageImportSpec(&imp.Spec, reference, field.NewPath("spec"))...)
}

// ValidateImageImportSpec validates what an import was asked for.
func ValidateImageImportSpec(spec *tagger.ImageImportSpec, reference ReferenceValidator, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.TargetImage == "" {
		errs = append(errs, field.Required(path.Child("targetImage"), "name the Image, in the same namespace, that records the import"))
	} else {
		for _, problem := range ValidateImageName(spec.TargetImage, false) {
			errs = append(errs, field.Invalid(path.Child("targetImage"), spec.TargetImage, problem))
		}
	}
	errs = append(errs, validateReference(spec.From, reference, path.Child("from"))...)
	if ttl := spec.TTLSecondsAfterFinished; ttl != nil && *ttl < 0 {
		errs = append(errs, field.Invalid(path.Child("ttlSecondsAfterFinished"), *ttl, "must be at least 0"))
	}
	return errs
}

// ValidateImageImportUpdate validates a change of an ImageImport's metadata; its spec cannot change.
func ValidateImageImportUpdate(imp, old *tagger.ImageImport) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMetaUpdate(&imp.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validateImmutable(imp.Spec, old.Spec, field.NewPath("spec"), "cannot be changed once created; create another ImageImport to import again")...)
}

// validateImmutable refuses a change, with the remedy in place of the value.
func validateImmutable(value, old any, path *field.Path, remedy string) field.ErrorList {
	problems := apimachineryvalidation.ValidateImmutableField(value, old, path)
	for _, problem := range problems {
		problem.BadValue, problem.Detail = field.OmitValueType{}, remedy
	}
	return problems
}

// ValidateImageImportStatusUpdate validates a change of an ImageImport's status.
func ValidateImageImportStatusUpdate(imp, old *tagger.ImageImport) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMetaUpdate(&imp.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	status := field.NewPath("status")
	if n := len(imp.Status.ImportAttempts); n > tagger.MaxImportAttempts {
		errs = append(errs, field.TooMany(status.Child("importAttempts"), n, tagger.MaxImportAttempts))
	}
	if imp.Status.HashReference != nil {
		errs = append(errs, validateHashReference(imp.Status.HashReference, status.Child("hashReference"))...)
	}
	if progress := imp.Status.Progress; progress != nil {
		for name, n := range map[string]int64{"blobs": progress.Blobs, "blobsTotal": progress.BlobsTotal,
			"bytes": progress.Bytes, "bytesTotal": progress.BytesTotal} {
			if n < 0 {
				errs = append(errs, field.Invalid(status.Child("progress", name), n, "must not be negative"))
			}
		}
	}
	if claim := imp.Status.Claim; claim != nil && claim.Holder == "" {
		errs = append(errs, field.Required(status.Child("claim", "holder"), "name the server that works at the import"))
	}
	if old.Status.CompletionTime != nil { // it would run again
		const ended = "cannot be changed once the import has ended"
		if !old.Status.CompletionTime.Equal(imp.Status.CompletionTime) {
			errs = append(errs, field.Forbidden(status.Child("completionTime"), ended))
		}
		if !apiequality.Semantic.DeepEqual(old.Status.HashReference, imp.Status.HashReference) {
			errs = append(errs, field.Forbidden(status.Child("hashReference"), ended))
		}
	}
	return append(errs, metav1validation.ValidateConditions(imp.Status.Conditions, status.Child("conditions"))...)
}

func validateHashReference(ref *tagger.HashReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ref.ImageReference == "" {
		errs = append(errs, field.Required(path.Child("imageReference"), "an entry of the history names what to run"))
	}
	if ref.Size < 0 {
		errs = append(errs, field.Invalid(path.Child("size"), ref.Size, "must not be negative"))
	}
	return errs
}

func validateReference(value string, reference ReferenceValidator, path *field.Path) field.ErrorList {
	switch {
	case value == "":
		return nil
	case len(value) > MaxReferenceLength:
		return field.ErrorList{field.TooLong(path, "", MaxReferenceLength)}
	}
	if err := reference(value); err != nil {
		return field.ErrorList{field.Invalid(path, quotable(value), err.Error())}
	}
	return nil
}

// quotable returns a refused reference as an error may quote it: not when it may carry a password, as a URL with user
// information does.
func quotable(value string) any {
	host, _, _ := strings.Cut(value, "/")
	if strings.Contains(value, "://") || strings.Contains(host, "@") {
		return field.OmitValueType{}
	}
	return value
}
