// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// neverImported is the status of an Image of which no import has ended.
const neverImported = "NeverImported"

// TableConvertor shows Images as kubectl get does: what is followed, what it means now, and whether it is failing.
type TableConvertor struct {
	// Now is the clock that ages are told by.
	Now func() time.Time
}

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "The name of the Image."},
	{Name: "From", Type: "string", Description: "Where the image is imported from."},
	{Name: "Mirror", Type: "boolean", Description: "Whether imports copy the image into the mirror registry."},
	{Name: "Digest", Type: "string", Description: "The digest that the tag means now, shortened."},
	{Name: "Imported", Type: "string", Description: "How long ago that was last imported."},
	{Name: "Status", Type: "string", Description: "The outcome of the last import: Imported, Unchanged, or Failed with the reason; NeverImported where none has ended."},
	{Name: "Generations", Type: "integer", Priority: 1, Description: "How many entries the history has."},
	{Name: "Insecure", Type: "boolean", Priority: 1, Description: "Whether the source may be reached insecurely."},
	{Name: "Image Reference", Type: "string", Priority: 1, Description: "What to run."},
	{Name: "Age", Type: "string", Priority: 1, Description: "How long ago the Image was created."},
}

// ConvertToTable implements rest.TableConvertor.
func (c TableConvertor) ConvertToTable(_ context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	if options, ok := tableOptions.(*metav1.TableOptions); !ok || !options.NoHeaders {
		table.ColumnDefinitions = columns
	}
	switch object := object.(type) {
	case *tagger.Image:
		table.ResourceVersion = object.ResourceVersion
		table.Rows = append(table.Rows, c.row(object))
	case *tagger.ImageList:
		table.ListMeta = object.ListMeta
		for i := range object.Items {
			table.Rows = append(table.Rows, c.row(&object.Items[i]))
		}
	default:
		return nil, fmt.Errorf("%T cannot be shown as a table of Images", object)
	}
	return table, nil
}

func (c TableConvertor) row(image *tagger.Image) metav1.TableRow {
	digest, imported, reference := "", "", ""
	if len(image.Status.HashReferences) > 0 {
		current := image.Status.HashReferences[0]
		digest, imported, reference = ShortDigest(current.ImageReference), c.Age(current.ImportedAt), current.ImageReference
	}
	status := neverImported
	if condition := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionImported); condition != nil {
		status = condition.Reason
		if condition.Status == metav1.ConditionFalse {
			status = "Failed (" + status + ")"
		}
	}
	return metav1.TableRow{
		Cells: []any{image.Name, image.Spec.From, image.Spec.Mirror, digest, imported, status,
			int64(len(image.Status.HashReferences)), image.Spec.Insecure, reference, c.Age(image.CreationTimestamp)},
		Object: runtime.RawExtension{Object: image},
	}
}

// Age tells how long ago a time was, as kubectl does: 5m, 3d2h; nothing for the zero time.
func (c TableConvertor) Age(t metav1.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(c.Now().Sub(t.Time))
}

// ShortDigest returns the first twelve hexadecimal digits of a reference's digest.
func ShortDigest(reference string) string {
	_, digest, _ := strings.Cut(reference, "@")
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(len(hex), 12)]
}
