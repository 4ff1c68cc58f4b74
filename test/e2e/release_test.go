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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// releases has a digest leave the history of an Image while a Pod runs it, and then the namespace go.
func releases(t *testing.T, x *tagger) {
	const namespace = "released"
	x.namespace(t, namespace, map[string]string{"alice": "admin"})
	out := lab.New(t, lab.PlainHTTP)
	if _, err := x.api.TaggerV1beta1().Images(namespace).Create(t.Context(), &v1beta1.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec:       v1beta1.ImageSpec{From: out.Reference("app"), Insecure: true, Mirror: true, HistoryLimit: ptr.To[int32](1)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	imported := func() string {
		t.Helper()
		out.Push(t, "app", randomImage(t))
		imp, err := x.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ended := x.finished(t, namespace, imp.Name); ended.Status != metav1.ConditionTrue {
			t.Fatalf("the import ended %s: %s", ended.Reason, ended.Message)
		}
		image, err := x.api.TaggerV1beta1().Images(namespace).Get(t.Context(), "app", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return image.Status.HashReferences[0].ImageReference
	}
	old := imported()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: old}}},
	}
	eventually(t, "there is a Pod", func(ctx context.Context) error { // its service account comes a little after the namespace
		_, err := x.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	current := imported()

	release := x.due(t, old, "2001-01-01T00:00:00Z")
	_, digest, _ := strings.Cut(old, "@")
	eventually(t, "the release waits for the Pod", func(ctx context.Context) error {
		now, err := x.api.TaggerV1beta1().MirrorReleases().Get(ctx, release, metav1.GetOptions{})
		if err == nil && now.Status.Message != "a Pod of the namespace runs "+digest {
			err = fmt.Errorf("it says %q", now.Status.Message)
		}
		return err
	})
	if err := x.kube.CoreV1().Pods(namespace).Delete(t.Context(), "pod", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	x.due(t, old, "2002-01-01T00:00:00Z")
	x.released(t, release)

	alice, err := x.User("alice")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := typed(t, alice.Config).TaggerV1beta1().MirrorReleases().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the administrator of a namespace sees the releases of all: %v", err)
	}

	if err := x.kube.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone", func(ctx context.Context) error {
		left, err := x.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("it is there: %+v", left.Status))
	})
	x.released(t, x.due(t, current, "2001-01-01T00:00:00Z"))
}

// due has the release of a reference done now, by a time that has passed and that it has not had yet, and returns its name.
func (x *tagger) due(t *testing.T, reference, at string) string {
	t.Helper()
	all, err := x.api.TaggerV1beta1().MirrorReleases().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, release := range all.Items {
		if release.Spec.ImageReferences[0] != reference {
			continue
		}
		if _, err := x.api.TaggerV1beta1().MirrorReleases().Patch(t.Context(), release.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"spec":{"dueTime":%q}}`, at), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		return release.Name
	}
	t.Fatalf("there is no release of %s: %+v", reference, all.Items)
	return ""
}

// released waits until a release is done.
func (x *tagger) released(t *testing.T, name string) {
	t.Helper()
	eventually(t, "release "+name+" is done", func(ctx context.Context) error {
		release, err := x.api.TaggerV1beta1().MirrorReleases().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("it is there: %+v", release))
	})
}
