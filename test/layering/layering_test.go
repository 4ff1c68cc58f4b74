// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package layering

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the rules name more than once.
const (
	apiserver  = "k8s.io/apiserver/..."
	etcd       = "go.etcd.io/etcd/..."
	etcdServer = "go.etcd.io/etcd/server/..."
)

// rules are the arrows of the architecture: cmd → pkg/apiserver → {registry, distribution, queue} → importer.
var rules = []rule{
	{
		of:     []string{"pkg/apis/..."},
		except: []string{"pkg/apis/...", "k8s.io/apimachinery/..."},
		never:  []string{"cmd/...", "pkg/...", "k8s.io/client-go/...", "k8s.io/component-base/...", apiserver, etcd},
		why:    "whoever uses the API types gets apimachinery with them and nothing else",
	},
	{
		of:     []string{"pkg/generated/..."},
		except: []string{"pkg/apis/...", "pkg/generated/..."},
		never:  []string{"cmd/...", "pkg/...", apiserver, etcd},
		why:    "whoever uses the client gets client-go with it and no server",
	},
	{
		of:     []string{"pkg/importer/..."},
		except: []string{"pkg/importer/...", "pkg/limit/..."}, // places by key know nothing of anybody
		never:  []string{"cmd/...", "pkg/...", "k8s.io/client-go/...", apiserver, etcd},
		why:    "importing an image is a library of its own: it knows neither our API nor who serves it, and is handed what it reads of a cluster",
	},
	{
		of:    []string{"pkg/importer"},
		never: []string{"k8s.io/api/..."},
		why:   "only where credentials and the mirror come from has to do with Secrets",
	},
	{
		of:     []string{"pkg/distribution/..."},
		except: []string{"pkg/distribution/...", "pkg/limit/...", "k8s.io/klog/..."}, // a log is no Kubernetes
		never:  []string{"cmd/...", "pkg/...", "k8s.io/...", "sigs.k8s.io/...", etcd},
		why:    "the OCI front knows nothing of Kubernetes; what it needs it asks of its own Backend",
	},
	{
		of:     []string{"pkg/token/..."},
		never:  []string{"cmd/...", "pkg/...", "k8s.io/api/...", "k8s.io/apimachinery/...", "k8s.io/client-go/...", apiserver, etcd},
		except: []string{"pkg/token/..."},
		why:    "what a token says, and who signed it, has nothing to do with who asks and where keys are kept",
	},
	{
		of:     []string{"pkg/front/..."},
		except: []string{"pkg/distribution/...", "pkg/front/...", "pkg/importer/...", "pkg/limit/..."},
		never:  []string{"cmd/...", "pkg/...", "k8s.io/client-go/...", apiserver, etcd},
		why:    "it joins the endpoint and the mirrors, who know nothing of each other, and is told where these are",
	},
	{
		of:    []string{"pkg/queue/...", "pkg/registry/..."},
		never: []string{"cmd/...", "pkg/apiserver/...", "pkg/cmd/...", "pkg/embedded/...", etcdServer},
		why:   "they are joined by pkg/apiserver, and run on any etcd and any mirror",
	},
	{
		of:    []string{"pkg/embedded/..."},
		never: []string{"cmd/...", "pkg/apis/...", "pkg/apiserver/...", "pkg/cmd/...", "pkg/queue/...", "pkg/registry/..."},
		why:   "it embeds etcd and the image store for whoever needs them, and does not know what for",
	},
	{
		of: []string{"cmd/kubectl-image/...", "pkg/cmd/..."},
		never: []string{
			"pkg/apiserver/...", "pkg/distribution/...", "pkg/embedded/...", "pkg/queue/...", "pkg/registry/...", apiserver, etcd,
		},
		why: "the plugin is a client, and stays a small binary",
	},
	{
		of:     []string{"cmd/tagger-credential-provider/...", "pkg/cmd/credentialprovider/..."},
		except: []string{"pkg/cmd/credentialprovider/...", "pkg/version/...", "k8s.io/apimachinery/pkg/version/...", "k8s.io/apimachinery/pkg/util/version/..."},
		never:  []string{"cmd/...", "pkg/...", "k8s.io/...", "sigs.k8s.io/...", etcd, "net/..."},
		why:    "nodes start it for each pull and hand it a token: it is made of the standard library, and has no network",
	},
	{
		of:     []string{"cmd/...", "pkg/...", "hack/..."},
		but:    []string{"pkg/embedded/..."},
		direct: true,
		never: []string{
			etcdServer,
			"github.com/containerd/containerd/v2/core/metadata/...",
			"github.com/containerd/containerd/v2/plugins/content/local/...",
		},
		why: "only pkg/embedded imports the server code of etcd and containerd, so that it can be replaced in one place",
	},
	{
		of:    []string{"cmd/...", "pkg/..."},
		never: []string{"test/..."},
		why:   "what misbehaves on command is for tests, and ships in nothing",
	},
}

// TestImports holds the rules over the packages of this module, without their tests.
func TestImports(t *testing.T) {
	t.Parallel()
	packages, err := load(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		for _, violation := range rule.check(packages) {
			t.Error(violation)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	packages := []pkg{
		{Path: module + "/cmd/server", Imports: []string{module + "/pkg/a"}, Deps: []string{"fmt", module + "/pkg/a", "example.org/lib/x"}},
		{Path: module + "/pkg/a", Imports: []string{"example.org/lib/x"}, Deps: []string{"fmt", "example.org/lib/x"}},
		{Path: module + "/pkg/a/sub", Deps: []string{"fmt", module + "/pkg/a", "example.org/lib/x"}},
		{Path: module + "/pkg/ab", Deps: []string{"fmt"}},
	}
	tests := []struct {
		name string
		rule rule
		want []string
	}{
		{
			name: "nothing is forbidden that is imported",
			rule: rule{of: []string{"pkg/..."}, never: []string{"cmd/...", "example.org/library/..."}},
		},
		{
			name: "a package of this module",
			rule: rule{of: []string{"cmd/..."}, never: []string{"pkg/a"}, why: "so"},
			want: []string{"cmd/server imports pkg/a: so"},
		},
		{
			name: "a folder, with what lies below it",
			rule: rule{of: []string{"pkg/a/..."}, never: []string{"example.org/lib/..."}, why: "so"},
			want: []string{"pkg/a imports example.org/lib/x: so", "pkg/a/sub imports example.org/lib/x: so"},
		},
		{
			name: "a package that the rule is not for",
			rule: rule{of: []string{"pkg/a/..."}, but: []string{"pkg/a"}, never: []string{"example.org/lib/x"}, why: "so"},
			want: []string{"pkg/a/sub imports example.org/lib/x: so"},
		},
		{
			name: "what may be imported all the same",
			rule: rule{of: []string{"pkg/a/..."}, except: []string{"pkg/a/..."}, never: []string{"pkg/..."}},
		},
		{
			name: "what is imported by way of another package, when that counts and when it does not",
			rule: rule{of: []string{"cmd/..."}, direct: true, never: []string{"example.org/lib/x", "pkg/a"}, why: "so"},
			want: []string{"cmd/server imports pkg/a: so"},
		},
		{
			name: "a rule for packages that are not there",
			rule: rule{of: []string{"pkg/gone/..."}, never: []string{"fmt"}},
			want: []string{`no package is named by "pkg/gone/...": the rule guards nothing`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.rule.check(packages)); diff != "" {
				t.Errorf("unexpected violations (-want +got):\n%s", diff)
			}
		})
	}
}
