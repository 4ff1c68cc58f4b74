// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
)

// TestPush pushes an image for two platforms from each kind of place that can be had without a container engine, by each way.
func TestPush(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// from is --from, where LAYOUT and ARCHIVE are what there is.
		from string
		args []string
		// host is the one that the cluster publishes; absent: the port.
		host string
		ways string // what is said of it; the address of the port is PORT
	}{
		{name: "a layout", from: "oci:LAYOUT", ways: "pushing oci:LAYOUT to ns/myapp:latest by way of PORT\n"},
		{name: "an archive", from: "oci-archive:ARCHIVE", ways: "pushing oci-archive:ARCHIVE to ns/myapp:latest by way of PORT\n"},
		{
			name: "through kube-apiserver, as it is asked for", from: "oci:LAYOUT", args: []string{"--via=apiserver"},
			ways: "pushing oci:LAYOUT to ns/myapp:latest by way of kube-apiserver\n",
		},
		{
			name: "through kube-apiserver, as nobody listens", from: "oci:LAYOUT", host: "127.0.0.1:1",
			ways: "going through kube-apiserver: 127.0.0.1:1 cannot be reached: connect: connection refused\n" +
				"pushing oci:LAYOUT to ns/myapp:latest by way of kube-apiserver\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port := newPort(t, true)
			host := port.host()
			if tt.host != "" {
				host = tt.host
			}
			server := published(t, host, port.authority())
			server.proxy = port.handler
			folder, digest := newLayout(t)
			places := strings.NewReplacer("LAYOUT", folder, "ARCHIVE", packed(t, folder))
			names := strings.NewReplacer("PORT", port.host())
			args := append([]string{"push", "myapp", "--from", places.Replace(tt.from)}, tt.args...)
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, append(args, "-o", "json")...)
			var moved transferred
			if err := json.Unmarshal([]byte(got.Stdout), &moved); err != nil {
				t.Fatalf("%v: %+v", err, got)
			}
			if moved.Digest.String() != digest || moved.Namespace != "ns" || moved.Image != "myapp" || moved.Tag != "latest" {
				t.Errorf("unexpected answer, want the digest %s: %+v", digest, moved)
			}
			if moved.Reference != host+"/ns/myapp@"+digest {
				t.Errorf("unexpected reference %s", moved.Reference)
			}
			if diff := cmp.Diff(names.Replace(places.Replace(tt.ways)), got.Stderr); diff != "" {
				t.Errorf("what is said (-want +got):\n%s", diff)
			}
			index, err := remote.Index(port.reference(t, "ns/myapp:latest"), port.options()...)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index); err != nil {
				t.Error(err)
			}
			if strings.Contains(got.Stdout+got.Stderr, goodToken) {
				t.Error("the token is printed")
			}
		})
	}
}

// TestPushSaved holds that what docker keeps uncompressed is compressed, means the same, and is sent once.
func TestPushSaved(t *testing.T) {
	t.Parallel()
	port := newPort(t, true)
	server := published(t, port.host(), port.authority())
	image := newImage(t, "amd64")
	file := newSaved(t, image, "myapp:1")
	push := func() string {
		got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "push", "ns/myapp:v1", "--from=docker-archive:"+file+":myapp:1")
		want := "image.tagger.dev/myapp pushed\n  " + port.host() + "/ns/myapp@sha256:"
		if got.Code != 0 || !strings.HasPrefix(got.Stdout, want) {
			t.Fatalf("unexpected result: %+v", got)
		}
		return got.Stdout
	}
	first := push()
	sent := port.count("POST", "/blobs/uploads/")
	if sent != 3 {
		t.Errorf("%d blobs were sent, want 3", sent)
	}
	if again := push(); again != first {
		t.Errorf("pushing again says %q, at first %q", again, first)
	}
	if again := port.count("POST", "/blobs/uploads/"); again != sent {
		t.Errorf("pushing again sent %d blobs", again-sent)
	}
	pushed, err := remote.Image(port.reference(t, "ns/myapp:v1"), port.options()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pushed); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(diffIDs(t, image), diffIDs(t, pushed)); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	manifest, err := pushed.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		if !strings.HasSuffix(string(layer.MediaType), "gzip") {
			t.Errorf("a layer of type %s", layer.MediaType)
		}
	}
}

