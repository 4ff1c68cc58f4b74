// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	testingclock "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/test/lab"
)

func configMap(document string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "local-registry-hosting"},
		Data:       map[string]string{"localRegistryHosting.v1": document},
	}
}

// cluster is a Locator over a clientset.
type cluster struct {
	*fake.Clientset
	*Locator
	clock *testingclock.FakeClock
}

func newCluster(objects []runtime.Object, change ...func(*LocatorConfig)) *cluster {
	client := fake.NewClientset(objects...)
	clock := testingclock.NewFakeClock(time.Now())
	config := LocatorConfig{
		Secret: func(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
			return client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		ConfigMap: func(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
			return client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		Namespace: "tagger",
		Options:   Options{Clock: clock},
	}
	for _, c := range change {
		c(&config)
	}
	return &cluster{Clientset: client, Locator: NewLocator(config), clock: clock}
}

// embeddedFunc is the image store of a server.
type embeddedFunc func(namespace, image string) (importer.Destination, string, error)

func (f embeddedFunc) Repository(_ context.Context, namespace, image string) (importer.Destination, string, error) {
	return f(namespace, image)
}

func tenants(c *LocatorConfig) { c.NamespaceSecrets = true }

func own(c *LocatorConfig) { c.OwnHosts = []string{"own.example"} }

func withStore(c *LocatorConfig) {
	c.Embedded = embeddedFunc(func(namespace, image string) (importer.Destination, string, error) {
		return nil, "own/" + namespace + "/" + image, nil
	})
}

const hostingOf = "host: localhost:5001\nhostFromClusterNetwork: local.example:5000\n"

func TestLocator(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		objects []runtime.Object
		change  []func(*LocatorConfig)
		want    string // the name by which nodes pull
		guarded bool
		kind    importer.Kind
		text    string
	}{
		{name: "nowhere", kind: importer.Invalid, text: "no mirror is configured; have the administrator put its address into the Secret tagger/mirror-registry-config"},
		{name: "the embedded store", change: []func(*LocatorConfig){withStore}, want: "own/ns/app"},
		{name: "the ConfigMap goes before it", objects: []runtime.Object{configMap(hostingOf)}, change: []func(*LocatorConfig){withStore}, want: "localhost:5001/ns/app"},
		{name: "a ConfigMap for people alone does not", objects: []runtime.Object{configMap("host: localhost:5001\n")}, change: []func(*LocatorConfig){withStore}, want: "own/ns/app"},
		{name: "the Secret goes before that", objects: []runtime.Object{configMap(hostingOf), secret("tagger", "address=registry.io")}, want: "registry.io/ns/app"},
		{name: "a Secret without an address does not", objects: []runtime.Object{configMap(hostingOf), secret("tagger", "username=u")}, want: "localhost:5001/ns/app"},
		{name: "the namespace's own goes before that", objects: []runtime.Object{secret("ns", "address=mine.example", "repository=r"), secret("tagger", "address=registry.io")},
			change: []func(*LocatorConfig){tenants}, want: "mine.example/r/ns_app", guarded: true},
		{name: "where that is allowed", objects: []runtime.Object{secret("ns", "address=mine.example"), secret("tagger", "address=registry.io")}, want: "registry.io/ns/app"},
		{name: "an empty one does not", objects: []runtime.Object{secret("ns"), secret("tagger", "address=registry.io")},
			change: []func(*LocatorConfig){tenants}, want: "registry.io/ns/app"},
		{name: "another namespace's is not looked at", objects: []runtime.Object{secret("other", "address=mine.example")}, change: []func(*LocatorConfig){tenants}, kind: importer.Invalid},
		{name: "a broken Secret is not passed over", objects: []runtime.Object{secret("tagger", "address=SECRET"), configMap(hostingOf)}, kind: importer.MirrorUnavailable, text: "the key address of the Secret tagger/mirror-registry-config"},
		{name: "nor the namespace's own", objects: []runtime.Object{secret("ns", "address=registry.io", "insecure=SECRET"), secret("tagger", "address=registry.io")},
			change: []func(*LocatorConfig){tenants}, kind: importer.MirrorUnavailable, text: "the key insecure of the Secret ns/mirror-registry-config"},
		{name: "Tagger itself is no mirror", objects: []runtime.Object{secret("tagger", "address=Own.example:443")}, change: []func(*LocatorConfig){own, withStore}, kind: importer.MirrorUnavailable, text: "this cluster's own registry"},
		{name: "nor a namespace's own", objects: []runtime.Object{secret("ns", "address=https://own.example")}, change: []func(*LocatorConfig){own, tenants}, kind: importer.MirrorUnavailable, text: "this cluster's own registry"},
		{name: "nor a broken ConfigMap", objects: []runtime.Object{configMap("SECRET")}, change: []func(*LocatorConfig){withStore}, kind: importer.MirrorUnavailable, text: "local-registry-hosting"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, name, err := newCluster(tt.objects, tt.change...).Repository(t.Context(), "ns", "app")
			if tt.kind != "" {
				wantFailure(t, err, tt.kind, tt.text)
				if got != nil {
					t.Error("there is a repository all the same")
				}
				return
			}
			if err != nil || name != tt.want {
				t.Errorf("got %q, %v; want %q", name, err, tt.want)
			}
			if found, ok := got.(*Repository); ok && found.registry.config.Guarded != tt.guarded {
				t.Errorf("guarded: %t", found.registry.config.Guarded)
			}
		})
	}
}

