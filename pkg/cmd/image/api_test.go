// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// now is the time in all tests that know one.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// A step is what the server does next while an import is watched. Those that are not states end the watch.
type step struct {
	state   *v1beta1.ImageImport
	deleted bool // with the state that the import had
	failure *apierrors.StatusError
	refuse  *apierrors.StatusError // what the next requests are answered, once or as often as times says
	times   int
	down    bool // until somebody calls up
}

// api speaks what the plugin needs of the API: one import, and one Image.
type api struct {
	t *testing.T
	// answer is what the import or the rollback is answered: an ImageImport, an ImageRollback or a Status.
	answer runtime.Object
	steps  []step
	image  *v1beta1.Image
	// documents are what other paths answer, as JSON.
	documents map[string]any
	// proxy serves images/proxy, from /v2/ on.
	proxy http.Handler

	environment map[string]string // of the plugin
	stdin       string            // what is typed to it

	address   string
	authority string // that signed its certificate, as in a kubeconfig

	lock    sync.Mutex
	server  *httptest.Server
	current *v1beta1.ImageImport
	refuse  *apierrors.StatusError
	times   int
	posted  string // the body of what was asked for last
	query   url.Values
}

// start serves the API on a free port until the test ends.
func (a *api) start() {
	a.up("127.0.0.1:0")
	a.t.Cleanup(func() {
		a.lock.Lock()
		defer a.lock.Unlock()
		a.server.CloseClientConnections()
		a.server.Close()
	})
}

func (a *api) up(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		a.t.Error(err)
		return
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	a.address = listener.Addr().String()
	a.server = &httptest.Server{Listener: listener, EnableHTTP2: true, Config: &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}}
	a.server.StartTLS()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	a.authority = base64.StdEncoding.EncodeToString(certificate)
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const prefix = "/apis/tagger.dev/v1beta1/namespaces/ns/"
	resource, ok := strings.CutPrefix(r.URL.Path, prefix)
	if got := r.Header.Get("Authorization"); got != "Bearer secret" {
		a.t.Errorf("%s %s with authorization %q", r.Method, r.URL.Path, got)
	}
	a.lock.Lock()
	refuse := a.refuse
	if a.times--; a.times <= 0 {
		a.refuse = nil
	}
	a.lock.Unlock()
	switch {
	case refuse != nil:
		a.write(w, &refuse.ErrStatus)
	case a.proxy != nil && strings.HasPrefix(resource, "images/myapp/proxy/"):
		http.StripPrefix(prefix+"images/myapp/proxy", a.proxy).ServeHTTP(located{w, prefix + "images/myapp/proxy"}, r)
	case a.documents[r.URL.Path] != nil:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		a.lock.Lock()
		a.posted = string(body)
		a.lock.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a.documents[r.URL.Path]); err != nil {
			a.t.Error(err)
		}
	case !ok:
		http.NotFound(w, r)
	case r.Method == http.MethodPost && (resource == "images/myapp/import" || resource == "images/myapp/rollback"):
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		a.lock.Lock()
		a.posted, a.query = string(bytes.TrimSpace(body)), r.URL.Query()
		a.current, _ = a.answer.(*v1beta1.ImageImport)
		a.lock.Unlock()
		a.write(w, a.answer)
	case resource == "imageimports" && r.URL.Query().Get("watch") != "":
		if selector := r.URL.Query().Get("fieldSelector"); selector != "metadata.name=myapp-0a1b2c3d" {
			a.t.Errorf("watching with the field selector %q", selector)
		}
		a.watch(w, r)
	case resource == "imageimports/myapp-0a1b2c3d":
		a.lock.Lock()
		defer a.lock.Unlock()
		a.write(w, a.current)
	case resource == "images/myapp" && a.image != nil:
		a.write(w, a.image)
	default:
		a.write(w, &apierrors.NewNotFound(v1beta1.Resource("images"), filepath.Base(resource)).ErrStatus)
	}
}

// watch takes one step after the other until one of them ends the watch.
func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	send := func(kind watch.EventType, object runtime.Object) {
		event := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Object: object}}
		if err := json.NewEncoder(w).Encode(event); err != nil {
			a.t.Error(err)
		}
		_ = flush()
	}
	_ = flush()
	for {
		a.lock.Lock()
		if len(a.steps) == 0 {
			a.lock.Unlock()
			<-r.Context().Done()
			return
		}
		next := a.steps[0]
		a.steps = a.steps[1:]
		if next.state != nil {
			a.current = next.state
		}
		a.refuse, a.times = next.refuse, next.times
		current, server := a.current, a.server
		a.lock.Unlock()
		switch {
		case next.deleted:
			send(watch.Deleted, current)
		case next.state != nil:
			send(watch.Modified, current)
		case next.failure != nil:
			send(watch.Error, &next.failure.ErrStatus)
			return
		case next.down:
			_ = server.Listener.Close()
			go server.CloseClientConnections()
			<-r.Context().Done()
			return
		default:
			return
		}
	}
}

func (a *api) write(w http.ResponseWriter, object runtime.Object) {
	w.Header().Set("Content-Type", "application/json")
	if status, ok := object.(*metav1.Status); ok {
		status.Kind, status.APIVersion = "Status", "v1"
		w.WriteHeader(int(status.Code))
	}
	if err := json.NewEncoder(w).Encode(object); err != nil {
		a.t.Error(err)
	}
}

// output is a standard error that can be waited for: on is called at the first write that contains its key.
type output struct {
	text bytes.Buffer
	on   map[string]func()
}

func (o *output) Write(p []byte) (int, error) {
	for text, do := range o.on {
		if bytes.Contains(p, []byte(text)) {
			delete(o.on, text)
			do()
		}
	}
	return o.text.Write(p)
}

// result is what a person sees of a command, and its exit code. The address of the server is SERVER in it.
type result struct {
	Stdout, Stderr string
	Code           int
}

// run runs the plugin against a server as a user of its namespace ns.
func (a *api) run(ctx context.Context, clock clock.Clock, on map[string]func(), args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // a test that hangs is interrupted
	defer cancel()
	config := filepath.Join(a.t.TempDir(), "config")
	content := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "it",
"clusters": [{"name": "it", "cluster": {"server": "https://%s", "certificate-authority-data": %q}}],
"users": [{"name": "me", "user": {"token": "secret"}}],
"contexts": [{"name": "it", "context": {"cluster": "it", "user": "me", "namespace": "ns"}}]}`, a.address, a.authority)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		a.t.Fatal(err)
	}
	stdout, stderr := &bytes.Buffer{}, &output{on: on}
	getenv := func(name string) string { return a.environment[name] }
	cmd := newCommand(genericiooptions.IOStreams{In: strings.NewReader(a.stdin), Out: stdout, ErrOut: stderr}, getenv, clock)
	cmd.SetArgs(append([]string{"--kubeconfig", config}, args...))
	code := Execute(ctx, cmd)
	named := strings.NewReplacer(a.address, "SERVER")
	return result{Stdout: named.Replace(stdout.String()), Stderr: named.Replace(stderr.text.String()), Code: code}
}

// located has Location headers begin with a prefix.
type located struct {
	http.ResponseWriter
	prefix string
}

func (l located) WriteHeader(code int) {
	if location := l.Header().Get("Location"); location != "" {
		l.Header().Set("Location", l.prefix+location)
	}
	l.ResponseWriter.WriteHeader(code)
}
