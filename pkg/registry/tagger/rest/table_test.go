// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package rest

import "testing"

func TestShortDigest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, reference, want string
	}{
		{name: "digest", reference: "host:5000/a@sha256:0123456789abcdef", want: "0123456789ab"},
		{name: "tag and digest", reference: "host/a:v1@sha512:fedcba9876543210", want: "fedcba987654"},
		{name: "short one", reference: "host/a@sha256:00", want: "00"},
		{name: "a tag is no digest", reference: "host:5000/a:v1"},
		{name: "nothing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := ShortDigest(tt.reference); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
