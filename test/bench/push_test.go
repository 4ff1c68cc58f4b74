// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench && linux

package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/test/cluster"
)

var gib = flag.Int64("gib", 10, "how large the blob is that is pushed and pulled, in GiB")

// TestPush pushes one large blob as a stream and pulls it back, through TLS: at Tagger's registry port; with a fifth of the size by
// images/proxy, at its API port and through kube-apiserver; and both sizes at the registry of the distribution project as it is
// installed. It prints the time of each, and the most memory that the server ever had.
func TestPush(t *testing.T) {
	large := *gib << 30
	small := large / 5
	fmt.Println("server                                   GiB      push      pull  most memory")
	measure := func(name string, pid int, base string, config *rest.Config, size int64) {
		t.Helper()
		pushed, pulled := pushAndPull(t, base, config, size)
		fmt.Printf("%-38s %5.1f %7.1f s %7.1f s %8d MiB\n", name, float64(size)/(1<<30), pushed.Seconds(), pulled.Seconds(), mostMemory(t, pid))
	}
	const proxied = "/apis/tagger.dev/v1beta1/namespaces/default/images/proxied/proxy/v2/default/proxied"

	t.Run("standalone", func(t *testing.T) {
		s := start(t, t.TempDir())
		measure("tagger, registry port", s.cmd.Process.Pid, "https://"+s.registry(t)+"/v2/default/app", s.anyHost(), large)
		measure("tagger, images/proxy", s.cmd.Process.Pid, s.config.Host+proxied, s.config, small)
		s.stop(t)
	})
	t.Run("through kube-apiserver", func(t *testing.T) {
		c, pid := extended(t)
		config := c.RESTConfig()
		measure("tagger, images/proxy by kube-apiserver", pid, config.Host+proxied, config, small)
	})
	t.Run("distribution", func(t *testing.T) {
		program, err := exec.LookPath("docker-registry")
		if err != nil {
			t.Skip("docker-registry is not installed, to which this is compared")
		}
		for _, size := range []int64{large, small} {
			cmd, address := startDistribution(t, program)
			measure("distribution", cmd.Process.Pid, "https://"+address+"/v2/default/app", &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, size)
		}
	})
}

// anyHost is how the administrator signs in at the registry port, whose certificate is not looked at.
func (s *server) anyHost() *rest.Config {
	return &rest.Config{BearerToken: s.config.BearerToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

// extended starts a control plane, with Tagger beside it as an aggregated server, and returns the process of that.
func extended(t *testing.T) (c *cluster.Cluster, pid int) {
	t.Helper()
	config := cluster.Config{ControlPlaneOnly: true}
	if err := cluster.Check(config); err != nil {
		t.Skip(err)
	}
	c, err := cluster.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ports, err := cluster.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	port, registryPort := ports[0], ports[1]
	account, err := c.Extend(t.Context(), "../../artifacts/manifests", port)
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	cmd := exec.Command("tagger-apiserver", "--kubeconfig", account, "--data-dir", filepath.Join(t.TempDir(), "data"), "--bind-address", "127.0.0.1",
		"--secure-port", port, "--registry-port", registryPort)
	cmd.Stdout, cmd.Stderr = log, log
	if err := c.Spawn(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of Tagger:\n%s", log)
		}
	})
	api, err := versioned.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := api.TaggerV1beta1().Images("default").List(ctx, metav1.ListOptions{})
		return err == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	return c, cmd.Process.Pid
}

// registry returns the address of the registry port.
func (s *server) registry(t *testing.T) string {
	t.Helper()
	printed, err := os.ReadFile(filepath.Join(filepath.Dir(s.dir), "log"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`registry="([^"]+)"`).FindSubmatch(printed)
	if found == nil {
		t.Fatal("the server does not say where its registry port is")
	}
	return string(found[1])
}

// pattern repeats random bytes, which no disk makes smaller.
type pattern struct {
	block []byte
	at    int
}

func newPattern() *pattern {
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block) // never fails
	return &pattern{block: block}
}

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, p.block[p.at:])
	p.at = (p.at + n) % len(p.block)
	return n, nil
}

func pushAndPull(t *testing.T, base string, config *rest.Config, size int64) (pushed, pulled time.Duration) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, target string, body io.Reader, want int) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, target, body)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != want {
			said, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
			t.Fatalf("%s %s: %d, want %d: %s", method, target, response.StatusCode, want, said)
		}
		return response
	}
	location := func(target string, response *http.Response) *url.URL {
		t.Helper()
		defer response.Body.Close()
		from, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		to, err := from.Parse(response.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	content := newPattern()
	hash := sha256.New()
	if _, err := io.CopyN(hash, &pattern{block: content.block}, size); err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + hex.EncodeToString(hash.Sum(nil))

	began := time.Now()
	uploads := base + "/blobs/uploads/"
	at := location(uploads, ask(http.MethodPost, uploads, nil, http.StatusAccepted))
	at = location(at.String(), ask(http.MethodPatch, at.String(), io.LimitReader(content, size), http.StatusAccepted))
	query := at.Query()
	query.Set("digest", digest)
	at.RawQuery = query.Encode()
	location(at.String(), ask(http.MethodPut, at.String(), nil, http.StatusCreated))
	pushed = time.Since(began)

	began = time.Now()
	response := ask(http.MethodGet, base+"/blobs/"+digest, nil, http.StatusOK)
	defer response.Body.Close()
	hash.Reset()
	if n, err := io.Copy(hash, response.Body); err != nil || n != size || "sha256:"+hex.EncodeToString(hash.Sum(nil)) != digest {
		t.Fatalf("%d of %d bytes came back, or others: %v", n, size, err)
	}
	return pushed, time.Since(began)
}

// startDistribution starts the registry of the distribution project, with a certificate of its own.
func startDistribution(t *testing.T, program string) (cmd *exec.Cmd, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	_ = listener.Close() // the registry takes the port over
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"config.yml": fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, tls: {certificate: %q, key: %q}}\n",
			path("data"), address, path("tls.crt"), path("tls.key")),
	} {
		if err := os.WriteFile(path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd = exec.Command(program, "serve", path("config.yml"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	return cmd, address
}

// mostMemory returns the most resident memory that a process ever had, in MiB.
func mostMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
