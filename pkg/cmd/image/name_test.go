// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParseName holds which names are read, what they are called on this machine, and what is said of the others.
func TestParseName(t *testing.T) {
	t.Parallel()
	const shapes = ": NAME, NAMESPACE/NAME or HOST:PORT/NAMESPACE/NAME, each maybe with :TAG is expected"
	tests := []struct {
		text    string
		want    string // host, repository and tag or digest
		onHere  string
		wantErr string
	}{
		{text: "myapp", want: " /myapp:latest", onHere: "myapp:latest"},
		{text: "team/myapp:v1", want: " team/myapp:v1", onHere: "team/myapp:v1"},
		{text: "quay.io/team/myapp", want: "quay.io team/myapp:latest", onHere: "quay.io/team/myapp:latest"},
		{text: "registry:5000/team/myapp", want: "registry:5000 team/myapp:latest", onHere: "registry:5000/team/myapp:latest"},
		{text: "myapp@" + digest, want: " /myapp@" + digest, onHere: "myapp:sha256-" + digest[len("sha256:"):][:12]},
		{text: "myapp:v1@" + digest, want: " /myapp@" + digest, onHere: "myapp:v1"},
		{text: "localhost:5000/team/myapp", want: "localhost:5000 team/myapp:latest", onHere: "localhost:5000/team/myapp:latest"},
		{text: "localhost/myapp", wantErr: "localhost is neither a namespace nor a host with a port; did you mean myapp?"},
		{text: "localhost/team/myapp:v1", wantErr: "localhost is neither a namespace nor a host with a port; did you mean team/myapp:v1?"},
		{text: "a/b/c", wantErr: `"a/b/c" has too many parts, and a is no host, which has a dot or a port` + shapes},
		{text: "a/b/c/d", wantErr: `"a/b/c/d" has too many parts` + shapes},
		{text: "/b/c", wantErr: "the host before the first / is empty"},
		{text: "Myapp", wantErr: `"Myapp" is no name of an image: names are lower case, as in myapp`},
		{text: "my app", wantErr: `"my app" is no name of an image` + shapes},
		{text: "Team/myapp", wantErr: `"Team" is no namespace` + shapes},
		{text: "myapp:", wantErr: `"myapp:" has no tag after the colon`},
		{text: "myapp:v/1", wantErr: `"myapp:v" is no namespace` + shapes},
		{text: "myapp:-v", wantErr: `"-v" is no tag`},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			got, err := parseName(tt.text)
			if tt.wantErr != "" || err != nil {
				message := ""
				if err != nil {
					message = err.Error()
				}
				if diff := cmp.Diff(tt.wantErr, message); diff != "" {
					t.Errorf("error (-want +got):\n%s", diff)
				}
				return
			}
			if diff := cmp.Diff([]string{tt.want, tt.onHere}, []string{got.host + " " + got.String(), got.onHere()}); diff != "" {
				t.Errorf("name, and on this machine (-want +got):\n%s", diff)
			}
		})
	}
}
