// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"tagger.dev/tagger/test/cluster"
)

const (
	// nodeFiles are the configuration of nodes that docs/nodes.md explains. The node here has it as it is.
	nodeFiles = "../../artifacts/nodes"
	// registryHost is what references to the image store begin with, where nothing else is set.
	registryHost = "tagger." + home + ".svc:5000"
)

// TestNodePulls has a node pull from the image store, by tokens of the service accounts of Pods and by pull Secrets.
func TestNodePulls(t *testing.T) {
	require(t, cluster.Config{})
	config, err := filepath.Abs(filepath.Join(nodeFiles, "credential-provider.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("tagger-credential-provider")
	if err != nil {
		t.Fatalf("%v; run the tests by make e2e, which builds it", err)
	}
	c := start(t, cluster.Config{CredentialProviders: cluster.CredentialProviders{Config: config, Dir: filepath.Dir(program)}})
	if err := c.Import(t.Context(), serverArchive); err != nil {
		t.Fatalf("%v; run the tests by make e2e, which builds it", err)
	}
	i := &installation{tagger: tagger{Cluster: c, kube: kubeClient(t, c), api: typed(t, c.RESTConfig())}, helm: "helm4", servers: 1}
	i.runHelm(t, "install", chart, "--create-namespace", "--set", "image="+serverImage+",persistence.enabled=false,registry.nodeTokens=true")
	i.available(t)
	ca := i.configureNode(t)

	i.namespace(t, "a", nil)
	i.namespace(t, "b", nil)
	ours := i.mirrored(t, "a", "5300")
	must := func(args ...string) {
		t.Helper()
		if _, err := kubectl(t, c, args...); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("by the service account", func(t *testing.T) {
		i.runPod(t, "a", "app", corev1.PodSpec{}, ours)
		i.wantRefused(t, "a", "app") // nobody said yet that it may
		must("create", "rolebinding", "pull", "-n", "a", "--clusterrole", "tagger-pull", "--group", "system:serviceaccounts:a")
		i.wantRunning(t, "a", "app")
	})
	t.Run("not by that of another namespace", func(t *testing.T) {
		must("create", "rolebinding", "pull", "-n", "b", "--clusterrole", "tagger-pull", "--group", "system:serviceaccounts:b")
		i.runPod(t, "b", "theirs", corev1.PodSpec{}, ours) // which the node has by now
		i.wantRefused(t, "b", "theirs")
		i.runPod(t, "b", "own", corev1.PodSpec{}, i.mirrored(t, "b", "5301")) // the same content
		i.wantRunning(t, "b", "own")
		i.runPod(t, "b", "again", corev1.PodSpec{}, ours)
		i.wantRefused(t, "b", "again")
	})
	t.Run("after the kubelet was restarted", func(t *testing.T) {
		if err := i.Restart(t.Context(), "kubelet"); err != nil {
			t.Fatal(err)
		}
		i.runPod(t, "b", "later", corev1.PodSpec{}, ours)
		i.wantRefused(t, "b", "later")
		i.runPod(t, "a", "later", corev1.PodSpec{}, ours)
		i.wantRunning(t, "a", "later")
	})
	t.Run("by a pull Secret", func(t *testing.T) {
		i.namespace(t, "c", nil)
		reference := i.mirrored(t, "c", "5302")
		must("create", "serviceaccount", "puller", "-n", "c")
		must("create", "rolebinding", "puller", "-n", "c", "--clusterrole", "tagger-pull", "--serviceaccount", "c:puller")
		i.runPod(t, "c", "none", corev1.PodSpec{}, reference)
		i.wantRefused(t, "c", "none")
		i.createSecret(t, "c", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "puller", Annotations: map[string]string{
			corev1.ServiceAccountNameKey: "puller"}}, Type: corev1.SecretTypeServiceAccountToken})
		lasting := ""
		eventually(t, "the Secret of the account has a token", func(ctx context.Context) error {
			secret, err := i.kube.CoreV1().Secrets("c").Get(ctx, "puller", metav1.GetOptions{})
			if err == nil && len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
				return errors.New("it has none")
			} else if err == nil {
				lasting = string(secret.Data[corev1.ServiceAccountTokenKey])
			}
			return err
		})
		for name, password := range map[string]string{"bound": i.token(t, "c", "puller"), "lasting": lasting} {
			must("create", "secret", "docker-registry", name, "-n", "c", "--docker-server", registryHost, "--docker-username", "puller", "--docker-password", password)
			i.runPod(t, "c", name, corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: name}}}, reference)
			i.wantRunning(t, "c", name)
		}

		// As docs/clients.md has it: another host's name, which Tagger stands for.
		const mirrored = "images.example"
		folder := filepath.Join(i.HostsDir(), mirrored)
		hosts := fmt.Sprintf("server = %q\nca = %q\n", "https://"+registryHost, filepath.Join(i.HostsDir(), registryHost, "ca.crt"))
		if err := errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(hosts), 0o600)); err != nil {
			t.Fatal(err)
		}
		must("create", "secret", "docker-registry", "mirrored", "-n", "c", "--docker-server", mirrored, "--docker-username", "puller", "--docker-password", lasting)
		secrets := []corev1.LocalObjectReference{{Name: "mirrored"}}
		i.runPod(t, "c", "mirrored", corev1.PodSpec{ImagePullSecrets: secrets}, strings.Replace(reference, registryHost, mirrored, 1))
		i.runPod(t, "c", "not-theirs", corev1.PodSpec{ImagePullSecrets: secrets}, strings.Replace(ours, registryHost, mirrored, 1))
		i.wantRunning(t, "c", "mirrored")
		i.wantRefused(t, "c", "not-theirs")
	})
	t.Run("tokens for others", func(t *testing.T) {
		for _, tt := range []struct {
			audience string
			registry int
			api      bool
		}{
			{audience: "", registry: http.StatusOK, api: true},
			{audience: "tagger.dev", registry: http.StatusOK},
			{audience: registryHost, registry: http.StatusOK},
			{audience: "vault", registry: http.StatusUnauthorized},
		} {
			token := i.tokenFor(t, "a", tt.audience)
			if got := i.askRegistry(t, ca, "a/app/tags/list", token); got != tt.registry {
				t.Errorf("a token for %q gets %d of the registry endpoint, want %d", tt.audience, got, tt.registry)
			}
			config := rest.AnonymousClientConfig(i.RESTConfig())
			config.BearerToken = token
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			if (err == nil) != tt.api || err != nil && !apierrors.IsUnauthorized(err) {
				t.Errorf("a token for %q gets %v of the API, want that it is taken: %t", tt.audience, err, tt.api)
			}
		}
	})
	log, err := os.ReadFile(filepath.Join(c.Dir(), "log", "kubelet.log"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "eyJhbGci") {
		t.Error("the kubelet logs tokens")
	}
}

