// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package install adds every version of the tagger.dev API group to a scheme.
package install

import (
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// Install adds the internal types and every served version to the scheme, the preferred one first. It panics on a conflict,
// which is a programming error.
func Install(scheme *runtime.Scheme) {
	utilruntime.Must(tagger.AddToScheme(scheme))
	utilruntime.Must(v1beta1.AddToScheme(scheme))
	utilruntime.Must(scheme.SetVersionPriority(v1beta1.SchemeGroupVersion))
}
