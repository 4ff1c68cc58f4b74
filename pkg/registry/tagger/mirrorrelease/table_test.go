// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirrorrelease

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func TestTable(t *testing.T) {
	t.Parallel()
	now := time.Date(2022, 2, 6, 20, 0, 0, 0, time.UTC)
	const reference = "mirror.example:5000/ns/myapp@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	waiting := tagger.MirrorRelease{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0", CreationTimestamp: metav1.NewTime(now.Add(-24 * time.Hour)), ResourceVersion: "5"},
		Spec: tagger.MirrorReleaseSpec{
			Namespace: "ns", Image: "myapp", ImageReferences: []string{reference}, DueTime: metav1.NewTime(now.Add(6 * 24 * time.Hour)),
		},
	}
	failing := *waiting.DeepCopy()
	failing.Spec.ImageReferences = []string{reference, "other", "third"}
	failing.Spec.DueTime = metav1.NewTime(now.Add(-time.Hour))
	failing.Status = tagger.MirrorReleaseStatus{Failures: 3, Message: "the mirror failed"}
	tests := []struct {
		name string
		obj  runtime.Object
		want [][]any
	}{
		{
			name: "one", obj: &waiting,
			want: [][]any{{"myapp-0", "ns", "myapp", "0123456789ab", "in 6d", int64(0), "24h", "", reference}},
		},
		{
			name: "list", obj: &tagger.MirrorReleaseList{Items: []tagger.MirrorRelease{failing}},
			want: [][]any{{"myapp-0", "ns", "myapp", "0123456789ab + 2 more", "now", int64(3), "24h", "the mirror failed", reference}},
		},
		{name: "empty list", obj: &tagger.MirrorReleaseList{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			convertor := TableConvertor{Now: func() time.Time { return now }}
			table, err := convertor.ConvertToTable(t.Context(), tt.obj, &metav1.TableOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var rows [][]any
			for _, row := range table.Rows {
				rows = append(rows, row.Cells)
				if len(row.Cells) != len(table.ColumnDefinitions) {
					t.Errorf("%d cells, %d columns", len(row.Cells), len(table.ColumnDefinitions))
				}
			}
			if diff := cmp.Diff(tt.want, rows); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := (TableConvertor{Now: time.Now}).ConvertToTable(t.Context(), &tagger.Image{}, nil); err == nil {
		t.Error("an Image can be shown as a MirrorRelease")
	}
}

// TestStrategy says what a change of one part does to the other.
func TestStrategy(t *testing.T) {
	t.Parallel()
	status := tagger.MirrorReleaseStatus{Failures: 3, Message: "the mirror failed"}
	stored := func() *tagger.MirrorRelease {
		return &tagger.MirrorRelease{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: tagger.MirrorReleaseSpec{Image: "myapp"}, Status: status}
	}
	strategy := NewStrategy(nil)
	tests := []struct {
		name           string
		update         func(obj, old runtime.Object)
		change         func(*tagger.MirrorRelease)
		wantGeneration int64
		want           tagger.MirrorReleaseStatus
		wantImage      string
	}{
		{
			name: "create", wantGeneration: 1, wantImage: "myapp", change: func(*tagger.MirrorRelease) {},
			update: func(obj, _ runtime.Object) { strategy.PrepareForCreate(t.Context(), obj) },
		},
		{
			name: "update of the status by the way", wantGeneration: 2, wantImage: "myapp", want: status,
			change: func(r *tagger.MirrorRelease) { r.Status = tagger.MirrorReleaseStatus{} },
			update: func(obj, old runtime.Object) { strategy.PrepareForUpdate(t.Context(), obj, old) },
		},
		{
			name: "asked for again", wantGeneration: 3, wantImage: "myapp",
			change: func(r *tagger.MirrorRelease) { r.Spec.DueTime = metav1.NewTime(time.Unix(1, 0)) },
			update: func(obj, old runtime.Object) { strategy.PrepareForUpdate(t.Context(), obj, old) },
		},
		{
			name: "status", wantGeneration: 2, wantImage: "myapp", want: tagger.MirrorReleaseStatus{Failures: 4},
			change: func(r *tagger.MirrorRelease) {
				r.Spec.Image, r.Status = "other", tagger.MirrorReleaseStatus{Failures: 4}
			},
			update: func(obj, old runtime.Object) { NewStatusStrategy(strategy).PrepareForUpdate(t.Context(), obj, old) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			release := stored()
			tt.change(release)
			tt.update(release, stored())
			if release.Generation != tt.wantGeneration || release.Spec.Image != tt.wantImage {
				t.Errorf("generation %d of %s, want %d of %s", release.Generation, release.Spec.Image, tt.wantGeneration, tt.wantImage)
			}
			if diff := cmp.Diff(tt.want, release.Status); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}
