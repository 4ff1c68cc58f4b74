// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/yaml"
)

const (
	chart     = "../../artifacts/chart"
	manifests = "../../artifacts/manifests"
	// namespace is that of the manifests, so that both can be compared.
	namespace = "tagger"
)

// Certificates and a key in PEM. The server can read the authority; of the others the chart sees the form.
const (
	authority = "-----BEGIN CERTIFICATE-----\n" +
		"MIIBNDCB56ADAgECAhRvyebuFzbICsvKxqb+JSFGqUD0qTAFBgMrZXAwDzENMAsG\n" +
		"A1UEAwwEdGVzdDAgFw0yNjExMjcwOTQ3NDVaGA8yMTI2MTEwMzA5NDc0NVowDzEN\n" +
		"MAsGA1UEAwwEdGVzdDAqMAUGAytlcAMhACvVDpKJsKdbm878ZTQuYkuAkGSacsDK\n" +
		"sczHvqZ/acSbo1MwUTAdBgNVHQ4EFgQUs4zgU12PZ6/Gt1rL81ZIixKOPPgwHwYD\n" +
		"VR0jBBgwFoAUs4zgU12PZ6/Gt1rL81ZIixKOPPgwDwYDVR0TAQH/BAUwAwEB/zAF\n" +
		"BgMrZXADQQCnOvhHPgRCOZ/QvQGW7KDO5n+yZLm3i/oLulNTDRkVZcCVx333xM7U\n" +
		"M05N63+DO2Le5O00rCsgamrBK7SakCoD\n" +
		"-----END CERTIFICATE-----\n"
	leaf = "-----BEGIN CERTIFICATE-----\nbGVhZg==\n-----END CERTIFICATE-----\n"
	key  = "-----BEGIN PRIVATE KEY-----\nSECRET==\n-----END PRIVATE KEY-----\n"
)

// Settings that more than one test looks at.
var (
	several = `{replicas: 3, etcd: {mode: bundled}, imageStore: {enabled: false}}`
	// everything sets as much as can be set at once.
	everything = `
replicas: 3
etcd:
  mode: bundled
  bundled:
    certificates: certManager
    defragmentation: {schedule: "*/15,40 1-5 ? JAN-mar,12 mon"}
    tolerations: [{operator: Exists}]
    nodeSelector: {a: b}
imageStore: {enabled: false}
imagePullSecrets: [{name: login}]
certificate: {certManager: {enabled: true}}
metrics: {enabled: true, serviceMonitor: {enabled: true, labels: {team: a}}}
networkPolicy: {enabled: true}
nodeSelector: {a: b}
tolerations: [{key: a, operator: Exists, effect: NoSchedule}]
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app.kubernetes.io/name: tagger}}}
sources:
  allowedRegistries: ["*.example.com", "registry.example.org:*"]
  blockedRegistries: [bad.example.com]
  certificateAuthorities: {"registry.example.com:5000": ` + strconv.Quote(authority) + `, other.example.com: ` + strconv.Quote(authority) + `}
serviceAccount: {annotations: {a: b}}
podAnnotations: {a: b}
podLabels: {a: b}
logging: {format: json, verbosity: 4}
extraArgs: [--audit-log-path=-]
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.example.com:3128"}]
extraVolumes: [{name: extra, emptyDir: {}}]
extraVolumeMounts: [{name: extra, mountPath: /extra}]
`
	// alone sets what only one server can have.
	alone = `
loadBalancer: true
cert: ` + strconv.Quote(leaf) + `
key: ` + strconv.Quote(key) + `
registry:
  externalHost: images.example.com
  service: {annotations: {a: b}, loadBalancerSourceRanges: [192.0.2.0/24], externalTrafficPolicy: Local, nodePort: 30500}
  ingress: {enabled: true, className: nginx, host: images.example.com, annotations: {a: b}, tlsSecret: images}
persistence: {storageClass: fast, annotations: {a: b}}
metrics: {enabled: true, serviceMonitor: {enabled: true}}
networkPolicy: {enabled: true}
`
)

