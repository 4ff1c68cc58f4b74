// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package imageimport

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
)

func TestTable(t *testing.T) {
	t.Parallel()
	now := time.Date(2022, 2, 6, 20, 0, 0, 0, time.UTC)
	const reference = "mirror.example/ns/operator@sha256:00"
	pending := tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{Name: "operator-efe3380a", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: tagger.ImageImportSpec{
			TargetImage: "operator", From: "quay.io/tagger/operator:latest", Mirror: ptr.To(true), Insecure: ptr.To(false),
		},
	}
	imported := *pending.DeepCopy()
	imported.Status = tagger.ImageImportStatus{
		HashReference: &tagger.HashReference{
			ImageReference: reference,
			ImportedAt:     metav1.NewTime(time.Date(2022, 2, 6, 21, 6, 24, 0, time.FixedZone("two hours east", 2*60*60))),
		},
		ImportAttempts: []tagger.ImportAttempt{{Reason: "timed out"}, {Succeed: true}},
		Conditions:     []metav1.Condition{{Type: "Imported", Status: metav1.ConditionTrue, Reason: "Imported"}},
	}
	tests := []struct {
		name string
		obj  runtime.Object
		want [][]any
	}{
		{
			name: "list", obj: &tagger.ImageImportList{Items: []tagger.ImageImport{pending, imported}},
			want: [][]any{
				{
					"operator-efe3380a", false, true, "operator", "", "",
					"Pending", int64(0), "quay.io/tagger/operator:latest", "60m",
				},
				{
					"operator-efe3380a", false, true, "operator", "2022-02-06T19:06:24Z", reference,
					"Imported", int64(2), "quay.io/tagger/operator:latest", "60m",
				},
			},
		},
		{
			name: "stored before anything was filled in", obj: &tagger.ImageImport{ObjectMeta: pending.ObjectMeta},
			want: [][]any{{"operator-efe3380a", false, false, "", "", "", "Pending", int64(0), "", "60m"}},
		},
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
				if _, ok := row.Object.Object.(*tagger.ImageImport); !ok {
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
	list := &tagger.ImageImportList{ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more"}}
	table, err := convertor.ConvertToTable(t.Context(), list, &metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
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
	// What kubectl get imageimports has always shown, and then what became of the import.
	always := []string{"Name", "Insecure", "Mirror", "TargetImage", "ImportedAt", "ImageReference"}
	if diff := cmp.Diff(append(always[:6:6], "Status", "Age"), narrow); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(always[:6:6], "Status", "Attempts", "From", "Age"), wide); diff != "" {
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
	if _, err := convertor.ConvertToTable(t.Context(), &tagger.Image{}, nil); err == nil {
		t.Error("an Image is no ImageImport")
	}
}
