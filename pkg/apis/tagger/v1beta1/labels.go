// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

// LabelRefresh is the label of ImageImports that the schedule of an Image, its spec.refreshInterval, asked for. Its value is "true".
const LabelRefresh = "tagger.dev/refresh"
