// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// neverImported is the status of an Image of which no import has ended, and to which nothing else happened.
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
	{Name: "Status", Type: "string", Description: "What came last: Imported, Unchanged, Pushed, RolledBack or Deleted, or Failed with the reason why an import failed; NeverImported where nothing came yet."},
	{Name: "Generations", Type: "integer", Priority: 1, Description: "How many entries the history has."},
	{Name: "Insecure", Type: "boolean", Priority: 1, Description: "Whether the source may be reached insecurely."},
	{Name: "Image Reference", Type: "string", Priority: 1, Description: "What to run."},
	{Name: "Age", Type: "string", Priority: 1, Description: "How long ago the Image was created."},
}

// ConvertToTable implements rest.TableConvertor.
func (c TableConvertor) ConvertToTable(_ context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	return taggerrest.Table[*tagger.Image, *tagger.ImageList](columns, "Images", c.cells, object, tableOptions)
}

func (c TableConvertor) cells(image *tagger.Image) []any {
	digest, imported, reference := "", "", ""
	if len(image.Status.HashReferences) > 0 {
		current := image.Status.HashReferences[0]
		digest, imported, reference = taggerrest.ShortDigest(current.ImageReference), taggerrest.Age(c.Now(), current.ImportedAt), current.ImageReference
	}
	status := neverImported
	if condition := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionImported); condition != nil {
		status = condition.Reason
		if condition.Status == metav1.ConditionFalse {
			status = "Failed (" + status + ")"
		}
	}
	return []any{image.Name, image.Spec.From, image.Spec.Mirror, digest, imported, status,
		int64(len(image.Status.HashReferences)), image.Spec.Insecure, reference, taggerrest.Age(c.Now(), image.CreationTimestamp)}
}
