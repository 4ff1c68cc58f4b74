// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirrorrelease

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"tagger.dev/tagger/pkg/apis/tagger"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

// TableConvertor shows MirrorReleases as kubectl get does: what is released, when, and why it is not yet.
type TableConvertor struct {
	// Now is the clock that ages are told by.
	Now func() time.Time
}

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "The name of the MirrorRelease."},
	{Name: "Namespace", Type: "string", Description: "The namespace of the Image."},
	{Name: "Image", Type: "string", Description: "The Image that does not mean the digest any more."},
	{Name: "Digest", Type: "string", Description: "The digest that the mirror need not keep, shortened, and how many more there are."},
	{Name: "Due", Type: "string", Description: "How long until it is released; now for what is due."},
	{Name: "Failures", Type: "integer", Description: "How often in a row it failed."},
	{Name: "Age", Type: "string", Description: "How long ago the MirrorRelease was made."},
	{Name: "Message", Type: "string", Priority: 1, Description: "What it failed by, or what it waits for."},
	{Name: "Image Reference", Type: "string", Priority: 1, Description: "The first reference that is released."},
}

// ConvertToTable implements rest.TableConvertor.
func (c TableConvertor) ConvertToTable(_ context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	return taggerrest.Table[*tagger.MirrorRelease, *tagger.MirrorReleaseList](columns, "MirrorReleases", c.cells, object, tableOptions)
}

func (c TableConvertor) cells(release *tagger.MirrorRelease) []any {
	digest, reference := "", ""
	if n := len(release.Spec.ImageReferences); n > 0 {
		reference = release.Spec.ImageReferences[0]
		if digest = taggerrest.ShortDigest(reference); n > 1 {
			digest = fmt.Sprintf("%s + %d more", digest, n-1)
		}
	}
	due := "now"
	if left := release.Spec.DueTime.Sub(c.Now()); left > 0 {
		due = "in " + duration.HumanDuration(left)
	}
	return []any{release.Name, release.Spec.Namespace, release.Spec.Image, digest, due, int64(release.Status.Failures),
		taggerrest.Age(c.Now(), release.CreationTimestamp), release.Status.Message, reference}
}
