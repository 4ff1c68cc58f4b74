// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// A right is one object of RBAC, without what Helm adds.
type right struct {
	Namespace string
	Labels    map[string]string
	Rules     []rbacv1.PolicyRule
	Role      rbacv1.RoleRef
	Subjects  []rbacv1.Subject
}

// rights returns all of RBAC.
func (o objects) rights() map[string]right {
	all := map[string]right{}
	for name, object := range o {
		r := right{}
		switch object := object.(type) {
		case *rbacv1.ClusterRole:
			r.Rules = object.Rules
		case *rbacv1.Role:
			r.Namespace, r.Rules = cmp.Or(object.Namespace, namespace), object.Rules
		case *rbacv1.ClusterRoleBinding:
			r.Role, r.Subjects = object.RoleRef, object.Subjects
		case *rbacv1.RoleBinding:
			r.Namespace, r.Role, r.Subjects = cmp.Or(object.Namespace, namespace), object.RoleRef, object.Subjects
		default:
			continue
		}
		r.Labels = maps.Clone(accessor(object).GetLabels())
		maps.DeleteFunc(r.Labels, func(label, _ string) bool {
			return strings.HasPrefix(label, "app.kubernetes.io/") || strings.HasPrefix(label, "helm.sh/")
		})
		if len(r.Labels) == 0 {
			r.Labels = nil
		}
		all[name] = r
	}
	return all
}

// cluster returns a role for the whole cluster, and that an account has it.
func cluster(role, account string, rule rbacv1.PolicyRule) map[string]right {
	return map[string]right{
		"ClusterRole/" + role: {Rules: []rbacv1.PolicyRule{rule}},
		"ClusterRoleBinding/" + role: {
			Role:     rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: account, Namespace: namespace}},
		},
	}
}

// applied returns the objects of the manifests.
func applied(t *testing.T) objects {
	t.Helper()
	files, err := filepath.Glob(manifests + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		maps.Copy(all, read(t, file))
	}
	return all
}

// read returns the objects of a file.
func read(t *testing.T, file string) objects {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all, err := decode(content)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return all
}

// TestRights compares the rights that the chart grants with those of the manifests, which say why each is needed, and with what
// docs/security.md says of values that add one or narrow it.
func TestRights(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		metrics := cluster("tagger-metrics", "tagger-metrics", rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}})
		mirrors := cluster("tagger-namespace-mirrors", "tagger", rbacv1.PolicyRule{
			APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"mirror-registry-config"}, Verbs: []string{"get"},
		})
		nodes := cluster("tagger-node-tokens", "", rbacv1.PolicyRule{
			APIGroups: []string{""}, Resources: []string{"tagger.dev"}, Verbs: []string{"request-serviceaccounts-token-audience"},
		})
		binding := nodes["ClusterRoleBinding/tagger-node-tokens"]
		binding.Subjects = []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:nodes"}}
		nodes["ClusterRoleBinding/tagger-node-tokens"] = binding
		if diff := gocmp.Diff(read(t, "../../artifacts/nodes/rbac.yaml").rights(), nodes); diff != "" {
			t.Errorf("artifacts/nodes/rbac.yaml grants other rights (-file +want):\n%s", diff)
		}
		list := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list"}}
		narrow := map[string]right{"ClusterRole/tagger-pull-secrets": {Rules: []rbacv1.PolicyRule{list}}}
		for _, in := range []string{"team-a", "team-b"} {
			narrow["RoleBinding/"+in+"/tagger-pull-secrets"] = right{
				Namespace: in,
				Role:      rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "tagger-pull-secrets"},
				Subjects:  []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "tagger", Namespace: namespace}},
			}
		}
		for name, test := range map[string]struct {
			values string
			more   map[string]right
			// less is what the ClusterRole of Tagger lacks, and without what there is not at all.
			less    []rbacv1.PolicyRule
			without []string
		}{
			"default":    {},
			"several":    {values: several},
			"everything": {values: everything, more: metrics},
			"alone":      {values: alone, more: metrics},
			"nodes":      {values: `{registry: {nodeTokens: true}}`, more: nodes},
			"mirrors":    {values: `{allowNamespaceMirrors: true}`, more: mirrors},
			"no tokens":  {values: `{registryTokens: {everybody: false}}`, without: []string{"ClusterRoleBinding/tagger-registry-tokens"}},
			"narrow":     {values: `{pullSecrets: {namespaces: [team-a, team-b]}}`, more: narrow, less: []rbacv1.PolicyRule{list}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				want := applied(t).rights()
				if len(want) == 0 {
					t.Fatal("the manifests grant nothing")
				}
				maps.Copy(want, test.more)
				for _, name := range test.without {
					if _, granted := want[name]; !granted {
						t.Fatalf("the manifests have no %s", name)
					}
					delete(want, name)
				}
				own := want["ClusterRole/tagger-apiserver"]
				for _, rule := range test.less {
					kept := slices.DeleteFunc(slices.Clone(own.Rules), func(r rbacv1.PolicyRule) bool { return gocmp.Equal(r, rule) })
					if len(kept) != len(own.Rules)-1 {
						t.Fatalf("the manifests do not grant %v once", rule)
					}
					own.Rules = kept
				}
				want["ClusterRole/tagger-apiserver"] = own
				if diff := gocmp.Diff(want, helm.render(t, test.values).rights()); diff != "" {
					t.Errorf("not what the manifests grant (-manifests +chart):\n%s", diff)
				}
			})
		}
	})
}