func TestLocatorCannotRead(t *testing.T) {
	t.Parallel()
	forbidden := apierrors.NewForbidden(corev1.Resource("secrets"), SecretName, errors.New("SECRET"))
	tests := []struct {
		name, resource, namespace string
		err                       error
		want                      string
	}{
		{name: "the Secret", resource: "secrets", namespace: "tagger", err: forbidden, want: "Tagger needs the right to get secrets in the namespace tagger"},
		{name: "the namespace's own", resource: "secrets", namespace: "ns", err: forbidden, want: "Tagger needs the right to get secrets in the namespace ns"},
		{name: "the ConfigMap", resource: "configmaps", namespace: "kube-public", err: forbidden, want: "Tagger needs the right to get configmaps in the namespace kube-public"},
		{name: "anything", resource: "secrets", namespace: "tagger", err: errors.New("SECRET"), want: "cannot be read now"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(nil, tenants, withStore)
			c.PrependReactor("get", tt.resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
				return action.GetNamespace() == tt.namespace, nil, tt.err
			})
			_, _, err := c.Repository(t.Context(), "ns", "app")
			wantFailure(t, err, importer.MirrorUnavailable, tt.want)
			if tt.namespace != "ns" {
				wantFailure(t, c.Admit(t.Context(), source(t, "quay.io/a/b", "ns")), importer.MirrorUnavailable, tt.want)
			}
		})
	}
}

