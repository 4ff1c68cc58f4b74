// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	clientset "tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/test/cluster"
	"tagger.dev/tagger/test/lab"
)

// TestAggregated uses Tagger through a real kube-apiserver, with no more rights than its manifests give it.
func TestAggregated(t *testing.T) {
	t.Parallel()
	x := extend(t, start(t, cluster.Config{ControlPlaneOnly: true}))
	x.namespace(t, "a", map[string]string{"alice": "edit", "victor": "view", "ann": "admin"})
	x.namespace(t, "b", map[string]string{"bob": "edit"})
	out := lab.New(t, lab.PlainHTTP)
	out.Push(t, "team/app", randomImage(t))
	source := out.Reference("team/app")
	spec := v1beta1.ImageImportSpec{From: source, Insecure: ptr.To(true), Mirror: ptr.To(true)}
	for _, namespace := range []string{"a", "b"} {
		imp, err := x.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ended := x.finished(t, namespace, imp.Name); ended.Status != metav1.ConditionTrue {
			t.Fatalf("the import ended %s: %s", ended.Reason, ended.Message)
		}
	}
	t.Run("version", func(t *testing.T) {
		out, err := kubectl(t, x.Cluster, "image", "version")
		client, server, _ := strings.Cut(strings.TrimSpace(out), "\n")
		if version := strings.TrimPrefix(client, "Client Version: "); err != nil || version == client || server != "Server Version: "+version {
			t.Errorf("%q: %v", out, err)
		}
	})
	t.Run("rights", func(t *testing.T) { rights(t, x, spec) })
	t.Run("admission", func(t *testing.T) { admission(t, x) })
	t.Run("registry endpoint", func(t *testing.T) { registryTokens(t, x) })
	t.Run("proxy", func(t *testing.T) { proxied(t, x) })
	t.Run("own tokens", func(t *testing.T) { ownTokens(t, x) })
	t.Run("pull secrets", func(t *testing.T) { pullSecrets(t, x) })
	t.Run("releases", func(t *testing.T) { releases(t, x) })
	t.Run("mirrors", func(t *testing.T) { mirrors(t, x, source) })
	t.Run("conformance", func(t *testing.T) { conformance(t, x, source) })
	t.Run("quota", func(t *testing.T) { quota(t, x) })
	t.Run("collection", func(t *testing.T) { collection(t, x, spec) })
	t.Run("certificates", func(t *testing.T) { certificates(t, x) })
	t.Run("restarts", func(t *testing.T) { restarts(t, x, spec) })
}

