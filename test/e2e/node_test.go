// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"tagger.dev/tagger/test/cluster"
)

// TestNode does with a node what its users do, breaks it, and looks at what is left when it is gone.
func TestNode(t *testing.T) {
	require(t, cluster.Config{})
	before := observe(t)
	var dir string
	t.Run("while it is there", func(t *testing.T) {
		c := start(t, cluster.Config{})
		dir = c.Dir()
		useNode(t, c)
	})
	before.expectUnchanged(t, dir)
}

func useNode(t *testing.T, c *cluster.Cluster) {
	client := kubeClient(t, c)

	reference := serveRegistry(t, c, "5000").Host + "/test/server:v1"
	pushTestserver(t, c, reference)
	service := runTestserver(t, client, metav1.NamespaceDefault, reference)
	url := "http://" + service.Spec.ClusterIP + "/"
	const answer = "This is server."

	// What must work each time, by all ways that lead to a Pod.
	works := func(t *testing.T) {
		eventually(t, "the Service answers a Pod", func(context.Context) error {
			return expect(answer)(kubectl(t, c, "exec", "server", "--", "testserver", "get", url))
		})
		eventually(t, "the Service answers the node", func(ctx context.Context) error {
			return expect(answer)(get(ctx, c, url))
		})
		eventually(t, "the Pod logs", func(context.Context) error {
			return expect(`asked for "/"`)(kubectl(t, c, "logs", "server"))
		})
	}
	works(t)
	for _, program := range []string{
		"kube-apiserver", "etcd", "containerd", "kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler",
	} {
		t.Run(program+" is restarted", func(t *testing.T) {
			if err := c.Restart(t.Context(), program); err != nil {
				t.Fatal(err)
			}
			works(t)
		})
	}
	pod, err := client.CoreV1().Pods(metav1.NamespaceDefault).Get(t.Context(), "server", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("the container was started again %d times", restarts)
	}
}

// get asks a server from the node.
func get(ctx context.Context, c *cluster.Cluster, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// expect returns a check of what a command printed.
func expect(want string) func(out string, err error) error {
	return func(out string, err error) error {
		if err != nil {
			return err
		}
		if !strings.Contains(out, want) {
			return fmt.Errorf("got %q, want %q", out, want)
		}
		return nil
	}
}

// runTestserver starts a Pod, called server, and a Service for it, and waits until it is ready.
func runTestserver(t *testing.T, client kubernetes.Interface, namespace, image string) *corev1.Service {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "server", Labels: map[string]string{"app": "server"}}
	port := intstr.FromInt32(8080)
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "server", Image: image,
		ReadinessProbe: &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: port}}, PeriodSeconds: 1,
		},
	}}}}
	core := client.CoreV1()
	if _, err := core.Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service, err := core.Services(namespace).Create(t.Context(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: meta.Labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: port}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Pod is ready", func(ctx context.Context) error {
		pod, err := core.Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !isReady(pod) {
			return fmt.Errorf("its status is %v", pod.Status)
		}
		return nil
	})
	return service
}

// isReady reports whether a Pod is ready.
func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
