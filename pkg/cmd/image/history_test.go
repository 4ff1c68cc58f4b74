// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	const older = "sha256:b8458f003b3cb938c2fe57f37ca92eb1e3fe49ff6bae7d71869854b300036b50"
	anImage := func(from string, condition *metav1.Condition, refs ...v1beta1.HashReference) *v1beta1.Image {
		image := &v1beta1.Image{
			TypeMeta:   metav1.TypeMeta{Kind: "Image", APIVersion: "tagger.dev/v1beta1"},
			ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "ns"},
			Spec:       v1beta1.ImageSpec{From: from},
			Status:     v1beta1.ImageStatus{HashReferences: refs},
		}
		if condition != nil {
			image.Status.Conditions = []metav1.Condition{*condition}
		}
		return image
	}
	const from = "quay.io/company/myapp:latest"
	full := anImage(from, nil,
		v1beta1.HashReference{
			From: from, ImageReference: "mirror.example/ns/myapp@" + digest, SourceReference: "quay.io/company/myapp@" + digest,
			ImportedAt: metav1.NewTime(now.Add(-5 * time.Minute)), MediaType: "application/vnd.oci.image.index.v1+json",
			Size: 57<<20 + 256<<10, Platforms: []string{"linux/amd64", "linux/arm64"},
		},
		v1beta1.HashReference{
			From: "docker.io/me/it:1", ImageReference: "docker.io/me/it@" + older, ImportedAt: metav1.NewTime(now.AddDate(0, 0, -3)),
		},
	)
	tests := []struct {
		name  string
		image *v1beta1.Image
		args  []string
		want  result
	}{
		{
			name:  "a table",
			image: full,
			want: result{Stdout: table(
				"#     DIGEST                IMPORTED   FROM                           IMAGE REFERENCE",
				"* 1   sha256:5a3771f19d8e   5m ago     quay.io/company/myapp:latest   mirror.example/ns/myapp@"+digest,
				"  2   sha256:b8458f003b3c   3d ago     docker.io/me/it:1              docker.io/me/it@"+older,
			)},
		},
		{
			name:  "a wide table",
			image: full,
			args:  []string{"-o", "wide"},
			want: result{Stdout: table(
				"#     DIGEST                IMPORTED   FROM                           SIZE        PLATFORMS                 MEDIA TYPE                                "+
					"SOURCE                                                                                          IMAGE REFERENCE",
				"* 1   sha256:5a3771f19d8e   5m ago     quay.io/company/myapp:latest   57.25MiB    linux/amd64,linux/arm64   application/vnd.oci.image.index.v1+json   "+
					"quay.io/company/myapp@"+digest+"   mirror.example/ns/myapp@"+digest,
				"  2   sha256:b8458f003b3c   3d ago     docker.io/me/it:1              <unknown>   <unknown>                 <unknown>                                 "+
					"<unknown>                                                                                       docker.io/me/it@"+older,
			)},
		},
		{
			name:  "its name",
			image: full,
			args:  []string{"-o", "name"},
			want:  result{Stdout: "image.tagger.dev/myapp\n"},
		},
		{
			name:  "a template",
			image: full,
			args:  []string{"--template", "{{.kind}} {{(index .status.hashReferences 1).imageReference}}"},
			want:  result{Stdout: "Image docker.io/me/it@" + older},
		},
		{
			name: "no history, as the import failed",
			image: anImage(from, &metav1.Condition{Type: v1beta1.ConditionImported, Status: metav1.ConditionFalse,
				Reason: v1beta1.ReasonNotFound, Message: "no such tag"}),
			want: result{Stderr: "image.tagger.dev/myapp has no history yet: the last import failed: no such tag (NotFound)\n"},
		},
		{
			name:  "no history, as nothing was pushed",
			image: anImage("", nil),
			want:  result{Stderr: "image.tagger.dev/myapp has no history yet: nothing was pushed to it, and it names no source to import from\n"},
		},
		{
			name:  "no history, as nothing was imported",
			image: anImage(from, nil),
			want: result{Stderr: "image.tagger.dev/myapp has no history yet: no import of it has ended; " +
				"see: kubectl get imageimports --namespace ns\n"},
		},
		{
			name: "no such image",
			want: result{Stderr: "error: images.tagger.dev \"myapp\" not found\n", Code: 1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := &api{t: t, image: tt.image}
			server.start()
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, append([]string{"history", "myapp"}, tt.args...)...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
		})
	}
}

func table(rows ...string) string { return strings.Join(rows, "\n") + "\n" }
