// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// addFieldLabelConversionFuncs names the fields that field selectors may use: --field-selector spec.mirror=true.
func addFieldLabelConversionFuncs(scheme *runtime.Scheme) error {
	if err := scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("Image"),
		selectable("Image", "spec.from", "spec.mirror")); err != nil {
		return err
	}
	if err := scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("MirrorRelease"),
		selectable("MirrorRelease", "spec.namespace", "spec.image")); err != nil {
		return err
	}
	return scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("ImageImport"),
		selectable("ImageImport", "spec.targetImage", "spec.from", "spec.mirror"))
}

func selectable(kind string, labels ...string) runtime.FieldLabelConversionFunc {
	labels = append([]string{"metadata.name", "metadata.namespace"}, labels...)
	return func(label, value string) (string, string, error) {
		for _, known := range labels {
			if label == known {
				return label, value, nil
			}
		}
		return "", "", fmt.Errorf("%q is not a field that %ss can be selected by; use one of %q", label, kind, labels)
	}
}