// TestManifests compares the rest of what the chart and the manifests have alike.
func TestManifests(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		chart, manifests := helm.render(t, ""), applied(t)

		names := func(all objects) (names []string) {
			for name, object := range all {
				switch object.(type) {
				case *corev1.Namespace: // which helm makes
				default:
					names = append(names, name)
				}
			}
			slices.Sort(names)
			return names
		}
		if diff := gocmp.Diff(names(manifests), names(chart)); diff != "" {
			t.Errorf("other objects (-manifests +chart):\n%s", diff)
		}

		const service = "APIService/v1beta1.tagger.dev"
		if diff := gocmp.Diff(get[*apiregistration.APIService](t, manifests, service).Spec,
			get[*apiregistration.APIService](t, chart, service).Spec); diff != "" {
			t.Errorf("another APIService (-manifests +chart):\n%s", diff)
		}

		type safety struct {
			Account, Priority string
			Pod               *corev1.PodSecurityContext
			Container         *corev1.SecurityContext
			Ports             []corev1.ContainerPort
			Resources         corev1.ResourceRequirements
			Data              string
		}
		of := func(all objects) safety {
			pod := get[*appsv1.StatefulSet](t, all, "StatefulSet/tagger").Spec.Template.Spec
			container := pod.Containers[0]
			data := container.Args[slices.IndexFunc(container.Args, func(arg string) bool { return strings.HasPrefix(arg, "--data-dir=") })]
			return safety{pod.ServiceAccountName, pod.PriorityClassName, pod.SecurityContext, container.SecurityContext, container.Ports,
				container.Resources, data}
		}
		if diff := gocmp.Diff(of(manifests), of(chart)); diff != "" {
			t.Errorf("another Pod (-manifests +chart):\n%s", diff)
		}
	})
}

// TestLeftAlone looks at what people and the server write to: an upgrade changes there what the chart says, or what it said before.
func TestLeftAlone(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		for name, values := range map[string]string{"default": "", "several": several, "cert-manager": everything, "provided": alone} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				all := helm.render(t, values)
				for _, name := range []string{"mirror-registry-config", "tagger-ca"} {
					secret := get[*corev1.Secret](t, all, "Secret/"+name)
					if len(secret.Data)+len(secret.StringData) > 0 || secret.Type != "" || secret.Immutable != nil {
						t.Errorf("Secret %s has content: %v", name, secret)
					}
				}
				bundle := get[*apiregistration.APIService](t, all, "APIService/v1beta1.tagger.dev").Spec.CABundle
				if name != "provided" && bundle != nil {
					t.Errorf("the APIService has the CA bundle %q", bundle)
				}
				kept := []string{}
				for name, object := range all {
					if accessor(object).GetAnnotations()["helm.sh/resource-policy"] == "keep" {
						kept = append(kept, name)
					}
				}
				slices.Sort(kept)
				want := []string{"Secret/mirror-registry-config", "Secret/tagger-ca"}
				if diff := gocmp.Diff(want, kept); diff != "" {
					t.Errorf("other objects are kept after an uninstall (-want +got):\n%s", diff)
				}
			})
		}
	})
}
