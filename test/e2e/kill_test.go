// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"tagger.dev/tagger/test/cluster"
)

// holding has TestHold, in a process of its own, start a cluster.
const holding = "TAGGER_TEST_HOLD"

// TestHold is no test: it holds a cluster until TestKill kills its process.
func TestHold(t *testing.T) {
	if os.Getenv(holding) == "" { //nolint:forbidigo // this is where it is told
		t.Skip("it is for TestKill")
	}
	c := start(t, cluster.Config{})
	fmt.Fprintf(os.Stderr, "holding %s %s\n", c.Dir(), c.Kubeconfig())
	select {}
}

// TestKill kills a process that has a cluster with a Pod, while another process has one, too.
func TestKill(t *testing.T) {
	c := start(t, cluster.Config{})

	holder := exec.Command(os.Args[0], "-test.run", "^TestHold$", "-test.v")
	holder.Env = append(holder.Environ(), holding+"=yes")
	output, err := holder.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	var dir, kubeconfig string
	for lines := bufio.NewScanner(output); dir == "" && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "holding %s %s", &dir, &kubeconfig)
	}
	if dir == "" {
		t.Fatal("the other process started no cluster")
	}
	runPause(t, kubeconfig)
	if processes := processesOf(t, dir); !strings.Contains(strings.Join(processes, " "), "/pause") {
		t.Fatalf("the Pod is not among the processes: %q", processes)
	}

	holder.Process.Kill()
	eventually(t, "all of its processes have ended", func(context.Context) error {
		if processes := processesOf(t, dir); len(processes) > 0 {
			return fmt.Errorf("left are %q", processes)
		}
		return nil
	})
	if err := expect("ok")(kubectl(t, c, "get", "--raw", "/readyz")); err != nil {
		t.Errorf("the other cluster: %v", err)
	}

	start(t, cluster.Config{ControlPlaneOnly: true})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left after the next start", dir)
	}
	if groups := cgroupsOf(t, dir); len(groups) > 0 {
		t.Errorf("control groups are left after the next start: %q", groups)
	}
}

// runPause runs a Pod of an image that the node has anyway.
func runPause(t *testing.T, kubeconfig string) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pause"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "pause", Image: "localhost/pause:1", ImagePullPolicy: corev1.PullNever,
	}}}}
	if _, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Pod runs", func(ctx context.Context) error {
		pod, err := client.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("its status is %v", pod.Status)
		}
		return err
	})
}
