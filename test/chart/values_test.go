// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/jsonpath"
)

const (
	server     = "StatefulSet/tagger"
	deployment = "Deployment/tagger"
	etcd       = "StatefulSet/tagger-etcd"
	registry   = "Service/tagger-registry"
	pod        = "{.spec.template.spec"
	container  = pod + ".containers[0]"
)

// A valueTest says what values do.
type valueTest struct {
	name, values string
	// more and less are the objects that are there beside those of the default, and that are not.
	more, less []string
	// want is what JSON paths find, by the object and the path.
	want map[string]string
	// args are flags among those of the server, and those that start with lacks are not.
	args, lacks []string
}

func TestValues(t *testing.T) {
	base64Of := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	tests := []valueTest{{
		name: "default",
		want: map[string]string{
			server + " {.spec.replicas}":                              "1",
			server + " " + container + ".image}":                      "tagger.dev/tagger-apiserver:v0.0.0-dev",
			server + " " + container + ".imagePullPolicy}":            "IfNotPresent",
			server + " " + container + ".ports[*].containerPort}":     "8443 5000",
			server + " " + container + ".startupProbe.httpGet}":       `{"path":"/livez","port":"api","scheme":"HTTPS"}`,
			server + " " + container + ".readinessProbe.httpGet}":     `{"path":"/readyz","port":"api","scheme":"HTTPS"}`,
			server + " " + container + ".resources.limits.memory}":    "2Gi",
			server + " " + pod + ".priorityClassName}":                "system-cluster-critical",
			server + " {.spec.volumeClaimTemplates[*].metadata.name}": "data",
			server + " {.spec.volumeClaimTemplates[0].spec}":          `{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"20Gi"}}}`,
			server + " " + pod + ".affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey}": "kubernetes.io/hostname",
			"Service/tagger {.spec.ports[*].port} {.spec.type}":                               "443 5000 ",
			"APIService/v1beta1.tagger.dev {.spec.service.name} {.spec.service.namespace}":    "tagger tagger",
			"RoleBinding/kube-system/tagger-authentication-reader {.roleRef.name}":            "extension-apiserver-authentication-reader",
			"Secret/mirror-registry-config {.metadata.annotations.helm\\.sh/resource-policy}": "keep",
		},
		args: []string{"--namespace=tagger", "--data-dir=/data/tagger", "--store-reserve=256Mi", "--max-blob-size=0", "--max-namespace-size=0", "--registry-audiences=tagger.dev"},
		lacks: []string{
			"--etcd-", "--tls-", "--registry-external-", "--registry-certs-", "--allowed-", "--blocked-", "--shutdown-", "--audit-", "--allow-namespace-mirrors",
		},
	}, {
		name:   "an image without tag",
		values: `{image: "localhost:5000/tagger-apiserver"}`,
		want:   map[string]string{server + " " + container + ".image}": "localhost:5000/tagger-apiserver:v0.0.0-dev"},
	}, {
		name:   "an image with a tag",
		values: `{image: "localhost:5000/tagger-apiserver:v1", imagePullPolicy: Always, imagePullSecrets: [{name: login}]}`,
		want: map[string]string{
			server + " " + container + ".image} " + container + ".imagePullPolicy}": "localhost:5000/tagger-apiserver:v1 Always",
			server + " " + pod + ".imagePullSecrets[*].name}":                       "login",
		},
	}, {
		name:   "an image with a digest",
		values: `{image: "a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}`,
		want: map[string]string{
			server + " " + container + ".image}": "a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		},
	}, {
		name:   "an image with all that its name can have",
		values: `{image: "Registry.example.com:5000/a/b-c__d.e/f:V1.2_x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}`,
		want: map[string]string{
			server + " " + container + ".image}": "Registry.example.com:5000/a/b-c__d.e/f:V1.2_x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		},
	}, {
		name:   "several servers on a bundled etcd",
		values: several,
		more: []string{
			"CronJob/tagger-etcd-defrag", deployment, "PodDisruptionBudget/tagger", "PodDisruptionBudget/tagger-etcd",
			"Secret/tagger-etcd-client", "Secret/tagger-etcd-member", "Service/tagger-etcd", etcd,
		},
		less: []string{server},
		want: map[string]string{
			deployment + " {.spec.replicas}":                                                             "3",
			deployment + " " + container + ".ports[*].name} " + pod + ".volumes[*].name}":                "api registry etcd-certificate",
			deployment + " " + pod + ".volumes[0].secret.secretName}":                                    "tagger-etcd-client",
			"Service/tagger {.spec.ports[*].port}":                                                       "443 5000",
			"Service/tagger-etcd {.spec.clusterIP} {.spec.publishNotReadyAddresses}":                     "None true",
			etcd + " {.spec.replicas} {.spec.podManagementPolicy}":                                       "3 Parallel",
			etcd + " " + container + ".image}":                                                           "registry.k8s.io/etcd:3.7.0-0",
			etcd + " " + pod + ".volumes[0].secret.secretName}":                                          "tagger-etcd-member",
			etcd + " {.spec.volumeClaimTemplates[0].spec.resources.requests.storage}":                    "8Gi",
			etcd + " " + container + ".args[?(@ == \"--quota-backend-bytes=2147483648\")]}":              "--quota-backend-bytes=2147483648",
			etcd + " " + container + ".args[?(@ == \"--client-cert-auth\")]}":                            "--client-cert-auth",
			etcd + " " + container + ".args[?(@ == \"--peer-client-cert-auth\")]}":                       "--peer-client-cert-auth",
			"PodDisruptionBudget/tagger-etcd {.spec.maxUnavailable}":                                     "1",
			"CronJob/tagger-etcd-defrag {.spec.schedule} {.spec.concurrencyPolicy}":                      "17 3 * * * Forbid",
			"CronJob/tagger-etcd-defrag {.spec.jobTemplate.spec.template.spec.containers[0].command[0]}": "etcdctl",
		},
		args: []string{
			"--shutdown-delay-duration=10s",
			"--etcd-servers=https://tagger-etcd-0.tagger-etcd.tagger.svc:2379,https://tagger-etcd-1.tagger-etcd.tagger.svc:2379," +
				"https://tagger-etcd-2.tagger-etcd.tagger.svc:2379",
			"--etcd-cafile=/etcd-certificate/ca.crt", "--etcd-certfile=/etcd-certificate/tls.crt", "--etcd-keyfile=/etcd-certificate/tls.key",
			"--registry-audiences=tagger.dev", "--max-blob-size=0",
		},
		lacks: []string{"--data-dir", "--store-reserve", "--max-namespace-size", "--registry-external-host"},
	}, {
		name: "a bundled etcd that is set",
		values: `
replicas: 2
imageStore: {enabled: false}
pdb: {enabled: false}
etcd:
  mode: bundled
  bundled:
    image: registry.example.com/etcd:v3.6.1
    certificates: provided
    quota: 8Gi
    autoCompactionRetention: 30m
    initialClusterState: existing
    defragmentation: {enabled: false}
    persistence: {size: 20Gi, storageClass: "-"}
    nodeSelector: {disk: fast}
    affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone}]}}
`,
		more: []string{deployment, "Service/tagger-etcd", etcd},
		less: []string{server},
		want: map[string]string{
			etcd + " {.spec.replicas} " + container + ".image}":                             "3 registry.example.com/etcd:v3.6.1",
			etcd + " " + container + ".args[?(@ == \"--quota-backend-bytes=8589934592\")]}": "--quota-backend-bytes=8589934592",
			etcd + " " + container + ".args[?(@ == \"--auto-compaction-retention=30m\")]}":  "--auto-compaction-retention=30m",
			etcd + " " + container + ".args[?(@ == \"--initial-cluster-state=existing\")]}": "--initial-cluster-state=existing",
			etcd + " {.spec.volumeClaimTemplates[0].spec}":                                  `{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"20Gi"}},"storageClassName":""}`,
			etcd + " " + pod + ".nodeSelector}":                                             `{"disk":"fast"}`,
			etcd + " " + pod + ".affinity}":                                                 `{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"zone"}]}}`,
		},
	}, {
		name:   "an etcd without volumes",
		values: `{replicas: 3, imageStore: {enabled: false}, pdb: {enabled: false}, etcd: {mode: bundled, bundled: {certificates: provided, defragmentation: {enabled: false}, persistence: {enabled: false}}}}`,
		more:   []string{deployment, "Service/tagger-etcd", etcd},
		less:   []string{server},
		want:   map[string]string{etcd + " " + pod + ".volumes[1]} {.spec.volumeClaimTemplates}": `{"emptyDir":{},"name":"data"} `},
	}, {
		name:   "several servers on an etcd of one's own",
		values: `{replicas: 2, pdb: {maxUnavailable: 50%}, imageStore: {enabled: false}, etcd: {mode: external, external: {servers: ["https://a.example.com:2379", "https://b.example.com:2379"], secret: etcd}}}`,
		more:   []string{deployment, "PodDisruptionBudget/tagger"},
		less:   []string{server},
		want: map[string]string{
			deployment + " " + pod + ".volumes[*].secret.secretName}": "etcd",
			"PodDisruptionBudget/tagger {.spec.maxUnavailable}":       "50%",
		},
		args: []string{
			"--etcd-servers=https://a.example.com:2379,https://b.example.com:2379", "--etcd-cafile=/etcd-certificate/ca.crt",
		},
		lacks: []string{"--data-dir"},
	}, {
		name:   "one server with an image store on an etcd of one's own without certificates",
		values: `{etcd: {mode: external, external: {servers: ["http://a.example.com:2379"]}}}`,
		args:   []string{"--etcd-servers=http://a.example.com:2379", "--data-dir=/data/tagger"},
		lacks:  []string{"--etcd-cafile", "--etcd-certfile", "--etcd-keyfile"},
	}, {
		name:   "a volume of one's own",
		values: `{persistence: {existingClaim: data-tagger-0}}`,
		want:   map[string]string{server + " " + pod + ".volumes[0].persistentVolumeClaim.claimName}": "data-tagger-0"},
	}, {
		name:   "no volume",
		values: `{persistence: {enabled: false}}`,
		want:   map[string]string{server + " " + pod + ".volumes[0]}": `{"emptyDir":{},"name":"data"}`},
	}, {
		name:   "another volume",
		values: `{persistence: {size: 1Ti, storageClass: fast, accessModes: [ReadWriteOncePod], annotations: {a: b}}, imageStore: {reserve: 1Gi, maxNamespaceSize: 100Gi}}`,
		want: map[string]string{
			server + " {.spec.volumeClaimTemplates[0].spec}":                   `{"accessModes":["ReadWriteOncePod"],"resources":{"requests":{"storage":"1Ti"}},"storageClassName":"fast"}`,
			server + " {.spec.volumeClaimTemplates[0].metadata.annotations.a}": "b",
		},
		args: []string{"--store-reserve=1Gi", "--max-namespace-size=100Gi"},
	}, {
		name:   "a load balancer",
		values: `{loadBalancer: true, registry: {externalHost: "images.example.com:443", service: {port: 443, loadBalancerClass: internal, annotations: {a: b}}}}`,
		more:   []string{registry},
		want: map[string]string{
			registry + " {.spec.type} {.spec.ports[0].port} {.spec.ports[0].targetPort} {.spec.ports[0].nodePort}": "LoadBalancer 443 registry ",
			registry + " {.spec.loadBalancerClass} {.metadata.annotations.a}":                                      "internal b",
			"Service/tagger {.spec.type}": "",
		},
		args: []string{"--registry-external-host=images.example.com:443"},
	}, {
		name:   "a port of each node",
		values: `{registry: {service: {type: NodePort, nodePort: 30500, externalTrafficPolicy: Local}}}`,
		more:   []string{registry},
		want:   map[string]string{registry + " {.spec.type} {.spec.ports[0].nodePort} {.spec.externalTrafficPolicy}": "NodePort 30500 Local"},
	}, {
		name:   "tokens of nodes",
		values: `{registry: {nodeTokens: true, audiences: [tagger.dev, "images.example.com:5000"]}}`,
		more:   []string{"ClusterRole/tagger-node-tokens", "ClusterRoleBinding/tagger-node-tokens"},
		want: map[string]string{
			"ClusterRole/tagger-node-tokens {.rules[0].verbs[*]} {.rules[0].resources[*]}":  "request-serviceaccounts-token-audience tagger.dev images.example.com:5000",
			"ClusterRoleBinding/tagger-node-tokens {.subjects[*].kind} {.subjects[*].name}": "Group system:nodes",
		},
		args: []string{"--registry-audiences=tagger.dev,images.example.com:5000"},
	}, {
		name:   "layers of any size no more",
		values: `{registry: {maxBlobSize: 10Gi}}`,
		args:   []string{"--max-blob-size=10Gi"},
	}, {
		name:   "no audience but the API's",
		values: `{registry: {audiences: []}}`,
		args:   []string{"--registry-audiences="},
	}, {
		name:   "an ingress",
		values: `{registry: {ingress: {enabled: true, className: nginx, host: images.example.com, tlsSecret: images, annotations: {nginx.ingress.kubernetes.io/ssl-passthrough: "true"}}}}`,
		more:   []string{"Ingress/tagger-registry"},
		want: map[string]string{
			"Ingress/tagger-registry {.spec.ingressClassName} {.spec.rules[0].host} {.spec.tls[0].hosts[0]} {.spec.tls[0].secretName}": "nginx images.example.com images.example.com images",
			"Ingress/tagger-registry {.spec.rules[0].http.paths[0].backend.service}":                                                   `{"name":"tagger","port":{"name":"registry"}}`,
			"Ingress/tagger-registry {.metadata.annotations}":                                                                          `{"nginx.ingress.kubernetes.io/ssl-passthrough":"true"}`,
		},
		args: []string{"--registry-external-host=images.example.com"},
	}, {
		name:   "a certificate of one's own",
		values: `{cert: ` + strconv.Quote(leaf) + `, key: ` + strconv.Quote(key) + `, certificate: {ca: ` + strconv.Quote(authority) + `}}`,
		more:   []string{"Secret/certs"},
		want: map[string]string{
			"Secret/certs {.type} {.data}":                        fmt.Sprintf(`kubernetes.io/tls {"ca.crt":%q,"tls.crt":%q,"tls.key":%q}`, base64Of(authority), base64Of(leaf), base64Of(key)),
			"APIService/v1beta1.tagger.dev {.spec.caBundle}":      base64Of(authority),
			server + " " + pod + ".volumes[0].secret.secretName}": "certs",
		},
		args: []string{"--tls-cert-file=/certificate/tls.crt", "--tls-private-key-file=/certificate/tls.key"},
	}, {
		name:   "a certificate that signed itself",
		values: `{cert: ` + strconv.Quote(leaf) + `, key: ` + strconv.Quote(key) + `}`,
		more:   []string{"Secret/certs"},
		want:   map[string]string{"APIService/v1beta1.tagger.dev {.spec.caBundle}": base64Of(leaf)},
	}, {
		name:   "a certificate in a Secret",
		values: `{certificate: {secret: mine, ca: ` + strconv.Quote(authority) + `}}`,
		want: map[string]string{
			"APIService/v1beta1.tagger.dev {.spec.caBundle}":      base64Of(authority),
			server + " " + pod + ".volumes[0].secret.secretName}": "mine",
		},
		args: []string{"--tls-cert-file=/certificate/tls.crt"},
	}, {
		name:   "cert-manager with an authority of Tagger's own",
		values: `{certificate: {certManager: {enabled: true}}, registry: {externalHost: "images.example.com:5000"}}`,
		more: []string{
			"Certificate/tagger-authority", "Certificate/tagger-serving", "Issuer/tagger", "Issuer/tagger-selfsigned",
		},
		want: map[string]string{
			"Certificate/tagger-serving {.spec.dnsNames[*]}":        "tagger tagger.tagger tagger.tagger.svc images.example.com",
			"Certificate/tagger-serving {.spec.issuerRef}":          `{"kind":"Issuer","name":"tagger"}`,
			"APIService/v1beta1.tagger.dev {.metadata.annotations}": `{"cert-manager.io/inject-ca-from":"tagger/tagger-serving"}`,
			server + " " + pod + ".volumes[0].secret.secretName}":   "tagger-serving",
		},
		args: []string{"--tls-cert-file=/certificate/tls.crt"},
	}, {
		name:   "cert-manager with another authority, and an address",
		values: `{certificate: {certManager: {enabled: true, issuerRef: {kind: ClusterIssuer, name: internal}}}, registry: {externalHost: "192.0.2.1:5000"}}`,
		more:   []string{"Certificate/tagger-serving"},
		want: map[string]string{
			"Certificate/tagger-serving {.spec.dnsNames[*]} {.spec.ipAddresses[*]}": "tagger tagger.tagger tagger.tagger.svc 192.0.2.1",
			"Certificate/tagger-serving {.spec.issuerRef}":                          `{"kind":"ClusterIssuer","name":"internal"}`,
		},
	}, {
		name:   "cert-manager for etcd",
		values: `{replicas: 3, imageStore: {enabled: false}, pdb: {enabled: false}, etcd: {mode: bundled, bundled: {certificates: certManager, defragmentation: {enabled: false}}}}`,
		more: []string{
			"Certificate/tagger-etcd-authority", "Certificate/tagger-etcd-client", "Certificate/tagger-etcd-member", deployment,
			"Issuer/tagger-etcd", "Issuer/tagger-selfsigned", "Service/tagger-etcd", etcd,
		},
		less: []string{server},
		want: map[string]string{
			"Certificate/tagger-etcd-member {.spec.dnsNames[*]}":                       "*.tagger-etcd.tagger.svc tagger-etcd.tagger.svc localhost",
			"Certificate/tagger-etcd-member {.spec.secretName} {.spec.usages[*]}":      "tagger-etcd-member digital signature server auth client auth",
			"Certificate/tagger-etcd-client {.spec.secretName} {.spec.issuerRef.name}": "tagger-etcd-client tagger-etcd",
		},
	}, {
		name: "guard rails",
		values: `
sources:
  allowedRegistries: ["*.example.com", "registry.example.org:*"]
  blockedRegistries: [bad.example.com]
  allowInsecure: false
  allowLoopback: true
  allowPrivate: false
  maxManifestSize: 8Mi
  maxImageSize: 20Gi
  blobStreams: 8
  blobStreamsPerHost: 4
  certificateAuthorities: {"registry.example.com:5000": ` + strconv.Quote(authority) + `}
imports: {concurrent: 8, concurrentPerHost: 2, attemptTimeout: 10m, drainTimeout: 1m30s, mirrorReleaseDelay: 24h}
`,
		more: []string{"ConfigMap/tagger-source-certificates"},
		want: map[string]string{
			"ConfigMap/tagger-source-certificates {.data}":      fmt.Sprintf(`{"registry.example.com_5000.crt":%q}`, authority),
			server + " " + pod + ".volumes[0].configMap.items}": `[{"key":"registry.example.com_5000.crt","path":"registry.example.com:5000/ca.crt"}]`,
		},
		args: []string{
			"--allowed-registries=*.example.com,registry.example.org:*", "--blocked-registries=bad.example.com",
			"--allow-insecure-sources=false", "--allow-loopback-sources=true", "--allow-private-sources=false",
			"--max-manifest-size=8Mi", "--max-image-size=20Gi", "--blob-streams=8", "--blob-streams-per-host=4",
			"--registry-certs-dir=/source-certificates", "--concurrent-imports=8", "--concurrent-imports-per-host=2",
			"--import-attempt-timeout=10m", "--drain-timeout=1m30s", "--mirror-release-delay=24h",
		},
	}, {
		name:   "mirrors of namespaces",
		values: `{allowNamespaceMirrors: true}`,
		more:   []string{"ClusterRole/tagger-namespace-mirrors", "ClusterRoleBinding/tagger-namespace-mirrors"},
		args:   []string{"--allow-namespace-mirrors"},
	}, {
		name:   "pull Secrets of some namespaces",
		values: `{pullSecrets: {namespaces: [team-a, team-b]}}`,
		more:   []string{"ClusterRole/tagger-pull-secrets", "RoleBinding/team-a/tagger-pull-secrets", "RoleBinding/team-b/tagger-pull-secrets"},
		want:   map[string]string{"ClusterRole/tagger-apiserver {.rules[?(@.resources[0] == \"secrets\")]}": ""},
	}, {
		name:   "metrics",
		values: `{metrics: {enabled: true}}`,
		more: []string{
			"ClusterRole/tagger-metrics", "ClusterRoleBinding/tagger-metrics", "Secret/tagger-metrics", "Service/tagger-metrics",
			"ServiceAccount/tagger-metrics",
		},
		want: map[string]string{
			"Service/tagger-metrics {.spec.clusterIP} {.spec.ports[0].targetPort}": "None api",
			"Secret/tagger-metrics {.type} {.metadata.annotations}":                `kubernetes.io/service-account-token {"kubernetes.io/service-account.name":"tagger-metrics"}`,
		},
	}, {
		name:   "a ServiceMonitor",
		values: `{metrics: {enabled: true, serviceMonitor: {enabled: true, interval: 1m, labels: {team: a}}}}`,
		more: []string{
			"ClusterRole/tagger-metrics", "ClusterRoleBinding/tagger-metrics", "Secret/tagger-metrics", "Service/tagger-metrics",
			"ServiceAccount/tagger-metrics", "ServiceMonitor/tagger",
		},
		want: map[string]string{
			"ServiceMonitor/tagger {.metadata.labels.team} {.spec.endpoints[0].interval}": "a 1m",
			"ServiceMonitor/tagger {.spec.endpoints[0].authorization.credentials}":        `{"key":"token","name":"tagger-metrics"}`,
			"ServiceMonitor/tagger {.spec.endpoints[0].tlsConfig}":                        `{"ca":{"secret":{"key":"tls.crt","name":"tagger-ca"}},"serverName":"tagger.tagger.svc"}`,
		},
	}, {
		name:   "network policies",
		values: `{networkPolicy: {enabled: true}}`,
		more:   []string{"NetworkPolicy/tagger"},
		want:   map[string]string{"NetworkPolicy/tagger {.spec.ingress[0].ports[*].port} {.spec.policyTypes[*]}": "8443 5000 Ingress"},
	}, {
		name: "where it runs",
		values: `
priorityClassName: ""
nodeSelector: {disk: fast}
tolerations: [{key: a, operator: Exists, effect: NoSchedule}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]
resources: {requests: {cpu: 1}, limits: {memory: 4Gi}}
probes: {liveness: {failureThreshold: 9}}
terminationGracePeriodSeconds: 90
podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null, fsGroupChangePolicy: null}
podAnnotations: {a: b}
podLabels: {c: d}
serviceAccount: {annotations: {e: f}}
`,
		want: map[string]string{
			server + " " + pod + ".priorityClassName}":                                             "",
			server + " " + pod + ".nodeSelector}":                                                  `{"disk":"fast"}`,
			server + " " + pod + ".tolerations}":                                                   `[{"effect":"NoSchedule","key":"a","operator":"Exists"}]`,
			server + " " + pod + ".affinity}":                                                      `{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}`,
			server + " " + pod + ".topologySpreadConstraints}":                                     `[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway"}]`,
			server + " " + container + ".resources}":                                               `{"limits":{"memory":"4Gi"},"requests":{"cpu":"1","memory":"256Mi"}}`,
			server + " " + container + ".livenessProbe.failureThreshold}":                          "9",
			server + " " + pod + ".terminationGracePeriodSeconds}":                                 "90",
			server + " " + pod + ".securityContext}":                                               `{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}}`,
			server + " {.spec.template.metadata.annotations.a} {.spec.template.metadata.labels.c}": "b d",
			"ServiceAccount/tagger {.metadata.annotations}":                                        `{"e":"f"}`,
		},
	}, {
		name: "anything else",
		values: `
logging: {verbosity: 4, format: json}
extraArgs: ["--audit-log-path=-", "--v=6"]
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.example.com:3128"}]
extraVolumes: [{name: extra, emptyDir: {}}]
extraVolumeMounts: [{name: extra, mountPath: /extra}]
`,
		want: map[string]string{
			server + " " + container + ".env}":                                                    `[{"name":"HTTPS_PROXY","value":"http://proxy.example.com:3128"}]`,
			server + " " + pod + ".volumes[*].name} " + container + ".volumeMounts[*].mountPath}": "extra /data /extra",
		},
		args: []string{"--logging-format=json", "--v=4", "--audit-log-path=-", "--v=6"},
	}}
	each(t, func(t *testing.T, helm helm) {
		usual := sets.KeySet(helm.render(t, ""))
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.check(t, usual, helm.render(t, test.values))
			})
		}
	})
}

