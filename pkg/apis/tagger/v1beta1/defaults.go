// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// DefaultHistoryLimit is how many generations an Image keeps where its spec does not say; it is also the most.
	DefaultHistoryLimit int32 = 25
	// DefaultTTLSecondsAfterFinished is how long a finished ImageImport is kept where its spec does not say.
	DefaultTTLSecondsAfterFinished int32 = 3600
	// DefaultTokenExpirationSeconds is how long a token for the registry endpoint lives where it is not said; it is also the most.
	DefaultTokenExpirationSeconds int64 = 3600
)

// addDefaultingFuncs registers what is generated from the +default markers of the types. What an ImageImport inherits from
// its Image is no default: the server fills it in at creation.
func addDefaultingFuncs(scheme *runtime.Scheme) error {
	return RegisterDefaults(scheme)
}