// rights is the table of who may do what where: y for yes, n for no.
func rights(t *testing.T, x *tagger, spec v1beta1.ImageImportSpec) {
	users := []string{"ann", "alice", "victor", "bob", "nobody"}
	clients := map[string]clientset.Interface{}
	for _, user := range users {
		access, err := x.User(user)
		if err != nil {
			t.Fatal(err)
		}
		clients[user] = typed(t, access.Config)
	}
	dry := []string{metav1.DryRunAll}
	image := &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Spec: v1beta1.ImageSpec{From: "registry.example/app"}}
	status := []byte(`{"status":{"conditions":[]}}`)
	for _, tt := range []struct {
		what string
		do   func(ctx context.Context, client clientset.Interface) error
		want string // of the users, in their order
	}{
		{"get images", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().Images("a").Get(ctx, "app", metav1.GetOptions{})
			return err
		}, "yyynn"},
		{"list imageimports", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().ImageImports("a").List(ctx, metav1.ListOptions{})
			return err
		}, "yyynn"},
		{"create images", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().Images("a").Create(ctx, image, metav1.CreateOptions{DryRun: dry})
			return err
		}, "yynnn"},
		{"patch images", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().Images("a").Patch(ctx, "app", types.MergePatchType, []byte(`{"spec":{"historyLimit":7}}`), metav1.PatchOptions{DryRun: dry})
			return err
		}, "yynnn"},
		{"patch images/status", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().Images("a").Patch(ctx, "app", types.MergePatchType, status, metav1.PatchOptions{DryRun: dry}, "status")
			return err
		}, "nnnnn"},
		{"create images/import", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().Images("a").Import(ctx, "app", &v1beta1.ImageImport{}, metav1.CreateOptions{DryRun: dry})
			return err
		}, "yynnn"},
		{"create images/rollback", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().Images("a").Rollback(ctx, "app", &v1beta1.ImageRollback{Spec: v1beta1.ImageRollbackSpec{Number: ptr.To[int32](1)}}, metav1.CreateOptions{DryRun: dry})
			return err
		}, "yynnn"},
		{"create imageimports", func(ctx context.Context, c clientset.Interface) error {
			_, err := c.TaggerV1beta1().ImageImports("a").Create(ctx, &v1beta1.ImageImport{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}, Spec: v1beta1.ImageImportSpec{TargetImage: "app"},
			}, metav1.CreateOptions{DryRun: dry})
			return err
		}, "yynnn"},
		{"delete images of the other namespace", func(ctx context.Context, c clientset.Interface) error {
			return c.TaggerV1beta1().Images("b").Delete(ctx, "app", metav1.DeleteOptions{DryRun: dry})
		}, "nnnyn"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var got strings.Builder
			for i, user := range users {
				// Roles are aggregated, and caches filled, after a while.
				answer := byte('n')
				eventually(t, user+" is known", func(ctx context.Context) error {
					switch err := tt.do(ctx, clients[user]); {
					case err == nil:
						answer = 'y'
					case !apierrors.IsForbidden(err):
						return err
					case tt.want[i] == 'y':
						return err
					}
					return nil
				})
				got.WriteByte(answer)
			}
			if got.String() != tt.want {
				t.Errorf("%v: %s, want %s", users, got.String(), tt.want)
			}
		})
	}
}

