// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func TestValidateImageRollback(t *testing.T) {
	t.Parallel()
	const remedy = "write sha256: and at least 4 hexadecimal digits in lower case"
	tests := []struct {
		name   string
		digest string
		number *int32
		want   []problem
	}{
		{name: "the previous entry"},
		{name: "a digest", digest: "sha256:" + strings.Repeat("0f", 32)},
		{name: "a longer digest", digest: "sha512:" + strings.Repeat("0f", 64)},
		{name: "the shortest beginning of a digest", digest: "sha256:5a37"},
		{name: "the current entry", number: ptr.To[int32](1)},
		{name: "a number, of which the history knows whether it has it", number: ptr.To[int32](99)},
		{
			name: "too short", digest: "sha256:5a3",
			want: []problem{{field.ErrorTypeInvalid, "spec.digest", remedy}},
		},
		{
			name: "no algorithm", digest: "5a3771f19d8e",
			want: []problem{{field.ErrorTypeInvalid, "spec.digest", remedy}},
		},
		{
			name: "another algorithm", digest: "md5:5a3771f19d8e",
			want: []problem{{field.ErrorTypeInvalid, "spec.digest", remedy}},
		},
		{
			name: "upper case", digest: "sha256:5A3771F19D8E",
			want: []problem{{field.ErrorTypeInvalid, "spec.digest", remedy}},
		},
		{
			name: "a reference", digest: "quay.io/company/myapp@sha256:5a3771f19d8e",
			want: []problem{{field.ErrorTypeInvalid, "spec.digest", remedy}},
		},
		{
			name: "more digits than there are", digest: "sha256:" + strings.Repeat("0", 65),
			want: []problem{{field.ErrorTypeInvalid, "spec.digest", "has 65 hexadecimal digits; a sha256 digest has 64"}},
		},
		{
			name: "too long", digest: strings.Repeat("0", 136),
			want: []problem{{field.ErrorTypeTooLong, "spec.digest", "135"}},
		},
		{
			name: "number 0", number: ptr.To[int32](0),
			want: []problem{{field.ErrorTypeInvalid, "spec.number", "at least 1, the current entry"}},
		},
		{
			name: "both", digest: "sha256:5a37", number: ptr.To[int32](2),
			want: []problem{{field.ErrorTypeForbidden, "spec.number", "say in one way"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check(t, ValidateImageRollback(&tagger.ImageRollback{
				Spec: tagger.ImageRollbackSpec{Digest: tt.digest, Number: tt.number},
			}), tt.want)
		})
	}
}
