// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/importer"
)

// TestRefusals says which values are refused, and by which words.
func TestRefusals(t *testing.T) {
	none := `imageStore: {enabled: false}, etcd: {mode: bundled}` // none has an image store
	given := func(cert, key string) string { return `cert: ` + strconv.Quote(cert) + `, key: ` + strconv.Quote(key) }
	for _, test := range []struct{ name, values, want string }{
		{"several servers", `{replicas: 3}`, "replicas: 3 servers need an etcd that they share, and etcd.mode is embedded. Set etcd.mode=bundled or etcd.mode=external, or replicas=1.\n" +
			"replicas: 3 servers cannot share an image store. Set imageStore.enabled=false, and"},
		{"several servers with embedded etcd", `{replicas: 2, imageStore: {enabled: false}}`, "replicas: 2 servers need an etcd that they share"},
		{"several servers with an image store", `{replicas: 2, etcd: {mode: bundled}}`, "replicas: 2 servers cannot share an image store"},
		{"no server", `{replicas: 0}`, "'/replicas': minimum"},
		{"embedded etcd without the volume of the image store", `{imageStore: {enabled: false}}`, "imageStore.enabled: is false, and the embedded etcd needs the volume of the image store. Set etcd.mode=bundled"},
		{"external etcd without servers", `{etcd: {mode: external}}`, "etcd.external.servers: is empty, and etcd.mode is external. Name the servers"},
		{"an etcd server that is no URL", `{etcd: {mode: external, external: {servers: [etcd.example.com]}}}`, "'/etcd/external/servers/0': 'etcd.example.com' does not match pattern"},
		{"another mode", `{etcd: {mode: shared}}`, "'/etcd/mode': value must be one of 'embedded', 'bundled', 'external'"},
		{"key without cert", `{` + given("", key) + `}`, "cert: is empty, and key is set. Give both, by --set-file"},
		{"cert without key", `{` + given(leaf, "") + `}`, "key: is empty, and cert is set. Give both, by --set-file"},
		{"cert and key the wrong way round", `{` + given(key, leaf) + `}`, "cert and key: are swapped. Give the certificate as cert"},
		{"a key beside the certificate", `{` + given(leaf+key, key) + `}`, "cert: has a private key in it. Give a file with nothing but certificates"},
		{"a key beside the CA", `{` + given(leaf, key) + `, certificate: {ca: ` + strconv.Quote(key) + `}}`, "certificate.ca: has a private key in it"},
		{"a cert that is none", `{` + given("tls.crt", key) + `}`, "cert: is not a certificate in PEM. Give the content of such a file, by --set-file 'cert=FILE'"},
		{"a cert in one line", `{` + given(strings.ReplaceAll(leaf, "\n", " "), key) + `}`, "cert: is not a certificate in PEM"},
		{"a key that is none", `{` + given(leaf, "SECRET") + `}`, "key: is not a private key in PEM"},
		{"a key with a passphrase", `{` + given(leaf, strings.ReplaceAll(key, "PRIVATE", "ENCRYPTED PRIVATE")) + `}`, "key: is not a private key in PEM without a passphrase"},
		{"a CA that is none", `{` + given(leaf, key) + `, certificate: {ca: mine}}`, "certificate.ca: is not a certificate in PEM"},
		{"a Secret without its CA", `{certificate: {secret: mine}}`, "certificate.ca: is empty, and certificate.secret is set. Give the authority"},
		{"two sources of certificates", `{certificate: {secret: mine, ca: ` + strconv.Quote(authority) + `, certManager: {enabled: true}}}`, "the serving certificate has one source. Set either"},
		{"tokens for nobody", `{registry: {nodeTokens: true, audiences: []}}`, "registry.audiences: is empty, and registry.nodeTokens is true. Name the audience"},
		{"tokens for a URL", `{registry: {nodeTokens: true, audiences: ["https://images.example.com"]}}`, `registry.audiences: "https://images.example.com" has a slash, which RBAC cannot grant to nodes. Name`},
		{"an audience with a comma", `{registry: {audiences: ["a,b"]}}`, "'/registry/audiences/0'"},
		{"an ingress without host", `{registry: {ingress: {enabled: true}}}`, "registry.ingress.host: is empty, and registry.ingress.enabled is true. Set"},
		{"servers of an etcd that is not used", `{etcd: {external: {servers: ["https://a.example.com:2379"]}}}`, "etcd.external.servers: is set, and etcd.mode is embedded. Set etcd.mode=external, or leave"},
		{"a Secret of an etcd that is not used", `{etcd: {mode: bundled, external: {secret: etcd}}}`, "etcd.external.secret: is set, and etcd.mode is bundled"},
		{"a claim of one's own without a volume", `{persistence: {enabled: false, existingClaim: mine}}`, "persistence.existingClaim: is set, and persistence.enabled is false. Set persistence.enabled=true"},
		{"a claim of one's own for nothing", `{` + none + `, persistence: {existingClaim: mine}}`, "persistence.existingClaim: is set, and servers have no volume where imageStore.enabled is false. Leave"},
		{"a load balancer, and another type", `{loadBalancer: true, registry: {service: {type: NodePort}}}`, "loadBalancer: is true, and registry.service.type is NodePort. Set one of them"},
		{"a port of the nodes without their Service", `{registry: {service: {nodePort: 30500}}}`, "registry.service.nodePort: is set, and registry.service.type is ClusterIP, which adds no Service. Set"},
		{"annotations without their Service", `{registry: {service: {annotations: {a: b}}}}`, "registry.service.annotations: is set, and registry.service.type is ClusterIP"},
		{"a policy without its Service", `{registry: {service: {externalTrafficPolicy: Local}}}`, "registry.service.externalTrafficPolicy: is set, and registry.service.type is ClusterIP"},
		{"the class of no load balancer", `{registry: {service: {type: NodePort, loadBalancerClass: a}}}`, "registry.service.loadBalancerClass: is set, and registry.service.type is NodePort. Set"},
		{"the sources of no load balancer", `{registry: {service: {loadBalancerSourceRanges: [192.0.2.0/24]}}}`, "registry.service.loadBalancerSourceRanges: is set, and registry.service.type is ClusterIP. Set"},
		{"an image in upper case", `{image: registry.example.com/Tagger}`, `image: "registry.example.com/Tagger" is not the name of an image. Write HOST/REPOSITORY:TAG`},
		{"an image with a space", `{image: "registry.example.com/tagger: v1"}`, `image: "registry.example.com/tagger: v1" is not the name of an image`},
		{"an image with a scheme", `{image: "https://registry.example.com/tagger:v1"}`, `image: "https://registry.example.com/tagger:v1" is not`},
		{"an image with half a digest", `{image: "registry.example.com/tagger@sha256:0123"}`, `image: "registry.example.com/tagger@sha256:0123" is not`},
		{"no image", `{image: ""}`, `image: "" is not the name of an image`},
		{"an image of etcd in upper case", `{etcd: {bundled: {image: Registry/ETCD}}}`, `etcd.bundled.image: "Registry/ETCD" is not the name of an image`},
		{"a schedule in words", `{etcd: {bundled: {defragmentation: {schedule: each night}}}}`, `etcd.bundled.defragmentation.schedule: "each night" is not a schedule of cron. Write minute, hour`},
		{"a schedule with seconds", `{etcd: {bundled: {defragmentation: {schedule: 0 17 3 * * *}}}}`, `"0 17 3 * * *" is not a schedule of cron`},
		{"a schedule at a time that is none", `{etcd: {bundled: {defragmentation: {schedule: 17 24 * * *}}}}`, `"17 24 * * *" is not a schedule of cron`},
		{"an external host with a scheme", `{registry: {externalHost: "https://a.example.com"}}`, "'/registry/externalHost': 'https://a.example.com' does not match pattern"},
		{"an external host that is a name without its port", `{registry: {externalHost: registry}}`, "'/registry/externalHost'"},
		{"a ServiceMonitor without metrics", `{metrics: {serviceMonitor: {enabled: true}}}`, "metrics.serviceMonitor.enabled: there are no metrics to read. Set metrics.enabled=true"},
		{"a quota in another unit", `{etcd: {bundled: {quota: 2000M}}}`, "'/etcd/bundled/quota'"},
		{"a duration without unit", `{imports: {drainTimeout: 10}}`, "'/imports/drainTimeout': got number, want string"},
		{"a source with a path", `{sources: {allowedRegistries: [example.com/a]}}`, "'/sources/allowedRegistries/0'"},
		{"the authority of a host without its port", `{sources: {certificateAuthorities: {registry: ` + strconv.Quote(authority) + `}}}`, `sources.certificateAuthorities: "registry" needs its port, or it would read as a repository of docker.io. Write registry:443`},
		{"the authority of a URL", `{sources: {certificateAuthorities: {"https://a.example.com": ` + strconv.Quote(authority) + `}}}`, `sources.certificateAuthorities: "https://a.example.com" is not a host. Write HOST or HOST:PORT`},
		{"an authority that is none", `{sources: {certificateAuthorities: {"a.example.com:5000": ca.crt}}}`, `sources.certificateAuthorities.a\.example\.com:5000: is not a certificate in PEM. Give the content of such a file, by --set-file 'sources.certificateAuthorities.a\.example\.com:5000=FILE'`},
		{"an empty authority", `{sources: {certificateAuthorities: {a.example.com: ""}}}`, `sources.certificateAuthorities.a\.example\.com: is not a certificate in PEM`},
		{"a key for an authority", `{sources: {certificateAuthorities: {a.example.com: ` + strconv.Quote(key) + `}}}`, `sources.certificateAuthorities.a\.example\.com: has a private key in it`},
		{"a namespace that is none", `{pullSecrets: {namespaces: ["team-*"]}}`, "'/pullSecrets/namespaces/0'"},
		{"a namespace twice", `{pullSecrets: {namespaces: [team-a, team-a]}}`, "'/pullSecrets/namespaces': items at 0 and 1 are equal"},
		{"a flag that is none", `{extraArgs: [v=4]}`, "'/extraArgs/0'"},
		{"an unknown value", `{replicaCount: 3}`, "additional properties 'replicaCount' not allowed"},
		{"an unknown value below", `{etcd: {bundled: {replicas: 5}}}`, "'/etcd/bundled': additional properties 'replicas' not allowed"},
		{"an image as a map", `{image: {repository: a, tag: b}}`, "'/image': got object, want string"},
		{"a word for a number", `{replicas: many}`, "'/replicas': got string, want integer"},
		{"a volume of no size", `{persistence: {size: large}}`, "'/persistence/size'"},
		{"a toleration of another form", `{tolerations: [{effects: NoSchedule}]}`, "'/tolerations/0': additional properties 'effects' not allowed"},
		{"resources of another form", `{resources: {memory: 1Gi}}`, "'/resources': additional properties 'memory' not allowed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			each(t, func(t *testing.T, helm helm) {
				_, err := helm.run(t, test.values, "template", "tagger", chart)
				switch {
				case err == nil:
					t.Error("it is not refused")
				case !strings.Contains(err.Error(), test.want):
					t.Errorf("want %q in\n%v", test.want, err)
				case strings.Contains(err.Error(), "SECRET"):
					t.Errorf("the key is repeated in\n%v", err)
				}
			})
		})
	}
}

