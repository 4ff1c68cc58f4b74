// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	clientset "tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/test/cluster"
)

const (
	manifests = "../../artifacts/manifests"
	// home is the namespace that Tagger runs in.
	home = "tagger"
)

// tagger is a server that extends the control plane of a cluster, with the rights of the manifests.
type tagger struct {
	*cluster.Cluster
	kube kubernetes.Interface
	// api is a client of the administrator's, through kube-apiserver.
	api clientset.Interface
	// port is that of the API on loopback, registry HOST:PORT of the registry endpoint.
	port, registry string
	args           []string
	cmd            *exec.Cmd
	log            *safeBuffer
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// extend starts Tagger beside a control plane, with flags, and waits until kube-apiserver sends requests there.
func extend(t *testing.T, c *cluster.Cluster, flags ...string) *tagger {
	t.Helper()
	x := &tagger{Cluster: c, kube: kubeClient(t, c), api: typed(t, c.RESTConfig()), log: &safeBuffer{}}
	ports, err := cluster.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	port, registryPort := ports[0], ports[1]
	x.port, x.registry = port, net.JoinHostPort("127.0.0.1", registryPort)
	account, err := c.Extend(t.Context(), manifests, port)
	if err != nil {
		t.Fatal(err)
	}
	x.args = append([]string{"--kubeconfig", account, "--data-dir", filepath.Join(t.TempDir(), "data"), "--bind-address", "127.0.0.1",
		"--secure-port", port, "--registry-port", registryPort, "--registry-external-host", x.registry, "--allow-loopback-sources"}, flags...)
	x.run(t)
	t.Cleanup(func() {
		x.stop(t)
		if t.Failed() {
			t.Logf("log of Tagger:\n%s", x.log)
		}
	})
	x.available(t)
	return x
}

func typed(t *testing.T, config *rest.Config) clientset.Interface {
	t.Helper()
	client, err := clientset.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// token returns a token of a service account.
func (x *tagger) token(t *testing.T, namespace, account string) string {
	t.Helper()
	request, err := x.kube.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3600)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// run starts the server.
func (x *tagger) run(t *testing.T) {
	t.Helper()
	x.cmd = exec.Command("tagger-apiserver", x.args...)
	x.cmd.Stdout, x.cmd.Stderr = x.log, x.log
	if err := x.Spawn(x.cmd); err != nil {
		t.Fatal(err)
	}
}

// stop asks the server to stop, and waits.
func (x *tagger) stop(t *testing.T) {
	t.Helper()
	if err := x.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := x.cmd.Wait(); err != nil {
		t.Errorf("Tagger ended: %v", err)
	}
}

// available waits until kube-apiserver sends requests to Tagger.
func (x *tagger) available(t *testing.T) {
	t.Helper()
	eventually(t, "Tagger answers through kube-apiserver", func(ctx context.Context) error {
		_, err := x.api.TaggerV1beta1().Images("default").List(ctx, metav1.ListOptions{})
		return err
	})
}

// ready says what Tagger itself says of that.
func (x *tagger) ready(ctx context.Context) error {
	return answers(ctx, "https://127.0.0.1:"+x.port+"/readyz?verbose")
}

// answers returns nil when a program of this machine answers at a URL that all is well.
func answers(ctx context.Context, url string) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(response.Body)
		return errors.Join(fmt.Errorf("status %d: %s", response.StatusCode, answer), err)
	}
	return nil
}

// namespace makes one, in which users have roles: "alice: edit".
func (x *tagger) namespace(t *testing.T, name string, roles map[string]string) {
	t.Helper()
	if _, err := x.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for user, role := range roles {
		if _, err := kubectl(t, x.Cluster, "create", "rolebinding", user, "-n", name, "--clusterrole", role, "--user", user); err != nil {
			t.Fatal(err)
		}
	}
}

// finished waits for the end of an import and returns how it ended.
func (x *tagger) finished(t *testing.T, namespace, name string) *metav1.Condition {
	t.Helper()
	var ended *metav1.Condition
	eventually(t, "import "+name+" has ended", func(ctx context.Context) error {
		imp, err := x.api.TaggerV1beta1().ImageImports(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if imp.Status.CompletionTime == nil {
			return errors.New("it has not")
		}
		ended = meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported)
		return nil
	})
	return ended
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// registryClient returns a client of the registry endpoint with a token as the password, or without any.
func (x *tagger) registryClient(t *testing.T, token string) *http.Client {
	t.Helper()
	secret, err := x.kube.CoreV1().Secrets(home).Get(t.Context(), "tagger-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: "https://" + x.registry, TLSClientConfig: rest.TLSClientConfig{CAData: secret.Data["tls.crt"]}, Username: "anybody", Password: token}
	if token == "" {
		config.Username = ""
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// pull asks the registry endpoint for a manifest, with a token as the password, and returns the status code.
func (x *tagger) pull(t *testing.T, repository, reference, token string) int {
	t.Helper()
	client := x.registryClient(t, token)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://%s/v2/%s/manifests/%s", x.registry, repository, reference), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
