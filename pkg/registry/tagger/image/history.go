// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tagger.dev/tagger/pkg/apis/tagger"
)

// previous is the number of the entry that a rollback goes back to when it names none.
const previous = 2

// FindEntry returns which entry of an Image's history a valid rollback means, as an index. What the history does not have is
// an API error that names the field.
func FindEntry(image *tagger.Image, spec *tagger.ImageRollbackSpec) (int, error) {
	history := image.Status.HashReferences
	path := field.NewPath("spec")
	switch {
	case spec.Digest != "":
		return findDigest(image, spec.Digest, path.Child("digest"))
	case spec.Number != nil && int(*spec.Number) > len(history):
		return 0, notInHistory(image, field.Invalid(path.Child("number"), *spec.Number,
			fmt.Sprintf("the history has %s; see kubectl image history %s", entries(len(history)), image.Name)))
	case spec.Number != nil:
		return int(*spec.Number) - 1, nil
	case len(history) < previous:
		return 0, apierrors.NewConflict(tagger.Resource("images"), image.Name,
			fmt.Errorf("the history has %s, so that there is nothing earlier to go back to", entries(len(history))))
	default:
		return previous - 1, nil
	}
}

// findDigest returns the newest entry with the digest that a prefix stands for.
func findDigest(image *tagger.Image, prefix string, path *field.Path) (int, error) {
	found := -1
	for i := range image.Status.HashReferences {
		digest := digestOf(&image.Status.HashReferences[i])
		switch {
		case !strings.HasPrefix(digest, prefix):
		case found < 0:
			found = i
		case digest != digestOf(&image.Status.HashReferences[found]):
			return 0, notInHistory(image, field.Invalid(path, prefix, "several digests of the history begin so; write more digits"))
		}
	}
	if found < 0 {
		return 0, notInHistory(image, field.Invalid(path, prefix,
			fmt.Sprintf("no digest of the history begins so; see kubectl image history %s", image.Name)))
	}
	return found, nil
}

func notInHistory(image *tagger.Image, problem *field.Error) error {
	return apierrors.NewInvalid(tagger.Kind("ImageRollback"), image.Name, field.ErrorList{problem})
}

// CheckNotDeleted returns a conflict for an Image that is being deleted: what would be recorded there goes with it.
func CheckNotDeleted(image *tagger.Image, remedy string) error {
	if image.DeletionTimestamp == nil {
		return nil
	}
	return apierrors.NewConflict(tagger.Resource("images"), image.Name, errors.New("the Image is being deleted; "+remedy))
}

func entries(n int) string {
	switch n {
	case 0:
		return "no entries"
	case 1:
		return "one entry"
	default:
		return fmt.Sprintf("%d entries", n)
	}
}

// digestOf returns the digest that an entry of a history names.
func digestOf(ref *tagger.HashReference) string {
	_, digest, _ := strings.Cut(ref.ImageReference, "@")
	return digest
}