// TestSourceHosts has the chart and the server read the same hosts: what one refuses the other must not take.
func TestSourceHosts(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		for _, host := range []string{
			"registry.example.com", "registry.example.com:5000", "Registry.Example.COM", "registry.example.com.", "registry:5000", "registry.:5000",
			"localhost", "192.0.2.1", "192.0.2.1:5000", "[2001:db8::1]", "[2001:db8::1]:5000", "[::ffff:192.0.2.1]", "a.example.com:65535", "a.example.com:080",
			"registry", "registry.", "a_b.example.com", "-a.example.com", "a..example.com", "a.example.com:", "a.example.com:0", "a.example.com:65536",
			"a.example.com:http", "a:1:2", "2001:db8::1", "[2001:db8::1", "[a]", "*.example.com", "a.example.com/b", "a b.example.com", "user@a.example.com",
		} {
			t.Run(host, func(t *testing.T) {
				t.Parallel()
				_, want := importer.CanonicalHost(host)
				out, err := helm.run(t, `{sources: {certificateAuthorities: {`+strconv.Quote(host)+`: `+strconv.Quote(authority)+`}}}`, "template", "tagger", chart)
				if (err == nil) != (want == nil) {
					t.Fatalf("the server says: %v; the chart says: %v", want, err)
				}
				if err != nil {
					return
				}
				all, err := decode(out)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := all.serverOptions(t, server); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// TestLint has helm look at the chart as a whole, warnings being errors.
func TestLint(t *testing.T) {
	for name, values := range settings {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, helm helm) {
				if _, err := helm.run(t, values, "lint", "--strict", chart); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestSchema checks that values.yaml has whatever can be set, and the schema whatever values.yaml has.
func TestSchema(t *testing.T) {
	t.Parallel()
	type node struct {
		Reference  string          `json:"$ref"`
		Properties map[string]node `json:"properties"`
	}
	var schema node
	content, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &schema); err != nil {
		t.Fatal(err)
	}
	delete(schema.Properties, "global") // Helm's own
	var values map[string]any
	if content, err = os.ReadFile(filepath.Join(chart, "values.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		t.Fatal(err)
	}
	// What Kubernetes defines is not all there.
	except := sets.New("issuerRef", "podSecurityContext", "securityContext")
	var compare func(path string, schema node, values map[string]any)
	compare = func(path string, schema node, values map[string]any) {
		if diff := cmp.Diff(sets.List(sets.KeySet(schema.Properties)), sets.List(sets.KeySet(values))); diff != "" {
			t.Errorf("%s: the schema and values.yaml differ (-schema +values):\n%s", path, diff)
		}
		for name, property := range schema.Properties {
			below, isMap := values[name].(map[string]any)
			if isMap && property.Reference == "" && property.Properties != nil && !except.Has(name) {
				compare(path+"."+name, property, below)
			}
		}
	}
	compare("", schema, values)
}
