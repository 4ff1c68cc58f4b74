// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// ownTokens has people whose kubeconfig has a client certificate get a token of Tagger's own, and pull with it what they may.
func ownTokens(t *testing.T, x *tagger) {
	of := func(config *rest.Config) *v1beta1.RegistryToken {
		t.Helper()
		made, err := typed(t, config).TaggerV1beta1().RegistryTokens().Create(t.Context(), &v1beta1.RegistryToken{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	tokens := map[string]string{}
	for _, user := range []string{"alice", "victor", "bob", "nobody"} {
		access, err := x.User(user)
		if err != nil {
			t.Fatal(err)
		}
		made := of(access.Config)
		tokens[user] = made.Status.Token
		if made.Status.Registry.Host != x.registry || len(made.Status.Registry.CABundle) == 0 {
			t.Errorf("the registry is %q, want %q, with its authority", made.Status.Registry.Host, x.registry)
		}
	}
	impersonating := rest.CopyConfig(x.RESTConfig())
	impersonating.Impersonate = rest.ImpersonationConfig{UserName: "alice"}
	tokens["the administrator for alice"] = of(impersonating).Status.Token
	for _, tt := range []struct {
		user string
		a, b int
	}{
		{"alice", http.StatusOK, http.StatusNotFound},
		{"victor", http.StatusOK, http.StatusNotFound},
		{"bob", http.StatusNotFound, http.StatusOK},
		{"nobody", http.StatusNotFound, http.StatusNotFound},
		{"the administrator for alice", http.StatusOK, http.StatusNotFound},
	} {
		for repository, want := range map[string]int{"a/app": tt.a, "b/app": tt.b} {
			eventually(t, fmt.Sprintf("%s has status %d for %s", tt.user, want, repository), func(context.Context) error {
				if got := x.pull(t, repository, "latest", tokens[tt.user]); got != want {
					return fmt.Errorf("status %d", got)
				}
				return nil
			})
		}
	}

	// The token is no credential of the cluster.
	stranger := rest.AnonymousClientConfig(x.RESTConfig())
	stranger.BearerToken = tokens["alice"]
	if _, err := typed(t, stranger).TaggerV1beta1().Images("a").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("kube-apiserver takes a token for the registry")
	}
	anonymous := rest.AnonymousClientConfig(x.RESTConfig())
	if _, err := typed(t, anonymous).TaggerV1beta1().RegistryTokens().Create(t.Context(), &v1beta1.RegistryToken{}, metav1.CreateOptions{}); err == nil {
		t.Error("nobody got a token")
	}

	// A right that is taken away ends what a token may be used for.
	if _, err := kubectl(t, x.Cluster, "create", "rolebinding", "for-nobody", "-n", "a", "--clusterrole", "tagger-pull", "--user", "nobody"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		what string
		want int
	}{{"may pull", http.StatusOK}, {"may not pull any more", http.StatusNotFound}} {
		eventually(t, "nobody "+step.what, func(context.Context) error {
			if got := x.pull(t, "a/app", "latest", tokens["nobody"]); got != step.want {
				return fmt.Errorf("status %d", got)
			}
			return nil
		})
		if step.want == http.StatusOK {
			if err := x.kube.RbacV1().RoleBindings("a").Delete(t.Context(), "for-nobody", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