// each runs a test with each version of helm.
func each(t *testing.T, test func(t *testing.T, helm helm)) {
	t.Helper()
	t.Parallel()
	for _, version := range []string{"helm3", "helm4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(version)
			switch {
			case err != nil && os.Getenv("TAGGER_REQUIRE_CLIENTS") != "": //nolint:forbidigo // which tests may be skipped is said there
				t.Fatal(err)
			case err != nil:
				t.Skipf("%s is not there: make chart builds it", version)
			}
			test(t, helm{program: program, home: t.TempDir()})
		})
	}
}

// helm is one version of it.
type helm struct {
	program string
	home    string
}

// run returns what helm prints; what it says when it fails is the error.
func (h helm) run(t *testing.T, values string, args ...string) ([]byte, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), h.program, append(args, "--namespace", namespace, "--values", "-")...)
	command.Env = []string{"HOME=" + h.home, "KUBECONFIG=" + os.DevNull}
	command.Stdin = strings.NewReader(values)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s%s", err, &stdout, &stderr)
	}
	return stdout.Bytes(), nil
}

// objects are those that a release consists of, by Kind/name, or Kind/namespace/name where that is another namespace.
type objects map[string]runtime.Object

// render returns what the chart makes of values.
func (h helm) render(t *testing.T, values string) objects {
	t.Helper()
	out, err := h.run(t, values, "template", "tagger", chart)
	if err != nil {
		t.Fatal(err)
	}
	all, err := decode(out)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// decode reads objects as an API server does that validates strictly: unknown and repeated fields are errors.
func decode(stream []byte) (objects, error) {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiregistration.AddToScheme} {
		if err := add(known); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	all := objects{}
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream))); ; {
		document, err := reader.Read()
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		var content map[string]any
		if err := yaml.UnmarshalStrict(document, &content); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		if len(content) == 0 {
			continue
		}
		var object runtime.Object = &unstructured.Unstructured{Object: content}
		if kind := object.GetObjectKind().GroupVersionKind(); !foreign[kind] {
			if object, _, err = decoder.Decode(document, nil, nil); err != nil {
				return nil, fmt.Errorf("%w in\n%s", err, document)
			}
			object.GetObjectKind().SetGroupVersionKind(kind)
		}
		name := accessor(object).GetName()
		if in := accessor(object).GetNamespace(); in != "" && in != namespace {
			name = in + "/" + name
		}
		name = object.GetObjectKind().GroupVersionKind().Kind + "/" + name
		if all[name] != nil {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		all[name] = object
	}
}

// foreign are the kinds of other projects, whose types are not known here.
var foreign = map[schema.GroupVersionKind]bool{
	{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}:          true,
	{Group: "cert-manager.io", Version: "v1", Kind: "Issuer"}:               true,
	{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor"}: true,
}

func accessor(object runtime.Object) metav1.Object {
	metadata, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	return metadata
}

// unstructuredOf returns an object as it goes over the wire.
func unstructuredOf(object runtime.Object) (map[string]any, error) {
	return runtime.DefaultUnstructuredConverter.ToUnstructured(object)
}

// get returns the object of that name.
func get[T runtime.Object](t *testing.T, all objects, name string) T {
	t.Helper()
	object, ok := all[name].(T)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	return object
}

// pods returns the templates of all Pods, by the name of what makes them.
func (o objects) pods(t *testing.T) map[string]corev1.PodTemplateSpec {
	t.Helper()
	pods := map[string]corev1.PodTemplateSpec{}
	for name, object := range o {
		content, err := unstructuredOf(object)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range [][]string{{"spec", "template"}, {"spec", "jobTemplate", "spec", "template"}} {
			template, found, err := unstructured.NestedMap(content, path...)
			if err != nil {
				t.Fatal(err)
			}
			if !found {
				continue
			}
			var pod corev1.PodTemplateSpec
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, &pod); err != nil {
				t.Fatal(err)
			}
			pods[name] = pod
		}
	}
	return pods
}
