// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/version"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	const path = "/openapi/v3/apis/tagger.dev/v1beta1"
	client := "Client Version: " + version.Info().GitVersion + "\n"
	info := func(version string) map[string]any {
		return map[string]any{path: map[string]any{"info": map[string]string{"version": version}}}
	}
	const see = "See 'kubectl image version --help' for usage.\n"
	tests := []struct {
		name      string
		args      []string
		documents map[string]any
		want      result
	}{
		{name: "both", documents: info("v1.2.3"), want: result{Stdout: client + "Server Version: v1.2.3\n"}},
		{name: "its own", args: []string{"--client"}, want: result{Stdout: client}},
		{
			name: "a server without Tagger",
			want: result{Stdout: client, Code: 1, Stderr: "error: the server does not serve tagger.dev/v1beta1\n" +
				"Is Tagger installed there? See: kubectl get apiservice v1beta1.tagger.dev\n"},
		},
		{
			name: "a server that does not say it", documents: info(""),
			want: result{Stdout: client, Code: 1, Stderr: "error: the server does not say its version\n"},
		},
		{
			name: "control characters", documents: info("v1\x1b[2J"),
			want: result{Stdout: client + "Server Version: v1^[[2J\n"},
		},
		{
			name: "no such format", args: []string{"-o", "wide"},
			want: result{Code: 1, Stderr: "error: --output must be \"json\" or \"yaml\", not \"wide\"\n" + see},
		},
		{
			name: "an argument", args: []string{"1.2.3"},
			want: result{Code: 1, Stderr: "error: no arguments are expected, not [\"1.2.3\"]\n" + see},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, documents: tt.documents}
			server.start()
			got := server.run(t.Context(), clock.RealClock{}, nil, append([]string{"version"}, tt.args...)...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
		})
	}
	for _, format := range []string{"json", "yaml"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, documents: info("v1.2.3")}
			server.start()
			out := server.run(t.Context(), clock.RealClock{}, nil, "version", "--output", format)
			var got versions
			if err := yaml.UnmarshalStrict([]byte(out.Stdout), &got); err != nil || strings.HasPrefix(out.Stdout, "{") != (format == "json") {
				t.Fatalf("%v: %+v", err, out)
			}
			if diff := cmp.Diff(versions{ClientVersion: version.Info(), ServerVersion: &serverVersion{GitVersion: "v1.2.3"}}, got); diff != "" {
				t.Errorf("unexpected versions (-want +got):\n%s", diff)
			}
		})
	}
}
