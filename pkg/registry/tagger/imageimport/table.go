// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package imageimport

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// TableConvertor shows ImageImports as kubectl get does: what was asked for, what it brought, and how it stands. The columns up to
// ImageReference are those that there have always been, in their order.
type TableConvertor struct {
	// Now is the clock that ages are told by.
	Now func() time.Time
}

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "The name of the ImageImport."},
	{Name: "Insecure", Type: "boolean", Description: "Whether the source may be reached insecurely."},
	{Name: "Mirror", Type: "boolean", Description: "Whether the image is copied into the mirror registry."},
	{Name: "TargetImage", Type: "string", Description: "The Image that records the import."},
	{Name: "ImportedAt", Type: "string", Description: "When the import was recorded; empty until then."},
	{Name: "ImageReference", Type: "string", Description: "What to run; empty until the import was recorded."},
	{Name: "Status", Type: "string", Description: "How the import stands: Pending, InProgress, Imported, Unchanged, or why the last attempt failed."},
	{Name: "Attempts", Type: "integer", Priority: 1, Description: "How many attempts there were."},
	{Name: "From", Type: "string", Priority: 1, Description: "Where the image is imported from."},
	{Name: "Age", Type: "string", Description: "How long ago the import was asked for."},
}

// ConvertToTable implements rest.TableConvertor.
func (c TableConvertor) ConvertToTable(_ context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	return taggerrest.Table[*tagger.ImageImport, *tagger.ImageImportList](columns, "ImageImports", c.cells, object, tableOptions)
}

func (c TableConvertor) cells(imp *tagger.ImageImport) []any {
	importedAt, reference := "", ""
	if ref := imp.Status.HashReference; ref != nil {
		importedAt, reference = ref.ImportedAt.UTC().Format(time.RFC3339), ref.ImageReference
	}
	status := v1beta1.ReasonPending
	if condition := meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported); condition != nil {
		status = condition.Reason
	}
	return []any{imp.Name, ptr.Deref(imp.Spec.Insecure, false), ptr.Deref(imp.Spec.Mirror, false), imp.Spec.TargetImage,
		importedAt, reference, status, int64(len(imp.Status.ImportAttempts)), imp.Spec.From,
		taggerrest.Age(c.Now(), imp.CreationTimestamp)}
}
