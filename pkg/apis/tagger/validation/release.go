// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"regexp"

	apimachineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tagger.dev/tagger/pkg/apis/tagger"
)

// MaxReleaseReferences is how many references one MirrorRelease names at most: more than a history has.
const MaxReleaseReferences = 64

// byDigest matches references of which a digest says what they mean.
var byDigest = regexp.MustCompile(`^[^@\s]+@(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)

// ValidateMirrorRelease validates a MirrorRelease at its creation.
func ValidateMirrorRelease(release *tagger.MirrorRelease) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMeta(&release.ObjectMeta, false, apimachineryvalidation.NameIsDNSSubdomain,
		field.NewPath("metadata"))
	spec, path := &release.Spec, field.NewPath("spec")
	for _, name := range []struct{ field, value, what string }{
		{"namespace", spec.Namespace, "the namespace of the Image"}, {"image", spec.Image, "the Image"},
	} {
		if name.value == "" {
			errs = append(errs, field.Required(path.Child(name.field), "name "+name.what))
			continue
		}
		for _, problem := range apimachineryvalidation.NameIsDNSLabel(name.value, false) {
			errs = append(errs, field.Invalid(path.Child(name.field), name.value, problem))
		}
	}
	references := path.Child("imageReferences")
	switch n := len(spec.ImageReferences); {
	case n == 0:
		errs = append(errs, field.Required(references, "say what the mirror need not keep any more"))
	case n > MaxReleaseReferences:
		errs = append(errs, field.TooMany(references, n, MaxReleaseReferences))
	}
	for i, reference := range spec.ImageReferences {
		if !byDigest.MatchString(reference) {
			errs = append(errs, field.Invalid(references.Index(i), reference, "write REPOSITORY@DIGEST, as the history of the Image has it"))
		}
	}
	return errs
}

// ValidateMirrorReleaseUpdate validates a change of a MirrorRelease: of its metadata, and of when it is due.
func ValidateMirrorReleaseUpdate(release, old *tagger.MirrorRelease) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMetaUpdate(&release.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	path := field.NewPath("spec")
	for name, values := range map[string][2]any{
		"namespace":       {release.Spec.Namespace, old.Spec.Namespace},
		"image":           {release.Spec.Image, old.Spec.Image},
		"imageReferences": {release.Spec.ImageReferences, old.Spec.ImageReferences},
	} {
		errs = append(errs, validateImmutable(values[0], values[1], path.Child(name), "cannot be changed; delete the MirrorRelease to give it up")...)
	}
	return errs
}

// ValidateMirrorReleaseStatusUpdate validates a change of the status of a MirrorRelease.
func ValidateMirrorReleaseStatusUpdate(release, old *tagger.MirrorRelease) field.ErrorList {
	errs := apimachineryvalidation.ValidateObjectMetaUpdate(&release.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if n := release.Status.Failures; n < 0 {
		errs = append(errs, field.Invalid(field.NewPath("status", "failures"), n, "must not be negative"))
	}
	return errs
}
