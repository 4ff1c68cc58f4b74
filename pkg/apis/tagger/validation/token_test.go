// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

func TestValidateRegistryToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		seconds *int64
		want    []string
	}{
		{name: "the default", seconds: new(v1beta1.DefaultTokenExpirationSeconds)},
		{name: "the least", seconds: new(int64(60))},
		{name: "too little", seconds: new(int64(59)), want: []string{"spec.expirationSeconds: Invalid value: 59: must be from 60 to 3600"}},
		{name: "too much", seconds: new(int64(3601)), want: []string{"spec.expirationSeconds: Invalid value: 3601: must be from 60 to 3600"}},
		{name: "negative", seconds: new(int64(-1)), want: []string{"spec.expirationSeconds: Invalid value: -1: must be from 60 to 3600"}},
		{name: "none", want: []string{"spec.expirationSeconds: Required value: say for how many seconds, from 60 to 3600"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, err := range ValidateRegistryToken(&tagger.RegistryToken{Spec: tagger.RegistryTokenSpec{ExpirationSeconds: tt.seconds}}) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
