// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/test/lab"
)

// secret makes the Secret of a namespace of KEY=VALUE.
func secret(namespace string, data ...string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: SecretName}, Data: map[string][]byte{}}
	for _, pair := range data {
		key, value, _ := strings.Cut(pair, "=")
		s.Data[key] = []byte(value)
	}
	return s
}

func TestSecretPlace(t *testing.T) {
	t.Parallel()
	authority, err := lab.Authority()
	if err != nil {
		t.Fatal(err)
	}
	const name = "the Secret tagger/mirror-registry-config"
	// The example of the first README, whose password ends with a newline.
	decoded := func(key, value string) string {
		raw, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		return key + "=" + string(raw)
	}
	tests := []struct {
		name string
		data []string
		want *Config
		err  string // the key that is to be named
	}{
		{name: "nothing", want: nil},
		{name: "an empty address", data: []string{"address=", "username=u"}},
		{name: "an address that is a newline", data: []string{"address=\n"}},
		{name: "the example", data: []string{
			decoded("address", "cmVnaXN0cnkuaW8="), decoded("username", "YWRtaW4="), decoded("password", "d2hhdCB3ZXJlIHlvdSB0aGlua2luZz8K"),
			decoded("token", "YW4gb3B0aW9uYWwgdG9rZW4gZm9yIHRva2VuIGJhc2VkIGF1dGg="), decoded("insecure", "dHJ1ZQ=="),
		}, want: &Config{Host: "registry.io", Username: "admin", Password: "what were you thinking?", Token: "an optional token for token based auth", Insecure: true}},
		{name: "everything with a newline", data: []string{
			"address=Registry.io:5000\n", "username=u\r\n", "password=p\n\n", "insecure=false\n", "repository=org/team\n", "ca=" + string(authority) + "\n", "other=x",
		}, want: &Config{Host: "registry.io:5000", Username: "u", Password: "p\n", Repository: "org/team", CA: string(authority)}},
		{name: "a URL", data: []string{"address=https://registry.io/"}, want: &Config{Host: "registry.io"}},
		{name: "a URL in plain HTTP", data: []string{"address=http://registry:5000", "insecure=true"}, want: &Config{Host: "registry:5000", Insecure: true}},
		{name: "docker.io by another name", data: []string{"address=https://index.docker.io", "repository=org"}, want: &Config{Host: "docker.io", Repository: "org"}},
		{name: "a user name and a token", data: []string{"address=registry.io", "username=u", "token=t"}, want: &Config{Host: "registry.io", Username: "u", Token: "t"}},
		{name: "plain HTTP that is not meant", data: []string{"address=http://SECRET.example"}, err: "address"},
		{name: "a path", data: []string{"address=registry.io/SECRET"}, err: "address"},
		{name: "a user name", data: []string{"address=me:SECRET@registry.io"}, err: "address"},
		{name: "no host", data: []string{"address=SECRET"}, err: "address"},
		{name: "insecure of another word", data: []string{"address=registry.io", "insecure=SECRET"}, err: "insecure"},
		{name: "no repository", data: []string{"address=registry.io", "repository=SECRET"}, err: "repository"},
		{name: "a repository with a tag", data: []string{"address=registry.io", "repository=a:b"}, err: "repository"},
		{name: "a user name alone", data: []string{"address=registry.io", "username=SECRET"}, err: "password"},
		{name: "a password alone", data: []string{"address=registry.io", "password=SECRET"}, err: "username"},
		{name: "a user name with a colon", data: []string{"address=registry.io", "username=SECRET:", "password=SECRET"}, err: "username"},
		{name: "no certificate", data: []string{"address=registry.io", "ca=SECRET"}, err: "ca"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := secretPlace(secret("tagger", tt.data...))
			if tt.err != "" {
				wantFailure(t, got.err, importer.MirrorUnavailable, fmt.Sprintf("the key %s of %s", tt.err, name))
				return
			}
			if got.err != nil {
				t.Fatal(got.err)
			}
			if tt.want != nil {
				tt.want.Name = name
			}
			if diff := cmp.Diff(tt.want, got.config); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHostingPlace(t *testing.T) {
	t.Parallel()
	const name = "the ConfigMap kube-public/local-registry-hosting"
	tests := []struct {
		name, document string
		want           *Config
		hosts          []string
		err            string
	}{
		{name: "of kind", document: "host: \"localhost:5001\"\nhelp: \"https://kind.sigs.k8s.io/docs/user/local-registry/\"\n"},
		{name: "nothing"},
		{name: "all", document: "host: localhost:5001\nhostFromContainerRuntime: kind-registry:5000\nhostFromClusterNetwork: registry.kube-system.svc:80\n",
			want:  &Config{Host: "registry.kube-system.svc:80", PullHost: "kind-registry:5000", Insecure: true},
			hosts: []string{"localhost:5001", "kind-registry:5000", "registry.kube-system.svc:80"}},
		{name: "nodes pull as people do", document: "host: localhost:5001\nhostFromClusterNetwork: registry:5000\n",
			want: &Config{Host: "registry:5000", PullHost: "localhost:5001", Insecure: true}, hosts: []string{"localhost:5001", "registry:5000"}},
		{name: "no YAML", document: "SECRET", err: "not YAML"},
		{name: "nobody can pull", document: "hostFromClusterNetwork: registry:5000\n", err: "by which nodes could pull"},
		{name: "a broken name for nodes", document: "host: localhost:5001\nhostFromContainerRuntime: a/b\nhostFromClusterNetwork: registry:5000\n", err: "by which nodes could pull"},
		{name: "a broken name for us", document: "host: localhost:5001\nhostFromClusterNetwork: a/SECRET\n", err: "hostFromClusterNetwork"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := hostingPlace(&corev1.ConfigMap{Data: map[string]string{"localRegistryHosting.v1": tt.document}})
			if tt.err != "" {
				wantFailure(t, got.err, importer.MirrorUnavailable, name, tt.err)
				return
			}
			if got.err != nil {
				t.Fatal(got.err)
			}
			if tt.want != nil {
				tt.want.Name = name
			}
			if diff := cmp.Diff(tt.want, got.config); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.hosts, got.hosts); diff != "" {
				t.Errorf("hosts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestConfigIsNotPrinted: who prints one by accident prints no password.
func TestConfigIsNotPrinted(t *testing.T) {
	t.Parallel()
	c := Config{Name: "a Secret", Host: "registry.io", Username: "u", Password: "SECRET", Token: "SECRET"}
	if text := fmt.Sprintf("%v %+v %#v %s", c, c, &c, []Config{c}); strings.Contains(text, "SECRET") {
		t.Error(text)
	}
}

func TestRepositoryNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 63)
	tests := []struct {
		name             string
		config           Config
		namespace, image string
		path, pull       string // "": refused
	}{
		{name: "by namespace", config: Config{Host: "registry.io"}, namespace: "ns", image: "app", path: "ns/app", pull: "registry.io/ns/app"},
		{name: "all in one repository", config: Config{Host: "registry.io", Repository: "org/team"}, namespace: "n--s", image: "a-p.p", path: "org/team/n--s_a-p.p",
			pull: "registry.io/org/team/n--s_a-p.p"},
		{name: "pulled by another name", config: Config{Host: "registry:5000", PullHost: "localhost:5001"}, namespace: "ns", image: "app", path: "ns/app", pull: "localhost:5001/ns/app"},
		{name: "the longest names", config: Config{Host: "registry.io"}, namespace: long, image: long, path: long + "/" + long, pull: "registry.io/" + long + "/" + long},
		{name: "too long", config: Config{Host: "registry.io", Repository: strings.Repeat("r", 120)}, namespace: long, image: long},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			registry, err := NewRegistry(tt.config, Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, pull, err := registry.Repository(tt.namespace, tt.image)
			if tt.pull == "" {
				wantFailure(t, err, importer.Invalid, "shorten")
				return
			}
			if err != nil || got.path != tt.path || pull != tt.pull {
				t.Errorf("got %v, %q, %v", got, pull, err)
			}
		})
	}
}
