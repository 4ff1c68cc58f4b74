// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

// pods knows what the Pods of the cluster run.
type pods struct {
	kube kubernetes.Interface
}

// running returns those of some digests that a Pod of a namespace runs or is about to run. What has ended and does not start again
// does not count. An error leaves open which Pods there are.
func (p pods) running(ctx context.Context, namespace string, digests []digest.Digest) ([]digest.Digest, error) {
	found := map[digest.Digest]bool{}
	if err := eachObject(ctx, func(options metav1.ListOptions) (runtime.Object, error) {
		return p.kube.CoreV1().Pods(namespace).List(ctx, options)
	}, func(obj runtime.Object) error {
		for _, image := range imagesOf(obj.(*corev1.Pod)) {
			_, named, _ := strings.Cut(image, "@")
			found[digest.Digest(named)] = true
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(digests), func(dgst digest.Digest) bool { return !found[dgst] }), nil
}

// imagesOf returns the images that a Pod names and those that its containers run, which says what a tag has meant.
func imagesOf(pod *corev1.Pod) []string {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var images []string
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			images = append(images, containers[i].Image)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		images = append(images, pod.Spec.EphemeralContainers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if volume := pod.Spec.Volumes[i].Image; volume != nil {
			images = append(images, volume.Reference)
		}
	}
	for _, statuses := range [][]corev1.ContainerStatus{
		pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range statuses {
			images = append(images, statuses[i].ImageID)
		}
	}
	return images
}

// noPods is what runs where there is no Kubernetes.
func noPods(context.Context, string, []digest.Digest) ([]digest.Digest, error) { return nil, nil }
