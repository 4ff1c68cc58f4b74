// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"tagger.dev/tagger/pkg/apis/tagger"
)

const (
	// MinDigestPrefix is how many hexadecimal digits the beginning of a digest must have to stand for the digest.
	MinDigestPrefix = 4
	// maxDigestLength is that of a sha512 digest, the longest.
	maxDigestLength = len("sha512:") + 128
)

// ValidateImageRollback validates what a rollback asks for. Whether the history has such an entry it does not know.
func ValidateImageRollback(rollback *tagger.ImageRollback) field.ErrorList {
	var errs field.ErrorList
	spec, path := &rollback.Spec, field.NewPath("spec")
	if spec.Digest != "" {
		errs = append(errs, validateDigestPrefix(spec.Digest, path.Child("digest"))...)
	}
	if number := spec.Number; number != nil && *number < 1 {
		errs = append(errs, field.Invalid(path.Child("number"), *number, "must be at least 1, the current entry"))
	}
	if spec.Digest != "" && spec.Number != nil {
		errs = append(errs, field.Forbidden(path.Child("number"), "may not be set beside digest; say in one way which entry is meant"))
	}
	return errs
}

// validateDigestPrefix wants a digest or the beginning of one, with its algorithm.
func validateDigestPrefix(value string, path *field.Path) field.ErrorList {
	if len(value) > maxDigestLength {
		return field.ErrorList{field.TooLong(path, "", maxDigestLength)}
	}
	algorithm, hex, _ := strings.Cut(value, ":")
	digits := 0
	switch algorithm {
	case "sha256":
		digits = 64
	case "sha512":
		digits = 128
	}
	switch {
	case digits == 0, len(hex) < MinDigestPrefix, strings.Trim(hex, "0123456789abcdef") != "":
		return field.ErrorList{field.Invalid(path, value, fmt.Sprintf(
			"write sha256: and at least %d hexadecimal digits in lower case, as the history shows them", MinDigestPrefix))}
	case len(hex) > digits:
		return field.ErrorList{field.Invalid(path, value,
			fmt.Sprintf("has %d hexadecimal digits; a %s digest has %d", len(hex), algorithm, digits))}
	}
	return nil
}