// check compares objects with what is wanted; usual are those of the default.
func (test valueTest) check(t *testing.T, usual sets.Set[string], all objects) {
	t.Helper()
	want := usual.Clone().Insert(test.more...).Delete(test.less...)
	if diff := cmp.Diff(sets.List(want), slices.Sorted(maps.Keys(all))); diff != "" {
		t.Errorf("other objects (-want +got):\n%s", diff)
	}
	for where, want := range test.want {
		name, path, _ := strings.Cut(where, " ")
		if got := all.find(t, name, path); got != want {
			t.Errorf("%s = %q, want %q", where, got, want)
		}
	}
	workload := server
	if all[workload] == nil {
		workload = deployment
	}
	args := all.pods(t)[workload].Spec.Containers[0].Args
	for _, arg := range test.args {
		if !slices.Contains(args, arg) {
			t.Errorf("%s is not among %q", arg, args)
		}
	}
	for _, prefix := range test.lacks {
		if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, prefix) }) {
			t.Errorf("%s… is among %q", prefix, args)
		}
	}
}

// find returns what a JSON path finds in an object; nothing where the field is missing.
func (o objects) find(t *testing.T, name, path string) string {
	t.Helper()
	if o[name] == nil {
		t.Errorf("there is no %s", name)
		return ""
	}
	content, err := unstructuredOf(o[name])
	if err != nil {
		t.Fatal(err)
	}
	query := jsonpath.New(name).AllowMissingKeys(true)
	if err := query.Parse(path); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var found bytes.Buffer
	if err := query.Execute(&found, content); err != nil {
		t.Fatalf("%s %s: %v", name, path, err)
	}
	return found.String()
}
