// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func validRelease() *tagger.MirrorRelease {
	return &tagger.MirrorRelease{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0", ResourceVersion: "1"},
		Spec: tagger.MirrorReleaseSpec{
			Namespace: "ns", Image: "myapp",
			ImageReferences: []string{"mirror.example:5000/ns/myapp@sha256:" + strings.Repeat("0f", 32), "m.example/a@sha512:" + strings.Repeat("0f", 64)},
		},
	}
}

func TestValidateMirrorRelease(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*tagger.MirrorRelease)
		want   []problem
	}{
		{name: "valid", change: func(*tagger.MirrorRelease) {}},
		{
			name: "nothing said", change: func(r *tagger.MirrorRelease) { r.Spec = tagger.MirrorReleaseSpec{} },
			want: []problem{
				{field.ErrorTypeRequired, "spec.namespace", "name the namespace of the Image"},
				{field.ErrorTypeRequired, "spec.image", "name the Image"},
				{field.ErrorTypeRequired, "spec.imageReferences", "say what the mirror need not keep"},
			},
		},
		{
			name: "names that are none", change: func(r *tagger.MirrorRelease) { r.Spec.Namespace, r.Spec.Image = "a/b", "../c" },
			want: []problem{
				{field.ErrorTypeInvalid, "spec.namespace", "lower case alphanumeric"},
				{field.ErrorTypeInvalid, "spec.image", "lower case alphanumeric"},
			},
		},
		{
			name: "no digest", change: func(r *tagger.MirrorRelease) { r.Spec.ImageReferences[1] = "m.example/a:latest" },
			want: []problem{{field.ErrorTypeInvalid, "spec.imageReferences[1]", "write REPOSITORY@DIGEST"}},
		},
		{
			name: "too many", change: func(r *tagger.MirrorRelease) {
				r.Spec.ImageReferences = slices.Repeat(r.Spec.ImageReferences[:1], 65)
			},
			want: []problem{{field.ErrorTypeTooMany, "spec.imageReferences", "64"}},
		},
		{
			name: "in a namespace", change: func(r *tagger.MirrorRelease) { r.Namespace = "ns" },
			want: []problem{{field.ErrorTypeForbidden, "metadata.namespace", "not allowed"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			release := validRelease()
			tt.change(release)
			check(t, ValidateMirrorRelease(release), tt.want)
		})
	}
}

func TestValidateMirrorReleaseUpdate(t *testing.T) {
	t.Parallel()
	const remedy = "cannot be changed; delete the MirrorRelease to give it up"
	tests := []struct {
		name   string
		change func(*tagger.MirrorRelease)
		want   []problem
	}{
		{name: "when it is due", change: func(r *tagger.MirrorRelease) { r.Spec.DueTime = metav1.NewTime(time.Unix(1, 0)) }},
		{
			name: "the namespace", change: func(r *tagger.MirrorRelease) { r.Spec.Namespace = "other" },
			want: []problem{{field.ErrorTypeInvalid, "spec.namespace", remedy}},
		},
		{
			name: "the Image", change: func(r *tagger.MirrorRelease) { r.Spec.Image = "other" },
			want: []problem{{field.ErrorTypeInvalid, "spec.image", remedy}},
		},
		{
			name: "the references", change: func(r *tagger.MirrorRelease) { r.Spec.ImageReferences = r.Spec.ImageReferences[:1] },
			want: []problem{{field.ErrorTypeInvalid, "spec.imageReferences", remedy}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			release := validRelease()
			tt.change(release)
			check(t, ValidateMirrorReleaseUpdate(release, validRelease()), tt.want)
		})
	}
}

func TestValidateMirrorReleaseStatusUpdate(t *testing.T) {
	t.Parallel()
	release := validRelease()
	release.Status.Failures = 1
	check(t, ValidateMirrorReleaseStatusUpdate(release, validRelease()), nil)
	release.Status.Failures = -1
	check(t, ValidateMirrorReleaseStatusUpdate(release, validRelease()),
		[]problem{{field.ErrorTypeInvalid, "status.failures", "must not be negative"}})
}
