// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// quota allows a namespace two Images and one import, and makes more, in all ways.
func quota(t *testing.T, x *tagger) {
	x.namespace(t, "q", nil)
	quotas := x.kube.CoreV1().ResourceQuotas("q")
	if _, err := quotas.Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"count/images.tagger.dev": resource.MustParse("2"), "count/imageimports.tagger.dev": resource.MustParse("1")},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(images, imports string) func(context.Context) error {
		return func(ctx context.Context) error {
			q, err := quotas.Get(ctx, "few", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := fmt.Sprintf("%s images, %s imports", usedOf(q, "count/images.tagger.dev"), usedOf(q, "count/imageimports.tagger.dev")); got != images+" images, "+imports+" imports" {
				return errors.New(got)
			}
			return nil
		}
	}
	eventually(t, "the quota is known", used("0", "0"))
	images := x.api.TaggerV1beta1().Images("q")
	create := func(name string) error {
		_, err := images.Create(t.Context(), &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.ImageSpec{From: "127.0.0.1:1/app"}}, metav1.CreateOptions{})
		return err
	}
	created := func(name string) func(context.Context) error {
		return func(context.Context) error {
			if err := create(name); !apierrors.IsAlreadyExists(err) { // the answer may have been lost
				return err
			}
			return nil
		}
	}
	for _, name := range []string{"one", "two"} { // Tagger may hear of the quota, and of what it counts, a moment later
		eventually(t, "an Image can be created", created(name))
	}
	importing := func(image string, spec v1beta1.ImageImportSpec) error {
		spec.TargetImage = image
		_, err := x.api.TaggerV1beta1().ImageImports("q").Create(t.Context(), &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{GenerateName: image + "-"}, Spec: spec}, metav1.CreateOptions{})
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: few") {
			t.Errorf("%s: %v, want it refused by the quota", what, err)
		}
	}
	refused("a third Image", create("three"))
	refused("a third Image by an import", importing("three", v1beta1.ImageImportSpec{From: "127.0.0.1:1/app"}))
	if err := importing("one", v1beta1.ImageImportSpec{}); err != nil {
		t.Fatal(err)
	}
	refused("a second import", importing("one", v1beta1.ImageImportSpec{}))
	_, err := images.Import(t.Context(), "one", &v1beta1.ImageImport{}, metav1.CreateOptions{})
	refused("a second import that is waited for", err)
	if err := images.Delete(t.Context(), "two", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was deleted does not count", used("1", "1"))
	eventually(t, "there is room for another", created("three"))
}

func usedOf(q *corev1.ResourceQuota, name corev1.ResourceName) string {
	used, known := q.Status.Used[name]
	if !known {
		return "unknown"
	}
	return used.String()
}
