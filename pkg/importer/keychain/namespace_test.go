// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	testingclock "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/importer"
)

// cluster is a clientset whose lists of Secrets obey field selectors, and that
// keeps what it was asked.
type cluster struct {
	*fake.Clientset
	fail  error
	asked []string // "namespace selector continue"
	limit int64    // the largest page that was asked for
	page  int      // how many Secrets a page has; 0: all
}

func newCluster(secrets ...runtime.Object) *cluster {
	return &cluster{Clientset: fake.NewClientset(secrets...)}
}

func (c *cluster) list(ctx context.Context, namespace string, options metav1.ListOptions) (*corev1.SecretList, error) {
	c.asked = append(c.asked, strings.TrimSpace(namespace+" "+options.FieldSelector+" "+options.Continue))
	if c.limit = max(c.limit, options.Limit); options.Limit == 0 {
		c.limit = math.MaxInt32
	}
	if c.fail != nil {
		return nil, c.fail
	}
	all, err := c.CoreV1().Secrets(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	selector, err := fields.ParseSelector(options.FieldSelector)
	if err != nil {
		return nil, err
	}
	page := &corev1.SecretList{}
	for _, secret := range all.Items {
		if secret.Name > options.Continue && selector.Matches(fields.Set{"type": string(secret.Type)}) {
			page.Items = append(page.Items, secret)
		}
	}
	if c.page > 0 && len(page.Items) > c.page {
		page.Items = page.Items[:c.page]
		page.Continue = page.Items[c.page-1].Name
	}
	return page, nil
}

func inNamespace(namespace string, secret *corev1.Secret) *corev1.Secret {
	secret.Namespace = namespace
	return secret
}

func pullSecret(namespace, name, password string) *corev1.Secret {
	return inNamespace(namespace, secret(name, corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey,
		`{"auths":{"quay.io":{"username":"u","password":"`+password+`"}}}`))
}

// TestNamespaces: the pull Secrets of one namespace are read, by type, and again
// once they may have changed.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	c := newCluster(
		pullSecret("a", "one", "p1"),
		inNamespace("a", secret("old", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"quay.io":{"username":"u","password":"p2"}}`)),
		inNamespace("a", secret("other", corev1.SecretTypeOpaque, corev1.DockerConfigJsonKey, `{"auths":{"quay.io":{"username":"u","password":"no"}}}`)),
		pullSecret("a", "two", "p3"), pullSecret("a", "zwei", "p4"),
		pullSecret("b", "foreign", "no"),
	)
	c.page = 2
	clock := testingclock.NewFakePassiveClock(time.Now())
	n := NewNamespaces(c.list, clock)
	want := func(namespace string, passwords ...string) {
		t.Helper()
		got, err := n.Keychain(namespace).Credentials(t.Context(), parse(t, "quay.io/a"))
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, credential := range got {
			found = append(found, credential.Password)
		}
		if diff := cmp.Diff(passwords, found); diff != "" {
			t.Errorf("passwords in %s (-want +got):\n%s", namespace, diff)
		}
	}
	const json, legacy = "a type=kubernetes.io/dockerconfigjson", "a type=kubernetes.io/dockercfg"
	want("a", "p2", "p1", "p3", "p4") // by the names of the Secrets
	want("a", "p2", "p1", "p3", "p4")
	if diff := cmp.Diff([]string{json, json + " two", legacy}, c.asked); diff != "" {
		t.Errorf("what the cluster was asked (-want +got):\n%s", diff)
	}
	if most := c.limit << 20; most > maxSecretBytes { // etcd takes Secrets of 1 MiB
		t.Errorf("a page may have %d bytes", most)
	}
	want("empty")

	if _, err := c.CoreV1().Secrets("a").Update(t.Context(), pullSecret("a", "one", "rotated"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(clock.Now().Add(2 * time.Second))
	want("a", "p2", "rotated", "p3", "p4")
}

// TestNamespacesKeep has all of a Secret go that is not looked at.
func TestNamespacesKeep(t *testing.T) {
	t.Parallel()
	whole := secret("one", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "{}")
	whole.Annotations = map[string]string{InsecureTransportAnnotation: InsecureTransportAllow, "large": strings.Repeat("x", 1<<20)}
	whole.Labels = map[string]string{"large": "too"}
	whole.Data["another"] = []byte("x")
	want := secret("one", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, "{}")
	want.Annotations = map[string]string{InsecureTransportAnnotation: InsecureTransportAllow}
	whole.Namespace = "a"
	got, err := NewNamespaces(newCluster(whole).list, testingclock.NewFakePassiveClock(time.Now())).secrets(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*corev1.Secret{want}, got); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}
}

func TestNamespacesFail(t *testing.T) {
	t.Parallel()
	forbidden := apierrors.NewForbidden(corev1.Resource("secrets"), "", errors.New("SECRET"))
	tests := []struct {
		name  string
		fail  error
		large bool
		many  int
		found int
		asks  bool // the source is asked all the same
		want  importer.Kind
		text  string
	}{
		{name: "forbidden", fail: forbidden, asks: true, want: importer.Unauthorized,
			text: "the pull Secrets of the namespace a cannot be read: Tagger needs the right to list secrets there"},
		{name: "the API server is away", fail: errors.New("SECRET"), want: importer.Unavailable,
			text: "the pull Secrets of the namespace a cannot be read now"},
		{name: "too large", large: true, asks: true, found: 1, want: importer.Unauthorized,
			text: "the pull Secrets of the namespace a are larger than 8388608 bytes together, and were not all read"},
		{name: "too many", many: maxSecretBytes >> 10, asks: true, found: 1, want: importer.Unauthorized,
			text: "the pull Secrets of the namespace a are larger than 8388608 bytes together, and were not all read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(pullSecret("a", "one", "p"))
			c.fail = tt.fail
			if tt.large {
				c.PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
					large := secret("large", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, strings.Repeat("x", maxSecretBytes))
					return true, &corev1.SecretList{Items: []corev1.Secret{*pullSecret("a", "first", "p"), *large}}, nil
				})
			}
			if tt.many > 0 {
				c.PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, &corev1.SecretList{Items: slices.Repeat([]corev1.Secret{*pullSecret("a", "first", "p")}, tt.many)}, nil
				})
			}
			got, err := NewNamespaces(c.list, testingclock.NewFakePassiveClock(time.Now())).Keychain("a").Credentials(t.Context(), parse(t, "quay.io/a"))
			if (got != nil) != tt.asks || len(got) != tt.found {
				t.Errorf("got %d credentials, nil: %t", len(got), got == nil)
			}
			var typed *importer.Error
			if !errors.As(err, &typed) || typed.Kind != tt.want || typed.Error() != tt.text {
				t.Errorf("got %v, want %s: %s", err, tt.want, tt.text)
			}
		})
	}
	t.Run("nobody waits", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := newCluster()
		c.fail = ctx.Err()
		if _, err := NewNamespaces(c.list, testingclock.NewFakePassiveClock(time.Now())).Keychain("a").Credentials(ctx, parse(t, "quay.io/a")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