// configureNode has the node reach the registry endpoint by its name, and trust it, and returns whom.
func (i *installation) configureNode(t *testing.T) []byte {
	t.Helper()
	host, _, _ := net.SplitHostPort(registryHost)
	if err := i.AddHost(i.clusterIP(t), host); err != nil {
		t.Fatal(err)
	}
	secret, err := i.kube.CoreV1().Secrets(home).Get(t.Context(), "tagger-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := os.ReadFile(filepath.Join(nodeFiles, "hosts.toml"))
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(i.HostsDir(), registryHost)
	if err := errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "hosts.toml"), hosts, 0o600),
		os.WriteFile(filepath.Join(folder, "ca.crt"), secret.Data["tls.crt"], 0o600)); err != nil {
		t.Fatal(err)
	}
	return secret.Data["tls.crt"]
}

func (i *installation) clusterIP(t *testing.T) string {
	t.Helper()
	service, err := i.kube.CoreV1().Services(home).Get(t.Context(), "tagger", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service.Spec.ClusterIP
}

// mirrored imports an Image, app, into the image store, and returns what to run. Where it came from is gone.
func (i *installation) mirrored(t *testing.T, namespace, port string) string {
	t.Helper()
	source := serveRegistry(t, i.Cluster, port)
	defer source.Stop()
	from := source.Host + "/team/app:v1"
	pushTestserver(t, i.Cluster, from)
	if _, err := kubectl(t, i.Cluster, "image", "import", "app", "-n", namespace, "--from", from, "--insecure-source", "--mirror"); err != nil {
		t.Fatal(err)
	}
	image, err := i.api.TaggerV1beta1().Images(namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reference := image.Status.HashReferences[0].ImageReference
	if !strings.HasPrefix(reference, registryHost+"/"+namespace+"/app@sha256:") {
		t.Fatalf("it is at %s", reference)
	}
	return reference
}

// runPod starts a Pod that runs an image, pulled if it is not there.
func (i *installation) runPod(t *testing.T, namespace, name string, spec corev1.PodSpec, image string) {
	t.Helper()
	spec.Containers = []corev1.Container{{Name: "app", Image: image, ImagePullPolicy: corev1.PullIfNotPresent}}
	eventually(t, "the Pod is made", func(ctx context.Context) error { // once its service account is there
		_, err := i.kube.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		return err
	})
}

// waiting returns what a Pod waits for, and nothing where it runs or has not begun to.
func (i *installation) waiting(ctx context.Context, namespace, name string) (*corev1.ContainerStateWaiting, *corev1.Pod, error) {
	pod, err := i.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil || len(pod.Status.ContainerStatuses) == 0 {
		return nil, pod, err
	}
	return pod.Status.ContainerStatuses[0].State.Waiting, pod, nil
}

func (i *installation) wantRunning(t *testing.T, namespace, name string) {
	t.Helper()
	eventually(t, "the Pod is ready", func(ctx context.Context) error {
		waiting, pod, err := i.waiting(ctx, namespace, name)
		if err == nil && !isReady(pod) {
			return fmt.Errorf("it waits: %v", waiting)
		}
		return err
	})
}

// wantRefused waits until the image of a Pod could not be pulled since the registry endpoint does not show it.
func (i *installation) wantRefused(t *testing.T, namespace, name string) {
	t.Helper()
	eventually(t, "the image of the Pod is not pulled", func(ctx context.Context) error {
		waiting, pod, err := i.waiting(ctx, namespace, name)
		switch {
		case err != nil:
			return err
		case isReady(pod):
			t.Fatalf("the Pod %s/%s runs", namespace, name)
		case waiting == nil || waiting.Reason != "ErrImagePull" && waiting.Reason != "ImagePullBackOff" || !strings.Contains(waiting.Message, "not found"):
			return fmt.Errorf("it waits: %v", waiting)
		}
		t.Logf("%s/%s: %s: %s", namespace, name, waiting.Reason, waiting.Message)
		return nil
	})
}

// tokenFor returns a token of the service account default that is meant for somebody, or where that is empty for the API.
func (i *installation) tokenFor(t *testing.T, namespace, audience string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	request, err := i.kube.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// askRegistry asks the registry endpoint from the node, and returns the status code.
func (i *installation) askRegistry(t *testing.T, ca []byte, path, token string) int {
	t.Helper()
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(ca)
	address := net.JoinHostPort(i.clusterIP(t), "5000")
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, network, _ string) (net.Conn, error) { return i.Dial(ctx, network, address) },
		TLSClientConfig:   &tls.Config{RootCAs: authorities},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+registryHost+"/v2/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("anybody", token)
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
