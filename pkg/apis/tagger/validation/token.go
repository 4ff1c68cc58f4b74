// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"tagger.dev/tagger/pkg/apis/tagger"
)

const (
	// MinTokenSeconds is how long a token for the registry endpoint lives at least, which is what clients of registries expect.
	MinTokenSeconds = 60
	// MaxTokenSeconds is how long it lives at most: it cannot be taken back.
	MaxTokenSeconds = 3600
)

// ValidateRegistryToken validates what a RegistryToken asks for.
func ValidateRegistryToken(token *tagger.RegistryToken) field.ErrorList {
	seconds, path := token.Spec.ExpirationSeconds, field.NewPath("spec", "expirationSeconds")
	switch {
	case seconds == nil:
		return field.ErrorList{field.Required(path, fmt.Sprintf("say for how many seconds, from %d to %d", MinTokenSeconds, MaxTokenSeconds))}
	case *seconds < MinTokenSeconds, *seconds > MaxTokenSeconds:
		return field.ErrorList{field.Invalid(path, *seconds, fmt.Sprintf("must be from %d to %d", MinTokenSeconds, MaxTokenSeconds))}
	}
	return nil
}
