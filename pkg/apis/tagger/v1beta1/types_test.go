// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAbsentFields: what nobody has set is neither sent nor stored, save where absent and false shall look the same.
func TestAbsentFields(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		obj  any
		want string
	}{
		{name: "Image", obj: Image{}, want: `{"metadata":{},"spec":{"mirror":false,"insecure":false},"status":{}}`},
		{name: "ImageImport", obj: ImageImport{}, want: `{"metadata":{},"spec":{"targetImage":""},"status":{}}`},
		{name: "HashReference", obj: HashReference{}, want: `{"from":"","imageReference":"","importedAt":null}`},
		{name: "ImportAttempt", obj: ImportAttempt{}, want: `{"when":null,"succeed":false}`},
		{name: "ImportProgress", obj: ImportProgress{}, want: `{"blobs":0,"blobsTotal":0,"bytes":0,"bytesTotal":0}`},
		{name: "ImportClaim", obj: ImportClaim{}, want: `{"holder":""}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := json.Marshal(tt.obj)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}