// admission has a policy forbid a source, and asks for it in all ways.
func admission(t *testing.T, x *tagger) {
	const policy = `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"List","items":[
	{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"sources"},"spec":{"failurePolicy":"Fail",
	 "matchConstraints":{"resourceRules":[{"apiGroups":["tagger.dev"],"apiVersions":["v1beta1"],"operations":["CREATE","UPDATE"],"resources":["images","imageimports"]}]},
	 "validations":[{"expression":"!has(object.spec.from) || !object.spec.from.startsWith('forbidden.example/')","message":"this source is forbidden"}]}},
	{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicyBinding","metadata":{"name":"sources"},"spec":{"policyName":"sources","validationActions":["Deny"]}},
	{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"others"},"spec":{"failurePolicy":"Fail","paramKind":{"apiVersion":"v1","kind":"ConfigMap"},
	 "matchConstraints":{"resourceRules":[{"apiGroups":["apps"],"apiVersions":["v1"],"operations":["CREATE"],"resources":["deployments"]}]},
	 "validations":[{"expression":"params != null"}]}},
	{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicyBinding","metadata":{"name":"others"},"spec":{"policyName":"others","validationActions":["Deny"],
	 "paramRef":{"name":"p","namespace":"default","parameterNotFoundAction":"Allow"}}}]}`
	once, err := x.api.TaggerV1beta1().Images("a").Create(t.Context(), &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: "once"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, from := range []string{"registry.example/app", "forbidden.example/app"} {
		reference := fmt.Sprintf("%s@sha256:%064d", from, i)
		at := metav1.NewMicroTime(time.Now().Add(-time.Duration(i) * time.Hour))
		once.Status.HashReferences = append(once.Status.HashReferences, v1beta1.HashReference{
			From: from, ImageReference: reference, SourceReference: reference, ImportedAt: metav1.NewTime(at.Time), ResolvedAt: at, ImportUID: "once",
		})
	}
	if _, err := x.api.TaggerV1beta1().Images("a").UpdateStatus(t.Context(), once, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	cmd := x.Command(t.Context(), "kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(policy)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	forbidden := v1beta1.ImageImportSpec{From: "forbidden.example/app"}
	image := &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: "forbidden"}, Spec: v1beta1.ImageSpec{From: forbidden.From}}
	for _, tt := range []struct {
		what string
		do   func(ctx context.Context) error
	}{
		// It comes first, since it leaves nothing as long as the policy is not known.
		{"an Image", func(ctx context.Context) error {
			_, err := x.api.TaggerV1beta1().Images("a").Create(ctx, image, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}},
		{"an import that creates its Image", func(ctx context.Context) error {
			_, err := x.api.TaggerV1beta1().Images("a").Import(ctx, "forbidden", &v1beta1.ImageImport{Spec: forbidden}, metav1.CreateOptions{})
			return err
		}},
		{"an import that overrides its Image's source", func(ctx context.Context) error {
			_, err := x.api.TaggerV1beta1().Images("a").Import(ctx, "app", &v1beta1.ImageImport{Spec: forbidden}, metav1.CreateOptions{})
			return err
		}},
		{"an ImageImport", func(ctx context.Context) error {
			of := forbidden
			of.TargetImage = "app"
			_, err := x.api.TaggerV1beta1().ImageImports("a").Create(ctx, &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}, Spec: of}, metav1.CreateOptions{})
			return err
		}},
		{"a rollback to what came from there before", func(ctx context.Context) error {
			_, err := x.api.TaggerV1beta1().Images("a").Rollback(ctx, "once", &v1beta1.ImageRollback{}, metav1.CreateOptions{})
			return err
		}},
	} {
		eventually(t, tt.what+" is refused", func(ctx context.Context) error { // policies are known after a while
			if err := tt.do(ctx); err == nil || !strings.Contains(err.Error(), "this source is forbidden") {
				return fmt.Errorf("answered %w", errors.Join(err, errors.New("and not by the policy")))
			}
			return nil
		})
	}
	if _, err := x.api.TaggerV1beta1().Images("a").Get(t.Context(), "forbidden", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an Image of what is forbidden: %v", err)
	}
	// The other policy is nothing to Tagger, which may not read its parameters either.
	eventually(t, "Tagger is ready", func(ctx context.Context) error { return x.ready(ctx) })
	missing := &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: v1beta1.ImageSpec{From: "registry.example/app"}}
	if _, err := x.api.TaggerV1beta1().Images("missing").Create(t.Context(), missing, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an Image in a namespace that is not there: %v, want not found", err)
	}
}

