// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"tagger.dev/tagger/test/cluster"
)

// TestControlPlane uses a control plane without a node, which needs no root.
func TestControlPlane(t *testing.T) {
	t.Parallel()
	var dir string
	t.Run("while it is there", func(t *testing.T) {
		c := start(t, cluster.Config{ControlPlaneOnly: true})
		dir = c.Dir()
		useControlPlane(t, c)
	})
	if processes := processesOf(t, dir); len(processes) > 0 {
		t.Errorf("processes are left: %q", processes)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", dir)
	}
}

func useControlPlane(t *testing.T, c *cluster.Cluster) {
	client := kubeClient(t, c)

	t.Run("a user may do what the roles of its groups allow", func(t *testing.T) {
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "viewers"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "viewers"}},
		}
		if _, err := client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		alice, err := c.User("alice", "viewers")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "alice may list Pods", func(ctx context.Context) error { return listPods(ctx, alice.Config) })
		bob, err := c.User("bob")
		if err != nil {
			t.Fatal(err)
		}
		if err := listPods(t.Context(), bob.Config); !apierrors.IsForbidden(err) {
			t.Errorf("bob may list Pods: %v", err)
		}
	})

	t.Run("what is spawned outlives the thread that asked for it", func(t *testing.T) {
		cmd := exec.Command("sleep", "infinity")
		asked := make(chan int)
		var ask func()
		ask = func() {
			runtime.LockOSThread()
			if unix.Gettid() == os.Getpid() { // the first thread ends with the process: it is held, so that another one comes
				go ask()
				<-t.Context().Done()
				runtime.UnlockOSThread()
				return
			}
			if err := c.Spawn(cmd); err != nil {
				t.Error(err)
			}
			asked <- unix.Gettid() // the thread ends with the goroutine, since it is not unlocked
		}
		go ask()
		thread := fmt.Sprintf("/proc/self/task/%d", <-asked)
		eventually(t, "the thread has ended", func(context.Context) error {
			if _, err := os.Stat(thread); !os.IsNotExist(err) {
				return errors.Join(err, errors.New("it is there"))
			}
			return nil
		})
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
			t.Errorf("it ended %v", cmd.ProcessState)
		}
	})

	t.Run("a service account has tokens", func(t *testing.T) {
		var token string
		eventually(t, "the controller manager made the account", func(ctx context.Context) error {
			request, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).CreateToken(
				ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			if err == nil {
				token = request.Status.Token
			}
			return err
		})
		config := rest.AnonymousClientConfig(c.RESTConfig())
		config.BearerToken = token
		bearer, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		review, err := bearer.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := review.Status.UserInfo.Username, "system:serviceaccount:default:default"; got != want {
			t.Errorf("got user %q, want %q", got, want)
		}
	})

	t.Run("commands are the administrator's", func(t *testing.T) {
		out, err := c.Command(t.Context(), "kubectl", "get", "--raw", "/readyz").CombinedOutput()
		if err := expect("ok")(string(out), err); err != nil {
			t.Error(err)
		}
	})

	t.Run("what is stored survives restarts", func(t *testing.T) {
		stored := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "stored"}}
		if _, err := client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(t.Context(), stored, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
			if err := c.Restart(t.Context(), program); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "it is read", func(ctx context.Context) error {
			_, err := client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Get(ctx, stored.Name, metav1.GetOptions{})
			return err
		})
	})
}

func listPods(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	return err
}

// TestStartFails has nothing left of a cluster that does not start, and says why it does not.
func TestStartFails(t *testing.T) {
	for _, controlPlaneOnly := range []bool{true, false} {
		t.Run(fmt.Sprintf("ControlPlaneOnly=%v", controlPlaneOnly), func(t *testing.T) {
			config := cluster.Config{ControlPlaneOnly: controlPlaneOnly, APIServerFlags: []string{"--no-such-flag"}}
			require(t, config)
			t.Setenv("TMPDIR", t.TempDir())
			c, err := cluster.Start(t.Context(), config)
			if err == nil {
				t.Fatal(errors.Join(errors.New("it started"), c.Close()))
			}
			if !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
				t.Errorf("the reason is missing: %v", err)
			}
			left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
			if err != nil {
				t.Fatal(err)
			}
			if len(left) > 0 {
				t.Errorf("left are %q", left)
			}
			if processes := processesOf(t, os.TempDir()); len(processes) > 0 {
				t.Errorf("processes are left: %q", processes)
			}
		})
	}
}