// TestRotation: what changed holds for the next import, and what did not keeps its
// connections.
func TestRotation(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	dst.Misbehave(basic("u", "new"))
	authority, err := lab.Authority()
	if err != nil {
		t.Fatal(err)
	}
	with := func(password string) *corev1.Secret {
		return secret("tagger", "address="+dst.Host, "username=u", "password="+password, "ca="+string(authority))
	}
	c := newCluster([]runtime.Object{with("old")})
	look := func() (*Repository, error) {
		t.Helper()
		got, _, err := c.Repository(t.Context(), "ns", "app")
		if err != nil {
			t.Fatal(err)
		}
		_, err = got.Complete(t.Context(), describe("", nil).Digest)
		return got.(*Repository), err
	}
	first, err := look()
	wantFailure(t, err, importer.MirrorUnauthorized, "the Secret tagger/mirror-registry-config")
	if again, _ := look(); again.registry != first.registry {
		t.Error("connections are not kept")
	}
	if gets := len(c.Actions()); gets != 2 {
		t.Errorf("the cluster was asked %d times within a moment, want for the Secret and the ConfigMap", gets)
	}
	if _, err := c.CoreV1().Secrets("tagger").Update(t.Context(), with("new"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.clock.SetTime(c.clock.Now().Add(2 * time.Second))
	second, err := look()
	if err != nil || second.registry == first.registry {
		t.Errorf("the new password does not count: %v", err)
	}
	opened := dst.Connections()
	c.clock.SetTime(c.clock.Now().Add(2 * time.Second))
	if third, err := look(); err != nil || third.registry != second.registry || dst.Connections() != opened {
		t.Errorf("what did not change is begun anew: %v", err)
	}
	if err := c.CoreV1().Secrets("tagger").Delete(t.Context(), SecretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.clock.SetTime(c.clock.Now().Add(2 * time.Second))
	_, _, err = c.Repository(t.Context(), "ns", "app")
	wantFailure(t, err, importer.Invalid)
}

// TestMended: what somebody has mended counts at once where it would end an
// import, also when it was read a moment ago, and at the next attempt otherwise.
func TestMended(t *testing.T) {
	t.Parallel()
	whole, broken := secret("tagger", "address=registry.io"), secret("tagger", "address=registry.io", "insecure=yes")
	tests := []struct {
		name          string
		before, after *corev1.Secret // nil: there is none
		want          importer.Kind  // before
	}{
		{name: "a broken key", before: broken, after: whole, want: importer.MirrorUnavailable},
		{name: "a Secret that was not there", after: whole, want: importer.Invalid},
		{name: "a Secret without an address", before: secret("tagger"), after: whole, want: importer.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(nil)
			secrets := c.CoreV1().Secrets("tagger")
			if tt.before != nil {
				if _, err := secrets.Create(t.Context(), tt.before, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := c.Repository(t.Context(), "ns", "app")
			wantFailure(t, err, tt.want)
			if err := secrets.Delete(t.Context(), SecretName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			if _, err := secrets.Create(t.Context(), tt.after, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if tt.want != importer.Invalid {
				c.clock.SetTime(c.clock.Now().Add(2 * time.Second))
			}
			if _, name, err := c.Repository(t.Context(), "ns", "app"); err != nil || name != "registry.io/ns/app" {
				t.Errorf("got %q, %v", name, err)
			}
		})
	}
	t.Run("a mirror that is none any more", func(t *testing.T) {
		t.Parallel()
		c := newCluster([]runtime.Object{whole})
		others := source(t, "registry.io/other/app", "ns")
		wantFailure(t, c.Admit(t.Context(), others), importer.Blocked)
		if _, err := c.CoreV1().Secrets("tagger").Update(t.Context(), secret("tagger", "address=mirror.example"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.Admit(t.Context(), others); err != nil {
			t.Error(err)
		}
	})
}

func source(t *testing.T, reference, namespace string) importer.Source {
	t.Helper()
	ref, err := importer.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	return importer.Source{Reference: ref, Scope: namespace}
}

// TestAdmit: nobody reads what was mirrored for another namespace.
func TestAdmit(t *testing.T) {
	t.Parallel()
	whole, part := secret("tagger", "address=registry.io"), secret("tagger", "address=registry.io", "repository=org/mirror")
	tests := []struct {
		name, reference string
		secret          *corev1.Secret
		insecure        bool
		blocked         bool
		text            string
	}{
		{name: "elsewhere", secret: whole, reference: "quay.io/b/app"},
		{name: "one's own", secret: whole, reference: "registry.io/a/app"},
		{name: "another's", secret: whole, reference: "registry.io/b/app", blocked: true},
		{name: "another's that begins the same", secret: whole, reference: "registry.io/ab/app", blocked: true},
		{name: "another's, by the port", secret: whole, reference: "registry.io:443/b/app", blocked: true},
		{name: "another's, by the other port", secret: whole, reference: "registry.io:80/b/app", blocked: true},
		{name: "another registry at that host", secret: whole, reference: "registry.io:5000/b/app"},
		{name: "another's, in capitals", secret: whole, reference: "REGISTRY.io./b/app", blocked: true},
		{name: "another's, though the Secret is broken", secret: secret("tagger", "address=registry.io", "insecure=x"), reference: "registry.io/b/app", blocked: true},
		{name: "below the repository, one's own", secret: part, reference: "registry.io/org/mirror/a_app"},
		{name: "below the repository, another's", secret: part, reference: "registry.io/org/mirror/ab_app", blocked: true},
		{name: "below the repository, neither", secret: part, reference: "registry.io/org/mirror/x", blocked: true},
		{name: "beside the repository", secret: part, reference: "registry.io/org/mirror2/b_app"},
		{name: "another's, by IPv4 within IPv6", secret: secret("tagger", "address=192.0.2.1:5000"), reference: "[::ffff:192.0.2.1]:5000/b/app", blocked: true},
		{name: "docker.io by its endpoint", secret: secret("tagger", "address=docker.io", "repository=org"), reference: "registry-1.docker.io:443/org/b_app", blocked: true},
		{name: "by another name of its address", secret: secret("tagger", "address=localhost:5000"), reference: "127.0.0.1:5000/b/app", insecure: true, blocked: true},
		{name: "one's own by another name of its address", secret: secret("tagger", "address=localhost:5000"), reference: "127.0.0.1:5000/a/app", insecure: true},
		{name: "another port of its address", secret: secret("tagger", "address=localhost:5000"), reference: "127.0.0.1:5002/b/app", insecure: true},
		{name: "another name that is verified", secret: secret("tagger", "address=localhost:5000"), reference: "127.0.0.1:5000/b/app"},
		{name: "with what would keep it apart", secret: whole, reference: "registry.io/b/app", blocked: true, text: "by the key repository of the Secret tagger/mirror-registry-config"},
		{name: "an address that is none", secret: secret("tagger", "address=//"), reference: "registry.io/b/app"},
		{name: "by the name that nodes use", reference: "localhost:5001/b/app", blocked: true},
		{name: "by the name that we use", reference: "local.example:5000/b/app", blocked: true},
		{name: "one's own by the name that nodes use", reference: "localhost:5001/a/app"},
		{name: "the local registry, beside the Secret that is used", secret: whole, reference: "localhost:5001/b/app", blocked: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			objects := []runtime.Object{configMap(hostingOf)}
			if tt.secret != nil {
				objects = append(objects, tt.secret)
			}
			err := newCluster(objects).Admit(t.Context(), importer.Source{Reference: source(t, tt.reference, "a").Reference, Scope: "a", Insecure: tt.insecure})
			if !tt.blocked {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			wantFailure(t, err, importer.Blocked, "not of the namespace a", tt.text)
			if strings.Contains(err.Error(), "ConfigMap") {
				t.Errorf("%v advises what does not help", err)
			}
		})
	}
	t.Run("asked by the importer", func(t *testing.T) {
		t.Parallel()
		src := lab.New(t, lab.TrustedTLS)
		image(t, src, "app:v1", "v1", "a")
		c := newCluster([]runtime.Object{secret("tagger", "address="+src.Host)})
		i := importer.New(importer.Options{AllowLoopback: true, RootCAs: lab.Roots(t), Admit: c.Admit})
		asked := source(t, src.Reference("app:v1"), "ns")
		_, err := i.Resolve(t.Context(), asked, "")
		wantFailure(t, err, importer.Blocked, strings.Split(src.Host, ":")[0])
		if got := total(src.Requests()); got != 0 {
			t.Errorf("it was asked %d times", got)
		}
	})
}