// registryTokens pulls with tokens of service accounts.
func registryTokens(t *testing.T, x *tagger) {
	for _, account := range []string{"puller", "stranger"} {
		if _, err := x.kube.CoreV1().ServiceAccounts("a").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kubectl(t, x.Cluster, "create", "rolebinding", "puller", "-n", "a", "--clusterrole", "tagger-view", "--serviceaccount", "a:puller"); err != nil {
		t.Fatal(err)
	}
	puller, stranger := x.token(t, "a", "puller"), x.token(t, "a", "stranger")
	eventually(t, "puller may pull", func(context.Context) error {
		if code := x.pull(t, "a/app", "latest", puller); code != http.StatusOK {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
	for _, tt := range []struct {
		what, repository, token string
		want                    int
	}{
		{"anonymous", "a/app", "", http.StatusUnauthorized},
		{"no token of the cluster", "a/app", "nonsense", http.StatusUnauthorized},
		{"no right", "a/app", stranger, http.StatusNotFound},
		{"no right in the other namespace", "b/app", puller, http.StatusNotFound},
		{"no such repository", "a/none", puller, http.StatusNotFound},
	} {
		if got := x.pull(t, tt.repository, "latest", tt.token); got != tt.want {
			t.Errorf("%s: status %d, want %d", tt.what, got, tt.want)
		}
	}
}

// collection deletes an Image, whose imports are collected, then a namespace with many, and makes that again.
func collection(t *testing.T, x *tagger, spec v1beta1.ImageImportSpec) {
	x.namespace(t, "c", nil)
	images := x.api.TaggerV1beta1().Images("c")
	if _, err := images.Import(t.Context(), "app", &v1beta1.ImageImport{Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := images.Delete(t.Context(), "app", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the imports of a deleted Image are collected", func(ctx context.Context) error {
		list, err := x.api.TaggerV1beta1().ImageImports("c").List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
	if _, err := images.Import(t.Context(), "app", &v1beta1.ImageImport{Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var creating errgroup.Group
	creating.SetLimit(16)
	for i := range 1000 {
		creating.Go(func() error {
			_, err := images.Create(t.Context(), &v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("app-%d", i)}, Spec: v1beta1.ImageSpec{From: spec.From}}, metav1.CreateOptions{})
			return err
		})
	}
	if err := creating.Wait(); err != nil {
		t.Fatal(err)
	}
	admin := x.adminToken(t)
	eventually(t, "it is at the mirror", func(context.Context) error {
		if code := x.pull(t, "c/app", "latest", admin); code != http.StatusOK {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
	if err := x.kube.CoreV1().Namespaces().Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone", func(ctx context.Context) error {
		_, err := x.kube.CoreV1().Namespaces().Get(ctx, "c", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
	x.namespace(t, "c", nil)
	if code := x.pull(t, "c/app", "latest", admin); code != http.StatusNotFound {
		t.Errorf("the namespace that was made again has what the one before had: status %d", code)
	}
}

// adminToken returns a token of somebody who may do everything.
func (x *tagger) adminToken(t *testing.T) string {
	t.Helper()
	if _, err := x.kube.CoreV1().ServiceAccounts("b").Get(t.Context(), "root", metav1.GetOptions{}); err == nil {
		return x.token(t, "b", "root")
	}
	if _, err := x.kube.CoreV1().ServiceAccounts("b").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "root"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kubectl(t, x.Cluster, "create", "clusterrolebinding", "root", "--clusterrole", "cluster-admin", "--serviceaccount", "b:root"); err != nil {
		t.Fatal(err)
	}
	return x.token(t, "b", "root")
}

// restarts has kube-apiserver, etcd and Tagger restart, each alone, and the front proxy's CA change; after each one imports end.
func restarts(t *testing.T, x *tagger, spec v1beta1.ImageImportSpec) {
	spec.TargetImage = "app"
	number := 0
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"kube-apiserver", func() error { return x.Restart(t.Context(), "kube-apiserver") }},
		{"etcd of Kubernetes", func() error { return x.Restart(t.Context(), "etcd") }},
		{"the CA of the front proxy", func() error { return x.RotateFrontProxyCA(t.Context()) }},
		{"Tagger", func() error { x.stop(t); x.run(t); return nil }},
		{"Tagger before kube-apiserver", func() error {
			if err := x.Stop("kube-apiserver"); err != nil {
				return err
			}
			x.stop(t)
			x.run(t)
			eventually(t, "Tagger waits", func(context.Context) error {
				if !strings.Contains(x.log.String(), "Waiting for kube-apiserver") {
					return errors.New("it does not say so")
				}
				return nil
			})
			return x.Restart(t.Context(), "kube-apiserver")
		}},
	} {
		t.Run(step.what, func(t *testing.T) {
			var names []string
			for range 50 {
				number++
				imp := &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("restart-%d", number)}, Spec: spec}
				if _, err := x.api.TaggerV1beta1().ImageImports("b").Create(t.Context(), imp, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				names = append(names, imp.Name)
			}
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			x.available(t)
			for _, name := range names {
				if ended := x.finished(t, "b", name); ended.Status != metav1.ConditionTrue {
					t.Errorf("%s ended %s: %s", name, ended.Reason, ended.Message)
				}
			}
		})
	}
}

// TestOlderKubernetes extends a Kubernetes that does not have all that the newest has.
func TestOlderKubernetes(t *testing.T) {
	t.Parallel()
	x := extend(t, start(t, cluster.Config{ControlPlaneOnly: true, APIServerFlags: []string{"--emulated-version=1.35"}}))
	if _, err := x.api.TaggerV1beta1().Images("default").Create(t.Context(), &v1beta1.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: v1beta1.ImageSpec{From: "127.0.0.1:1/app"},
	}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}
