// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const transports = ` does not begin with one of oci:, oci-archive:, docker-archive:, docker-daemon:, containers-storage:`
	tests := []struct {
		text    string
		want    Location
		wantErr string
	}{
		{text: "oci:a/b", want: Location{Transport: OCI, Path: "a/b"}},
		{text: "oci:a/b:v1", want: Location{Transport: OCI, Path: "a/b", Reference: "v1"}},
		{text: "oci-archive:it.tar:quay.io/me/it:v1", want: Location{Transport: OCIArchive, Path: "it.tar", Reference: "quay.io/me/it:v1"}},
		{text: "docker-archive:it.tar", want: Location{Transport: DockerArchive, Path: "it.tar"}},
		{text: "docker-daemon:localhost:5000/it:v1", want: Location{Transport: DockerDaemon, Reference: "localhost:5000/it:v1"}},
		{text: "containers-storage:it", want: Location{Transport: ContainersStorage, Reference: "it"}},
		{text: "it", wantErr: `"it"` + transports},
		{text: "docker:it", wantErr: `"docker:it"` + transports},
		{text: "it.tar", wantErr: `"it.tar" does not say which kind of archive it is: docker-archive:it.tar or oci-archive:it.tar`},
		{text: "./it.tar.gz:v1", wantErr: `"./it.tar.gz:v1" does not say which kind of archive it is: docker-archive:./it.tar.gz:v1 or oci-archive:./it.tar.gz:v1`},
		{text: "oci:", wantErr: `"oci:" names no file or folder, as in oci:myapp`},
		{text: "oci::v1", wantErr: `"oci::v1" names no file or folder, as in oci:myapp`},
		{text: "docker-daemon:", wantErr: `"docker-daemon:" names no image, as in docker-daemon:myapp:latest`},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tt.text)
			message := ""
			if err != nil {
				message = err.Error()
			} else if got.String() != tt.text {
				t.Errorf("%q is written as %q", tt.text, got)
			}
			if diff := cmp.Diff(tt.wantErr, message); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if err == nil {
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("location (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestTagged(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"containers-storage:it":                  "containers-storage:it:new",
		"docker-daemon:localhost:5000/it":        "docker-daemon:localhost:5000/it:new",
		"docker-daemon:it:v1":                    "docker-daemon:it:v1",
		"docker-archive:it.tar":                  "docker-archive:it.tar",
		"docker-archive:it.tar:it":               "docker-archive:it.tar:it:new",
		"oci:folder:it":                          "oci:folder:it",
		"oci-archive:it.tar:quay.io/me/it":       "oci-archive:it.tar:quay.io/me/it",
		"containers-storage:quay.io:443/me/it:1": "containers-storage:quay.io:443/me/it:1",
	} {
		where, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := where.Tagged("new").String(); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