// TestPushFromEngine holds that it is said for what one waits while a container engine saves an image.
//
//nolint:paralleltest // it changes the environment
func TestPushFromEngine(t *testing.T) {
	port := newPort(t, true)
	server := published(t, port.host(), port.authority())
	bin := t.TempDir()
	// It saves an image when it is asked for one in docker's format.
	podman := `#!/bin/sh
case "$*" in
"image inspect"*) echo application/vnd.docker.distribution.manifest.v2+json ;;
"save --quiet --format docker-archive --output "*) cat ` + newSaved(t, newImage(t, "amd64"), "it:1") + ` > "$6" ;;
*) exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "podman"), []byte(podman), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "push", "myapp", "--from=containers-storage:it:1", "-o", "name")
	want := result{
		Stdout: "image.tagger.dev/myapp\n",
		Stderr: "pushing containers-storage:it:1 to ns/myapp:latest by way of " + port.host() + "\nreading from podman\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected result (-want +got):\n%s", diff)
	}
}

// TestPushOfPart pushes one platform of several.
func TestPushOfPart(t *testing.T) {
	t.Parallel()
	port := newPort(t, true)
	server := published(t, port.host(), port.authority())
	folder, _ := newLayout(t)
	got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "push", "myapp", "--from=oci:"+folder, "--platform=linux/arm64", "-o", "name")
	if got.Code != 0 || got.Stdout != "image.tagger.dev/myapp\n" {
		t.Fatalf("unexpected result: %+v", got)
	}
	image, err := remote.Image(port.reference(t, "ns/myapp:latest"), port.options()...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil || config.Architecture != "arm64" {
		t.Errorf("%v: pushed for %s", err, config.Architecture)
	}
}

// TestPushFails holds what is said of a push that fails, and that no token goes where it should not.
func TestPushFails(t *testing.T) {
	t.Parallel()
	const see = "See 'kubectl image push --help' for usage.\n"
	folder, _ := newLayout(t)
	answering := func(status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == "/v2/":
				return false
			case r.Method == http.MethodHead && status >= 500: // nothing is there yet, and nobody says why not
				status := http.StatusNotFound
				w.WriteHeader(status)
				return true
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	tests := []struct {
		name      string
		args      []string // in which PORT is the address of the registry port
		plain     bool     // whether it speaks no TLS
		unknown   bool     // whether its authority is not published
		misbehave func(http.ResponseWriter, *http.Request) bool
		want      string // on standard error, in which the last line may be a hint
		noToken   bool
	}{
		{
			name: "a full disk", misbehave: answering(http.StatusInsufficientStorage, `{"errors": [{"code": "DENIED", "message": "the store is full"}]}`),
			want: "error: could not push to ns/myapp:latest: the store is full\n",
		},
		{
			name: "a certificate that does not verify", unknown: true, noToken: true,
			want: "error: the certificate of PORT does not verify, and the token was not sent there: x509: certificate signed by unknown authority\n" +
				"Trust another authority with --registry-ca=FILE, or go through kube-apiserver with --via=apiserver\n",
		},
		{
			name: "no TLS", plain: true, noToken: true,
			want: "error: PORT speaks no TLS, and the token was not sent there\nUse plain HTTP with --insecure if that is meant.\n",
		},
		{
			name: "a host that is named, and not there", args: []string{"push", "127.0.0.1:1/ns/myapp"}, noToken: true,
			want: "error: 127.0.0.1:1 cannot be reached: connect: connection refused\n",
		},
		{
			name: "a host that is named, and of another authority", unknown: true, noToken: true, args: []string{"push", "PORT/ns/myapp"},
			want: "error: the certificate of PORT does not verify, and the token was not sent there: x509: certificate signed by unknown authority\n" +
				"Trust another authority with --registry-ca=FILE\n",
		},
		{name: "a digest", args: []string{"push", "myapp@" + digest}, noToken: true, want: "error: a push gives a tag, not a digest: myapp:TAG\n" + see},
		{
			name: "two namespaces", args: []string{"push", "other/myapp", "--namespace=ns"}, noToken: true,
			want: "error: other/myapp is in the namespace other, and --namespace says ns\n" + see,
		},
		{
			name: "no such source", args: []string{"push", "myapp", "--from=dir:x"}, noToken: true,
			want: "error: --from=\"dir:x\" does not begin with one of oci:, oci-archive:, docker-archive:, docker-daemon:, containers-storage:\n" + see,
		},
		{name: "no such way", args: []string{"push", "myapp", "--via=pigeon"}, noToken: true,
			want: "error: --via must be \"auto\", \"registry\" or \"apiserver\", not \"pigeon\"\n" + see},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port := newPort(t, !tt.plain)
			port.misbehave = tt.misbehave
			var authority []byte
			if !tt.unknown && !tt.plain {
				authority = port.authority()
			}
			server := published(t, port.host(), authority)
			args := []string{"push", "myapp"}
			if tt.args != nil {
				args = slices.Clone(tt.args)
				args[1] = strings.ReplaceAll(args[1], "PORT", port.host())
			}
			if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--from") }) {
				args = append(args, "--from=oci:"+folder)
			}
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, args...)
			names := strings.NewReplacer(port.host(), "PORT")
			text := names.Replace(got.Stderr)
			if way := "pushing oci:" + folder + " to ns/myapp:latest by way of PORT\n"; strings.HasPrefix(text, way) {
				text = text[len(way):]
			}
			if diff := cmp.Diff(result{Stderr: tt.want, Code: 1}, result{Stdout: got.Stdout, Stderr: text, Code: got.Code}); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			if tt.noToken && slices.Contains(port.tokens, goodToken) {
				t.Error("the token was sent")
			}
		})
	}
}

// TestPushRefused holds what is said where the registry refuses a push, in the words of who refuses: the hint about rights is for who
// lacks one alone, whatever the code.
func TestPushRefused(t *testing.T) {
	t.Parallel()
	const (
		reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
		lacking = "error: you may not push to ns/myapp: that needs the right to update images/layers in the namespace ns (%s)\n" +
			"See: kubectl auth can-i update images.tagger.dev/myapp --subresource=layers --namespace ns\n"
		other = "error: could not push to ns/myapp:latest: %s\n"
	)
	policy := `admission webhook "policy.example.com" denied the request: Bilder müssen signiert sein`
	quota := `images.tagger.dev "myapp" is forbidden: exceeded quota: count, requested: count/images.tagger.dev=1, used: 5, limited: 5`
	tests := []struct {
		name string
		// at is where it is refused: blobs or manifests.
		at      string
		refusal error
		// may is whether the user has the right; absent: nobody says.
		may  *bool
		want string
		said string // absent: what the refusal says
	}{
		{name: "may read only", at: "blobs", refusal: distribution.ErrForbidden, may: ptr.To(false), want: lacking},
		{name: "may not even read", at: "blobs", refusal: distribution.ErrDenied, may: ptr.To(false), want: lacking},
		{name: "not let in", at: "blobs", refusal: distribution.ErrUnauthenticated, may: ptr.To(false), want: lacking},
		{name: "a token for something else", at: "blobs", refusal: distribution.ErrInsufficientScope, may: ptr.To(true), want: other},
		{
			name: "no such namespace", at: "manifests", may: ptr.To(true), want: other,
			refusal: distribution.Explain(distribution.ErrNameUnknown, `namespaces "ns" not found`),
		},
		{
			name: "no mirror", at: "blobs", may: ptr.To(true), want: other,
			refusal: distribution.Explain(distribution.ErrForbidden, "no mirror is configured, so that nothing can be pushed to the namespace ns; configure one"),
		},
		{name: "no place in the store", at: "blobs", refusal: distribution.ErrFull, may: ptr.To(true), want: other},
		{name: "a full disk", at: "blobs", refusal: distribution.ErrNoSpace, want: other},
		{name: "a tag of Tagger's", at: "manifests", refusal: distribution.ErrReserved, may: ptr.To(true), want: other},
		{name: "a ResourceQuota", at: "manifests", refusal: distribution.Explain(distribution.ErrForbidden, "%s", quota), may: ptr.To(true), want: other},
		{name: "a policy", at: "manifests", refusal: distribution.Explain(distribution.ErrForbidden, "%s", policy), may: ptr.To(true), want: other},
		{name: "a policy, and no cluster to ask", at: "manifests", refusal: distribution.Explain(distribution.ErrForbidden, "%s", policy), want: other},
		{name: "an Image cannot be called so", at: "manifests", refusal: distribution.ErrNameInvalid, want: other},
		{name: "a path that nobody serves", at: "blobs", refusal: distribution.ErrEndpointUnknown, may: ptr.To(false), want: other},
		{
			name: "a policy of several lines that paints", at: "manifests", may: ptr.To(true), want: other,
			refusal: distribution.Explain(distribution.ErrForbidden, "%s", "first\n\tsecond\x1b[31m\u202e"), said: "first second?[31m?",
		},
		{
			name: "a policy that does not come to an end", at: "manifests", may: ptr.To(true), want: other,
			refusal: distribution.Explain(distribution.ErrForbidden, "%s", strings.Repeat("ä", 2000)), said: strings.Repeat("ä", 510) + "…",
		},
	}
	folder, _ := newLayout(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port := newPort(t, true)
			port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.Method == http.MethodHead: // nothing is there yet
					w.WriteHeader(http.StatusNotFound)
				case r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/"+tt.at+"/"):
					distribution.Refuse(w, tt.refusal)
				default:
					return false
				}
				return true
			}
			server := published(t, port.host(), port.authority())
			if tt.may != nil {
				server.documents[reviews] = map[string]any{"status": map[string]any{"allowed": *tt.may}}
			}
			said := tt.said
			if said == "" {
				said = tt.refusal.Error()
			}
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "push", "myapp", "--from=oci:"+folder)
			way := "pushing oci:" + folder + " to ns/myapp:latest by way of " + port.host() + "\n"
			if diff := cmp.Diff(result{Stderr: way + fmt.Sprintf(tt.want, said), Code: 1}, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			if tt.want != lacking {
				return
			}
			var asked authorizationv1.SelfSubjectAccessReview
			if err := json.Unmarshal([]byte(server.posted), &asked); err != nil {
				t.Fatal(err)
			}
			right := &authorizationv1.ResourceAttributes{
				Verb: "update", Namespace: "ns", Name: "myapp", Group: "tagger.dev", Resource: "images", Subresource: "layers",
			}
			if diff := cmp.Diff(right, asked.Spec.ResourceAttributes); diff != "" {
				t.Errorf("the right that the cluster was asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPushBeginsAnew holds that an upload that is gone is begun anew, as often as anything is tried.
func TestPushBeginsAnew(t *testing.T) {
	t.Parallel()
	for _, gone := range []int32{1, 1000} {
		t.Run(fmt.Sprintf("%d uploads are gone", gone), func(t *testing.T) {
			t.Parallel()
			folder, _ := newLayout(t)
			port := newPort(t, true)
			var uploads atomic.Int32
			port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/uploads/") || uploads.Add(1) > gone {
					return false
				}
				distribution.Refuse(w, distribution.ErrUploadUnknown)
				return true
			}
			server := published(t, port.host(), port.authority())
			got := server.run(t.Context(), clock.RealClock{}, nil, "push", "myapp", "--from=oci:"+folder)
			tries := strings.Count(got.Stderr, distribution.ErrUploadUnknown.Error()+"; trying again in ")
			switch {
			case gone == 1 && (got.Code != 0 || tries != 1):
				t.Errorf("tried %d times again: %+v", tries, got)
			case gone > 1 && (got.Code != 1 || tries != maxTries-1 ||
				!strings.HasSuffix(got.Stderr, "error: could not push to ns/myapp:latest: "+distribution.ErrUploadUnknown.Error()+"\n")):
				t.Errorf("tried %d times again: %+v", tries, got)
			}
		})
	}
}

// TestProxyRefuses holds that a proxy that makes no connection is told apart from a registry port that fails: another way is taken then.
func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		want   string // the cause; empty where the proxy makes a connection
	}{
		{name: "the proxy connects", status: http.StatusOK},
		{name: "may not", status: http.StatusForbidden, want: "the proxy answers 403 Forbidden"},
		{name: "who is that", status: http.StatusProxyAuthRequired, want: "the proxy answers 407 Proxy Authentication Required"},
		{name: "no such host", status: http.StatusServiceUnavailable, want: "the proxy answers 503 Service Unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodConnect || r.Host != "tagger.tagger.svc:5000" {
					t.Errorf("unexpected request: %s %s", r.Method, r.Host)
				}
				w.WriteHeader(tt.status)
			}))
			defer proxy.Close()
			at, err := url.Parse(proxy.URL)
			if err != nil {
				t.Fatal(err)
			}
			transport := newTransport(x509.NewCertPool(), false, answerTimeout)
			transport.Proxy = http.ProxyURL(at)
			defer transport.CloseIdleConnections()
			err = ping(t.Context(), transport, &url.URL{Scheme: "https", Host: "tagger.tagger.svc:5000", Path: "/v2/"})
			if err == nil || unreachable(err) != (tt.want != "") {
				t.Fatalf("unreachable: %t: %v", unreachable(err), err)
			}
			if got := cause(err).Error(); tt.want != "" && got != tt.want {
				t.Errorf("want %q, got %q", tt.want, got)
			}
		})
	}
}

// TestBusy holds that a registry that has no time at first is asked again, and what comes of one that never has: where there may be
// nothing behind its port, the other way is taken.
func TestBusy(t *testing.T) {
	t.Parallel()
	const way = "pushing oci:LAYOUT to ns/myapp:latest by way of "
	folder, _ := newLayout(t)
	tests := []struct {
		name string
		args []string
		// times is how often the first question is answered so, at the port and through kube-apiserver.
		port, through int32
		code          int
		want          string // on standard error
		fails         bool
	}{
		{name: "a rollout", code: http.StatusServiceUnavailable, port: 2, want: way + "PORT\n"},
		{name: "a rollout behind kube-apiserver", code: http.StatusServiceUnavailable, through: 2, args: []string{"--via=apiserver"}, want: way + "kube-apiserver\n"},
		{
			name: "no backend", code: http.StatusBadGateway, port: 100,
			want: "going through kube-apiserver: PORT is not available: it answers 502 Bad Gateway\n" + way + "kube-apiserver\n",
		},
		{
			name: "no backend, and no other way is wanted", code: http.StatusServiceUnavailable, port: 100, args: []string{"--via=registry"}, fails: true,
			want: "error: PORT is not available: it answers 503 Service Unavailable\nTry again later, or go through kube-apiserver with --via=apiserver\n",
		},
		{
			name: "no backend behind kube-apiserver", code: http.StatusServiceUnavailable, through: 100, args: []string{"--via=apiserver"}, fails: true,
			want: "error: kube-apiserver is not available: it answers 503 Service Unavailable\nTry again later.\n",
		},
		{
			name: "too many requests", code: http.StatusTooManyRequests, port: 100, fails: true,
			want: "error: PORT is busy: it answers 429 Too Many Requests\nTry again later.\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var atPort, through atomic.Int32
			busy := func(w http.ResponseWriter, r *http.Request, asked *atomic.Int32, times int32) bool {
				if r.URL.Path != "/v2/" || asked.Add(1) > times {
					return false
				}
				http.Error(w, "nobody here", tt.code) // as kube-apiserver's aggregator says it
				return true
			}
			port := newPort(t, true)
			port.misbehave = func(w http.ResponseWriter, r *http.Request) bool { return busy(w, r, &atPort, tt.port) }
			server := published(t, port.host(), port.authority())
			server.proxy = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !busy(w, r, &through, tt.through) {
					port.handler.ServeHTTP(w, r)
				}
			})
			args := append([]string{"push", "myapp", "--from=oci:" + folder, "-o", "name"}, tt.args...)
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, args...)
			want := result{Stdout: "image.tagger.dev/myapp\n", Stderr: strings.NewReplacer("PORT", port.host(), "LAYOUT", folder).Replace(tt.want)}
			if tt.fails {
				want.Stdout, want.Code = "", 1
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("unexpected result (-want +got):\n%s", diff)
			}
			if asked := atPort.Load(); tt.port > maxRepeats && asked != maxRepeats+1 {
				t.Errorf("the port was asked %d times", asked)
			}
		})
	}
}

// TestRepetition holds what is repeated, and after how long.
func TestRepetition(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		attempt int
		code    int    // of the answer
		after   string // its Retry-After
		err     error
		want    time.Duration // 0: soon; negative: never
	}{
		{name: "done", code: http.StatusOK, after: "1", want: -1},
		{name: "refused", code: http.StatusForbidden, after: "1", want: -1},
		{name: "no time", code: http.StatusServiceUnavailable},
		{name: "no time until", code: http.StatusServiceUnavailable, after: "7", want: 7 * time.Second},
		{name: "too many", code: http.StatusTooManyRequests, after: "8", want: 8 * time.Second},
		{name: "no time for a week", code: http.StatusServiceUnavailable, after: "604800", want: maxPause},
		{name: "a date", code: http.StatusServiceUnavailable, after: "Fri, 27 Nov 2026 12:00:00 GMT"},
		{name: "often enough", attempt: maxRepeats, code: http.StatusServiceUnavailable, after: "1", want: -1},
		{name: "Kubernetes has no time until", err: apierrors.NewTooManyRequests("busy", 9), want: 9 * time.Second},
		{name: "Kubernetes refuses", err: apierrors.NewBadRequest("no"), want: -1},
		{name: "no connection", err: &net.OpError{Op: "dial", Err: errors.New("refused")}, want: -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := repetition{}.Retry(tt.attempt, &http.Response{StatusCode: tt.code, Header: http.Header{"Retry-After": {tt.after}}}, tt.err)
			switch {
			case err != nil:
				t.Error(err)
			case tt.want == 0 && (got <= 0 || got > time.Second), tt.want != 0 && got != tt.want:
				t.Errorf("want %s, got %s", tt.want, got)
			}
		})
	}
}

// TestSilence holds that a registry port that takes requests and does not answer is given up, at first and later.
func TestSilence(t *testing.T) {
	t.Parallel()
	ask := func(host string, authority []byte, within time.Duration) error {
		token := &v1beta1.RegistryToken{}
		token.Status.Token, token.Status.ExpirationTimestamp = goodToken, metav1.NewTime(now.Add(time.Hour))
		token.Status.Registry = v1beta1.RegistryEndpoint{Host: host, CABundle: authority}
		routes := &routes{clock: testingclock.NewFakeClock(now), say: func(string) {}, answerTimeout: within}
		name := remoteName{namespace: "ns", name: "myapp", tag: "latest"}
		route, err := routes.direct(t.Context(), name, host, token)
		if err == nil {
			_, err = route.Resolve(t.Context(), "latest")
			err = transferError(t.Context(), nil, name, toPull, err)
		}
		return err
	}
	t.Run("at first", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0") // whose connections the kernel accepts
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		host := listener.Addr().String()
		if err := ask(host, nil, time.Second/5); err == nil || err.Error() != host+" does not answer" {
			t.Errorf("unexpected error %v", err)
		}
	})
	t.Run("later", func(t *testing.T) {
		t.Parallel()
		port := newPort(t, true)
		port.misbehave = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			<-r.Context().Done()
			return true
		}
		if err := ask(port.host(), port.authority(), 3*time.Second); err == nil || err.Error() != "could not pull ns/myapp:latest: "+port.host()+" does not answer" {
			t.Errorf("unexpected error %v", err)
		}
	})
}

// TestPushInsecure holds that what is insecure is done when it is asked for, and said.
func TestPushInsecure(t *testing.T) {
	t.Parallel()
	folder, digest := newLayout(t)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			t.Parallel()
			port := newPort(t, secure)
			server := published(t, port.host(), nil)
			got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "push", port.host()+"/ns/myapp", "--from=oci:"+folder, "--insecure", "-o", "reference")
			if want := port.host() + "/ns/myapp@" + digest + "\n"; got.Code != 0 || got.Stdout != want {
				t.Errorf("want %s, got %+v", want, got)
			}
			if !strings.HasPrefix(got.Stderr, "warning: the certificate of "+port.host()+" is not verified") {
				t.Errorf("nothing is said of it: %s", got.Stderr)
			}
		})
	}
}

// TestTokenStaysAtItsHost holds that a redirect takes no token along.
func TestTokenStaysAtItsHost(t *testing.T) {
	t.Parallel()
	port, other := newPort(t, true), newPort(t, true)
	port.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}
	// httptest's servers have one certificate: that of the other one verifies.
	server := published(t, port.host(), port.authority())
	folder := t.TempDir()
	got := server.run(t.Context(), testingclock.NewFakeClock(now), nil, "pull", "myapp", "--to=oci:"+folder)
	if got.Code != 1 || len(other.requests) == 0 {
		t.Fatalf("unexpected result, and %d requests at the other host: %+v", len(other.requests), got)
	}
	if slices.Contains(other.tokens, goodToken) {
		t.Error("the token was sent to another host")
	}
}

func diffIDs(t *testing.T, image v1.Image) []v1.Hash {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config.RootFS.DiffIDs
}
