// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestRunningPods(t *testing.T) {
	t.Parallel()
	dgst := digest.FromString("wanted")
	image := "mirror.example/ns/app@" + dgst.String()
	status := []corev1.ContainerStatus{{ImageID: image}}
	tests := []struct {
		name      string
		namespace string
		spec      corev1.PodSpec
		status    corev1.PodStatus
		want      bool
	}{
		{name: "a container", spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "other"}, {Image: image}}}, want: true},
		{name: "an init container", spec: corev1.PodSpec{InitContainers: []corev1.Container{{Image: image}}}, want: true},
		{name: "an ephemeral container", spec: corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Image: image}}}}, want: true},
		{name: "a volume", spec: corev1.PodSpec{Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image}}}}}, want: true},
		{name: "a tag that meant it", status: corev1.PodStatus{ContainerStatuses: status}, want: true},
		{name: "a tag of an init container", status: corev1.PodStatus{InitContainerStatuses: status}, want: true},
		{name: "a tag of an ephemeral container", status: corev1.PodStatus{EphemeralContainerStatuses: status}, want: true},
		{name: "by another runtime", status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{ImageID: "docker-pullable://" + image}}}, want: true},
		{name: "another digest", spec: corev1.PodSpec{Containers: []corev1.Container{
			{Image: "mirror.example/ns/app@" + digest.FromString("other").String()}}}},
		{name: "another namespace", namespace: "other", spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image}}}},
		{name: "succeeded", spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image}}}, status: corev1.PodStatus{Phase: corev1.PodSucceeded}},
		{name: "failed", spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image}}}, status: corev1.PodStatus{Phase: corev1.PodFailed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.namespace == "" {
				tt.namespace = "ns"
			}
			kube := fake.NewClientset(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: tt.namespace, Name: "pod"}, Spec: tt.spec, Status: tt.status})
			got, err := pods{kube}.running(t.Context(), "ns", []digest.Digest{digest.FromString("unwanted"), dgst})
			if err != nil {
				t.Fatal(err)
			}
			var want []digest.Digest
			if tt.want {
				want = []digest.Digest{dgst}
			}
			if diff := cmp.Diff(want, append([]digest.Digest(nil), got...)); diff != "" {
				t.Errorf("running (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRunningPodsByPages has what is looked for on the second page.
func TestRunningPodsByPages(t *testing.T) {
	t.Parallel()
	dgst := digest.FromString("wanted")
	kube := fake.NewClientset()
	kube.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.(clienttesting.ListActionImpl).ListOptions.Continue == "" {
			return true, &corev1.PodList{ListMeta: metav1.ListMeta{Continue: "more"}}, nil
		}
		pod := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "app@" + dgst.String()}}}}
		return true, &corev1.PodList{Items: []corev1.Pod{pod}}, nil
	})
	got, err := pods{kube}.running(t.Context(), "ns", []digest.Digest{dgst})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]digest.Digest{dgst}, got); diff != "" {
		t.Errorf("running (-want +got):\n%s", diff)
	}
}

// TestAllNamespaces reads them to the last page, or fails.
func TestAllNamespaces(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]error{"all": nil, "the last page is lost": errors.New("expired")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kube := fake.NewClientset()
			kube.PrependReactor("list", "namespaces", func(action clienttesting.Action) (bool, runtime.Object, error) {
				page := &corev1.NamespaceList{Items: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{UID: "1"}}}}
				if action.(clienttesting.ListActionImpl).ListOptions.Continue != "" {
					page.Items[0].UID = "2"
					return true, page, lost
				}
				page.Continue = "more"
				return true, page, nil
			})
			got, err := (&namespaces{kube: kube}).all(t.Context())
			if lost != nil {
				if err == nil {
					t.Errorf("%v are all namespaces, although a page was lost", got)
				}
				return
			}
			if diff := cmp.Diff([]string{"1", "2"}, got); diff != "" || err != nil {
				t.Errorf("namespaces (-want +got), %v:\n%s", err, diff)
			}
		})
	}
}
