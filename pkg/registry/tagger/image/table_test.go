// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

func TestTable(t *testing.T) {
	t.Parallel()
	now := time.Date(2022, 2, 6, 20, 0, 0, 0, time.UTC)
	created := metav1.NewTime(now.Add(-48 * time.Hour))
	const dgst = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	plain := tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp", CreationTimestamp: created, ResourceVersion: "5"},
		Spec:       tagger.ImageSpec{From: "quay.io/company/myapp:latest", Mirror: true},
	}
	imported := *plain.DeepCopy()
	imported.Status = tagger.ImageStatus{
		HashReferences: []tagger.HashReference{
			{ImageReference: "mirror.example:5000/ns/myapp@" + dgst, ImportedAt: metav1.NewTime(now.Add(-5 * time.Minute))},
			{ImageReference: "quay.io/company/myapp@sha256:ff"},
		},
		Conditions: []metav1.Condition{{Type: "Imported", Status: metav1.ConditionTrue, Reason: "Imported"}},
	}
	failing := *imported.DeepCopy()
	failing.Status.Conditions[0] = metav1.Condition{Type: "Imported", Status: metav1.ConditionFalse, Reason: "NotFound"}

	tests := []struct {
		name string
		obj  runtime.Object
		want [][]any
	}{
		{
			name: "not imported yet", obj: &plain,
			want: [][]any{{"myapp", "quay.io/company/myapp:latest", true, "", "", "NeverImported", int64(0), false, "", "2d"}},
		},
		{
			name: "list", obj: &tagger.ImageList{Items: []tagger.Image{imported, failing}},
			want: [][]any{
				{
					"myapp", "quay.io/company/myapp:latest", true, "0123456789ab", "5m", "Imported",
					int64(2), false, "mirror.example:5000/ns/myapp@" + dgst, "2d",
				},
				{
					"myapp", "quay.io/company/myapp:latest", true, "0123456789ab", "5m", "Failed (NotFound)",
					int64(2), false, "mirror.example:5000/ns/myapp@" + dgst, "2d",
				},
			},
		},
		{name: "empty list", obj: &tagger.ImageList{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			table, err := TableConvertor{Now: func() time.Time { return now }}.ConvertToTable(t.Context(), tt.obj, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got [][]any
			for _, row := range table.Rows {
				got = append(got, row.Cells)
				if _, ok := row.Object.Object.(*tagger.Image); !ok {
					t.Errorf("the row is of %T", row.Object.Object)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTableHeader(t *testing.T) {
	t.Parallel()
	convertor := TableConvertor{Now: time.Now}
	list := &tagger.ImageList{ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more", RemainingItemCount: ptr.To[int64](4)}}
	table, err := convertor.ConvertToTable(t.Context(), list, &metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{
		v1beta1.ReasonImported, v1beta1.ReasonUnchanged, v1beta1.ReasonPushed, v1beta1.ReasonRolledBack, v1beta1.ReasonDeleted, neverImported,
	} {
		if status := table.ColumnDefinitions[5]; !strings.Contains(status.Description, reason) {
			t.Errorf("column %s can be %s, which is not said: %s", status.Name, reason, status.Description)
		}
	}
	var narrow, wide []string
	for _, column := range table.ColumnDefinitions {
		if column.Description == "" {
			t.Errorf("column %s has no description", column.Name)
		}
		if wide = append(wide, column.Name); column.Priority == 0 {
			narrow = append(narrow, column.Name)
		}
	}
	if diff := cmp.Diff([]string{"Name", "From", "Mirror", "Digest", "Imported", "Status"}, narrow); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(narrow, "Generations", "Insecure", "Image Reference", "Age"), wide); diff != "" {
		t.Errorf("columns of -o wide (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(list.ListMeta, table.ListMeta); diff != "" {
		t.Errorf("list metadata, which chunks need (-want +got):\n%s", diff)
	}
	if table, err = convertor.ConvertToTable(t.Context(), object(nil), &metav1.TableOptions{NoHeaders: true}); err != nil {
		t.Fatal(err)
	}
	if len(table.ColumnDefinitions) != 0 || table.ResourceVersion != "7" {
		t.Errorf("without headers: %d columns, resource version %q", len(table.ColumnDefinitions), table.ResourceVersion)
	}
	if _, err := convertor.ConvertToTable(t.Context(), &tagger.ImageImport{}, nil); err == nil {
		t.Error("an ImageImport is no Image")
	}
}
