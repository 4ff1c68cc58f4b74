// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Table shows an object of type O, or a list of them of type L, by a row each, whose cells are those of the columns. It fails for any
// other object; kinds names in words those that it shows.
func Table[O interface {
	runtime.Object
	metav1.Object
}, L interface {
	runtime.Object
	metav1.ListInterface
}](columns []metav1.TableColumnDefinition, kinds string, cells func(O) []any, object, tableOptions runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	if options, ok := tableOptions.(*metav1.TableOptions); !ok || !options.NoHeaders {
		table.ColumnDefinitions = columns
	}
	add := func(obj runtime.Object) error {
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells(obj.(O)), Object: runtime.RawExtension{Object: obj}})
		return nil
	}
	switch of := object.(type) {
	case O:
		table.ResourceVersion = of.GetResourceVersion()
		return table, add(of)
	case L:
		table.ListMeta = metav1.ListMeta{
			ResourceVersion: of.GetResourceVersion(), Continue: of.GetContinue(), RemainingItemCount: of.GetRemainingItemCount(),
		}
		return table, meta.EachListItem(of, add)
	}
	return nil, fmt.Errorf("%T cannot be shown as a table of %s", object, kinds)
}

// Age tells how long ago a time was, as kubectl does: 5m, 3d2h; nothing for the zero time.
func Age(now time.Time, t metav1.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// ShortDigest returns the first twelve hexadecimal digits of a reference's digest.
func ShortDigest(reference string) string {
	_, digest, _ := strings.Cut(reference, "@")
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(len(hex), 12)]
}
