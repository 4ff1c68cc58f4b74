// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/test/lab"
)

const (
	// patience is how long anything may take that should happen soon; machines that test are often busy.
	patience = 3 * time.Minute
	// pollInterval is how often a condition is looked at.
	pollInterval = 50 * time.Millisecond
)

// server is a tagger-apiserver that runs as a process of its own.
type server struct {
	// dir is the data directory; home belongs to the clients that talk to the server.
	dir, home string
	// apiURL and registry are where the two ports are reached.
	apiURL, registry string
	token            string
	roots            *x509.CertPool
	api              versioned.Interface
	log              *logBuffer

	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how the process ended, once exited is closed
}

// serving is the log line that names the two ports.
var serving = regexp.MustCompile(`"Serving" api="([^"]+)" registry="([^"]+)"`)

// launch starts a server whose data directory is dir/data, with more flags than those, and waits until it is ready.
func launch(dir string, flags ...string) (*server, error) {
	s, err := spawn(dir, flags...)
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(); err != nil {
		_ = s.kill()
		return nil, fmt.Errorf("%w; its log:\n%s", err, s.log)
	}
	return s, nil
}

// spawn starts the process and does not wait for it. It trusts the sources of the lab.
func spawn(dir string, flags ...string) (*server, error) {
	program, err := exec.LookPath("tagger-apiserver")
	if err != nil {
		return nil, fmt.Errorf("%w: run the tests by make integration, which builds it", err)
	}
	s := &server{dir: filepath.Join(dir, "data"), home: filepath.Join(dir, "home"), log: &logBuffer{}, exited: make(chan struct{})}
	authority, err := lab.Authority()
	if err != nil {
		return nil, err
	}
	trusted := filepath.Join(dir, "trusted.crt")
	if err := errors.Join(os.MkdirAll(s.home, 0o700), os.WriteFile(trusted, authority, 0o600)); err != nil {
		return nil, err
	}
	s.cmd = exec.Command(program, append([]string{"--standalone", "--data-dir", s.dir, "--secure-port", "0", "--registry-port", "0"}, flags...)...)
	s.cmd.Env = append(s.cmd.Environ(), "HOME="+s.home, "SSL_CERT_FILE="+trusted)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.exited)
		s.err = s.cmd.Wait()
	}()
	return s, nil
}

// awaitReady waits until the server answers, and learns from it how it is reached.
func (s *server) awaitReady() error {
	return poll(func(ctx context.Context) (bool, error) {
		select {
		case <-s.exited:
			return false, fmt.Errorf("the server ended: %w", s.err)
		default:
		}
		if s.api == nil {
			found := serving.FindStringSubmatch(s.log.String())
			if found == nil {
				return false, nil
			}
			s.apiURL, s.registry = found[1], found[2]
			if err := s.connect(); err != nil {
				return false, err
			}
		}
		answer, err := s.get(ctx, s.apiURL+"/readyz", "")
		return err == nil && answer.status == http.StatusOK, nil
	})
}

// connect makes clients of what the server left in its data directory.
func (s *server) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		return err
	}
	config.QPS = -1
	s.token = config.BearerToken
	ca, err := os.ReadFile(filepath.Join(s.dir, "ca.crt"))
	if err != nil {
		return err
	}
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(ca)
	if err := s.configureClients(config); err != nil {
		return err
	}
	s.api, err = versioned.NewForConfig(config)
	return err
}

func (s *server) kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// again starts another server on the data directory and ports of one that has ended.
func (s *server) again(t *testing.T, flags ...string) *server {
	t.Helper()
	_, apiPort, err := net.SplitHostPort(strings.TrimPrefix(s.apiURL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	_, registryPort, err := net.SplitHostPort(s.registry)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, filepath.Dir(s.dir), append([]string{"--secure-port", apiPort, "--registry-port", registryPort}, flags...)...)
}

// stop asks the server to end and returns an error unless it does so with exit code 0.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return s.err
	case <-time.NewTimer(patience).C:
		return errors.Join(errors.New("the server does not end when it is asked to"), s.kill())
	}
}

// kill ends the server without asking.
func (s *server) kill() error {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.exited
	return nil
}

// start is launch for a test, which owns the server: unless the test ended it, it is asked to end and must do so properly.
func start(t *testing.T, dir string, flags ...string) *server {
	t.Helper()
	s, err := launch(dir, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.exited:
		default:
			if err := s.stop(); err != nil {
				t.Errorf("stopping the server: %v", err)
			}
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.log)
		}
	})
	return s
}

// sharedServer is the server of all tests that neither stop nor break it, once one of them asked for it.
var sharedServer = sync.OnceValues(func() (*server, error) {
	dir, err := os.MkdirTemp("", "tagger")
	if err != nil {
		return nil, err
	}
	return launch(dir, "--v=4")
})

// sharedUsed says whether there is a shared server.
var sharedUsed atomic.Bool

// shared returns the shared server, and a namespace for this test alone.
func shared(t *testing.T) (s *server, namespace string) {
	t.Helper()
	sharedUsed.Store(true)
	s, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	begin, namespace := s.log.Len(), newNamespace()
	t.Cleanup(func() {
		// Imports that fail would go on to be tried.
		if err := s.api.TaggerV1beta1().Images(namespace).DeleteCollection(context.WithoutCancel(t.Context()), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of the server meanwhile:\n%s", s.log.String()[begin:])
		}
	})
	return s, namespace
}

var namespaces atomic.Int32

func newNamespace() string { return fmt.Sprintf("test-%d", namespaces.Add(1)) }

// TestMain ends the shared server after the tests; that it ends properly is one of them.
func TestMain(m *testing.M) {
	code := m.Run()
	if sharedUsed.Load() {
		if s, err := sharedServer(); err == nil {
			if err := s.stop(); err != nil {
				fmt.Fprintf(os.Stderr, "FAIL: stopping the shared server: %v; its log:\n%s", err, s.log)
				code = 1
			}
			_ = os.RemoveAll(filepath.Dir(s.dir))
		}
	}
	os.Exit(code)
}

// answer is what came back for a plain HTTP request.
type answer struct {
	status int
	header http.Header
	body   string
}

// get asks for a URL of the server with an Authorization header, none where that is empty.
func (s *server) get(ctx context.Context, url, authorization string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	transport := s.transport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}, err
}

// transport trusts the server alone.
func (s *server) transport() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}}
}

// logged says whether the server logged something.
func (s *server) logged(text string) bool { return strings.Contains(s.log.String(), text) }

// rest returns a client for calls that the generated one has no words for.
func (s *server) rest() rest.Interface { return s.api.TaggerV1beta1().RESTClient() }

// poll waits until a condition holds. An error of the condition ends the wait.
func poll(condition func(context.Context) (bool, error)) error {
	return wait.PollUntilContextTimeout(context.Background(), pollInterval, patience, true, condition)
}

// eventually fails the test unless a condition comes to hold; what says which.
func eventually(t *testing.T, what string, condition func(context.Context) (bool, error)) {
	t.Helper()
	if err := poll(condition); err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// logBuffer is what a process wrote so far. It may be used concurrently.
type logBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

func (b *logBuffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Len()
}
