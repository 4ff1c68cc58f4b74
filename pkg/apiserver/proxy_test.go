// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/limit"
)

// tagged is a backend whose repositories have tags and nothing else. Its methods that are not there are not called.
type tagged struct {
	distribution.Backend
	// wait is called before an answer.
	wait func()
}

func (b tagged) Tags(_ context.Context, repo distribution.Repository) ([]string, error) {
	if b.wait != nil {
		b.wait()
	}
	return []string{"of-" + repo.Namespace + "-" + repo.Name, "other"}, nil
}

func (tagged) Blob(context.Context, distribution.Repository, digest.Digest) (distribution.Content, error) {
	return endless{}, nil
}

func (tagged) StartUpload(context.Context, distribution.Repository, digest.Algorithm) (distribution.Upload, error) {
	return upload{}, nil
}

// upload takes whatever comes.
type upload struct{ distribution.Upload }

func (upload) Commit(_ context.Context, r io.Reader, _ int64, _ digest.Digest) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
func (upload) Cancel(context.Context) error { return nil }
func (upload) Close() error                 { return nil }

// endless is content without an end that anybody reaches.
type endless struct{}

func (endless) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (endless) Close() error                          { return nil }
func (endless) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(""), Size: 1 << 40}
}

// layersOf lets alice do everything with images/layers of app and base in namespace a, and nothing else.
var layersOf = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch {
	case a.GetUser().GetName() == "down":
		return authorizer.DecisionNoOpinion, "", errors.New("kube-apiserver is down")
	case a.GetUser().GetName() == "alice" && a.GetSubresource() == "layers" && a.GetNamespace() == "a" && (a.GetName() == "app" || a.GetName() == "base"),
		a.GetUser().GetName() == "admin":
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
})

// serveProxy serves as the generic server does, which knows who the user is: here by the header User.
func serveProxy(t *testing.T, p *proxy, http2 bool) *httptest.Server {
	t.Helper()
	infos := &request.RequestInfoFactory{APIPrefixes: sets.NewString("apis"), GrouplessAPIPrefixes: sets.NewString()}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := infos.NewRequestInfo(r)
		if err != nil {
			t.Error(err)
		}
		ctx := request.WithUser(request.WithRequestInfo(r.Context(), info), &user.DefaultInfo{Name: r.Header.Get("User")})
		p.ServeHTTP(w, r.WithContext(ctx))
	}))
	server.EnableHTTP2 = http2
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func proxyRequest(t *testing.T, server *httptest.Server, user, path string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User", user)
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// TestProxy asks for the endpoint of one image, for others there, and as somebody who may not.
func TestProxy(t *testing.T) {
	t.Parallel()
	const prefix = "/apis/tagger.dev/v1beta1/namespaces/a/images/app/proxy"
	type answer struct {
		Status           int
		Tags, Code, Link string
	}
	unknown := answer{Status: http.StatusNotFound, Code: "NAME_UNKNOWN"}
	none := answer{Status: http.StatusNotFound, Code: "UNSUPPORTED"}
	tests := []struct {
		name string
		user string // alice when empty
		path string
		want answer
	}{
		{name: "ping", path: prefix + "/v2/", want: answer{Status: http.StatusOK}},
		{name: "tags", path: prefix + "/v2/a/app/tags/list", want: answer{Status: http.StatusOK, Tags: "of-a-app other"}},
		{name: "a page of tags", path: prefix + "/v2/a/app/tags/list?n=1", want: answer{Status: http.StatusOK, Tags: "of-a-app",
			Link: `<./list?last=of-a-app&n=1>; rel="next"`}},
		{name: "escaped", path: prefix + "/v2%2Fa/app/tags/list", want: answer{Status: http.StatusOK, Tags: "of-a-app other"}},
		{name: "another image that alice may pull", path: prefix + "/v2/a/base/tags/list", want: unknown},
		{name: "another image that begins the same", path: prefix + "/v2/a/app2/tags/list", want: unknown},
		{name: "another namespace", path: prefix + "/v2/b/app/tags/list", want: unknown},
		{name: "another image by dots", path: prefix + "/v2/a/app/../base/tags/list", want: answer{Status: http.StatusBadRequest, Code: "NAME_INVALID"}},
		{name: "a name that no image has", path: "/apis/tagger.dev/v1beta1/namespaces/a/images/App/proxy/v2/a/App/tags/list", want: answer{Status: http.StatusBadRequest, Code: "NAME_INVALID"}},
		{name: "nothing", path: prefix, want: none},
		{name: "a slash", path: prefix + "/", want: none},
		{name: "v2 without a slash", path: prefix + "/v2", want: none},
		{name: "v3", path: prefix + "/v3/a/app/tags/list", want: none},
		{name: "another slash", path: prefix + "//v2/", want: none},
		{name: "the ping of somebody who may do nothing", user: "bob", path: prefix + "/v2/", want: answer{Status: http.StatusOK}},
		{name: "denied", user: "bob", path: prefix + "/v2/a/app/tags/list", want: unknown},
		{name: "nobody knows", user: "down", path: prefix + "/v2/a/app/tags/list", want: answer{Status: http.StatusServiceUnavailable, Code: "UNKNOWN"}},
	}
	server := serveProxy(t, newProxy(tagged{}, layersOf, distribution.Options{}), true)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			caller := tt.user
			if caller == "" {
				caller = "alice"
			}
			response := proxyRequest(t, server, caller, tt.path)
			defer response.Body.Close()
			var body struct {
				Tags   []string `json:"tags"`
				Errors []struct {
					Code string `json:"code"`
				} `json:"errors"`
			}
			if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			got := answer{Status: response.StatusCode, Tags: strings.Join(body.Tags, " "), Link: response.Header.Get("Link")}
			if len(body.Errors) > 0 {
				got.Code = body.Errors[0].Code
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := response.Header.Get("Content-Security-Policy"); !strings.Contains(got, "sandbox") {
				t.Errorf("a browser may run what it gets: %q", got)
			}
		})
	}
}

// TestProxyAuthorizer asks as the endpoint does when a push mounts a blob of another repository.
func TestProxyAuthorizer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		user   string
		repo   distribution.Repository
		action distribution.Action
		want   error
	}{
		{name: "a push", user: "alice", repo: distribution.Repository{Namespace: "a", Name: "app"}, action: distribution.ActionPush},
		{name: "a mount", user: "alice", repo: distribution.Repository{Namespace: "a", Name: "base"}, action: distribution.ActionPull},
		{name: "a mount of what alice may not read", user: "alice", repo: distribution.Repository{Namespace: "a", Name: "hidden"}, action: distribution.ActionPull, want: distribution.ErrDenied},
		{name: "a mount of another namespace by who may read it", user: "admin", repo: distribution.Repository{Namespace: "b", Name: "app"}, action: distribution.ActionPull, want: distribution.ErrDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: tt.user})
			ctx = request.WithRequestInfo(ctx, &request.RequestInfo{Namespace: "a", Name: "app"})
			if _, err := (&proxyAuthorizer{layersOf}).Authorize(ctx, distribution.Credentials{Token: "ignored"}, tt.repo, tt.action); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// TestProxyLimits fills the places of a user, of a namespace and of all, one after the other.
func TestProxyLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                    string
		user, namespace, total  int
		sameUser, sameNamespace int // what one more request of the same is answered, and one of another user
		otherNamespace          int // and one of another user in another namespace
	}{
		{name: "user", user: 1, namespace: 9, total: 9, sameUser: 429, sameNamespace: 200, otherNamespace: 200},
		{name: "namespace", user: 9, namespace: 1, total: 9, sameUser: 429, sameNamespace: 429, otherNamespace: 200},
		{name: "total", user: 9, namespace: 9, total: 1, sameUser: 429, sameNamespace: 429, otherNamespace: 429},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			entered, free := make(chan struct{}, 9), make(chan struct{})
			waits := make(chan struct{}, 1)
			waits <- struct{}{}
			p := newProxy(tagged{wait: func() {
				select {
				case <-waits: // the first
					entered <- struct{}{}
					<-free
				default:
				}
			}}, authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
				return authorizer.DecisionAllow, "", nil
			}), distribution.Options{})
			p.users, p.namespaces, p.total = limit.NewKeyed(tt.user), limit.NewKeyed(tt.namespace), limit.NewKeyed(tt.total)
			server := serveProxy(t, p, true)
			ask := func(user, namespace string) (status int, retryAfter string) {
				response := proxyRequest(t, server, user, "/apis/tagger.dev/v1beta1/namespaces/"+namespace+"/images/app/proxy/v2/"+namespace+"/app/tags/list")
				defer response.Body.Close()
				return response.StatusCode, response.Header.Get("Retry-After")
			}
			first := make(chan int)
			go func() {
				status, _ := ask("alice", "a")
				first <- status
			}()
			<-entered
			for _, other := range []struct {
				user, namespace string
				want            int
			}{{"alice", "a", tt.sameUser}, {"ann", "a", tt.sameNamespace}, {"bob", "b", tt.otherNamespace}} {
				status, retryAfter := ask(other.user, other.namespace)
				if status != other.want || (other.want == http.StatusTooManyRequests) != (retryAfter != "") {
					t.Errorf("%s in %s: status %d, want %d; Retry-After %q", other.user, other.namespace, status, other.want, retryAfter)
				}
			}
			close(free)
			if status := <-first; status != http.StatusOK {
				t.Errorf("the first: status %d", status)
			}
			if status, _ := ask("alice", "a"); status != http.StatusOK {
				t.Errorf("after the first: status %d", status)
			}
			if !p.users.Idle() || !p.namespaces.Idle() || !p.total.Idle() {
				t.Error("places are taken that nobody has")
			}
		})
	}
}

// TestProxyStalls has clients stop to send or to take, and sees their places come free.
func TestProxyStalls(t *testing.T) {
	t.Parallel()
	const stall = 100 * time.Millisecond
	dgst := digest.FromString("").String()
	for _, http2 := range []bool{false, true} {
		for _, tt := range []struct {
			name, method, path string
			body               bool
		}{
			{name: "takes nothing", method: http.MethodGet, path: "/blobs/" + dgst},
			{name: "sends nothing", method: http.MethodPost, path: "/blobs/uploads/?digest=" + dgst, body: true},
		} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", tt.name, http2), func(t *testing.T) {
				t.Parallel()
				p := newProxy(tagged{}, layersOf, distribution.Options{StallTimeout: stall, TakeTimeout: stall})
				endpoint, ended := p.endpoint, make(chan struct{})
				p.endpoint = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(ended)
					endpoint.ServeHTTP(w, r)
				})
				server := serveProxy(t, p, http2)
				body, hold := io.Pipe()
				defer hold.Close()
				request, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+"/apis/tagger.dev/v1beta1/namespaces/a/images/app/proxy/v2/a/app"+tt.path, body)
				if err != nil {
					t.Fatal(err)
				}
				if !tt.body {
					request.Body = http.NoBody
				}
				request.Header.Set("User", "alice")
				response, err := server.Client().Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				if want := map[bool]int{false: http.StatusOK, true: http.StatusBadRequest}[tt.body]; response.StatusCode != want {
					t.Errorf("status %d, want %d", response.StatusCode, want)
				}
				<-ended // what was written nobody reads
			})
		}
	}
}

// TestProxyDrain has the server stop while a request is under way.
func TestProxyDrain(t *testing.T) {
	t.Parallel()
	entered, free := make(chan struct{}), make(chan struct{})
	p := newProxy(tagged{wait: func() { close(entered); <-free }}, layersOf, distribution.Options{})
	server := serveProxy(t, p, true)
	const path = "/apis/tagger.dev/v1beta1/namespaces/a/images/app/proxy/v2/a/app/tags/list"
	first := make(chan int)
	go func() {
		response := proxyRequest(t, server, "alice", path)
		defer response.Body.Close()
		first <- response.StatusCode
	}()
	<-entered
	drained := make(chan struct{})
	go func() { defer close(drained); p.drain() }()
	for {
		response := proxyRequest(t, server, "bob", path) // who is refused either way
		_ = response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			break
		}
	}
	select {
	case <-drained:
		t.Error("drained before the end of what is under way")
	default:
	}
	close(free)
	if status := <-first; status != http.StatusOK {
		t.Errorf("what was under way: status %d", status)
	}
	<-drained
}

// TestLongRunning holds which requests no timeout ends.
func TestLongRunning(t *testing.T) {
	t.Parallel()
	const images = "/apis/tagger.dev/v1beta1/namespaces/a/images"
	infos := &request.RequestInfoFactory{APIPrefixes: sets.NewString("apis"), GrouplessAPIPrefixes: sets.NewString()}
	for _, tt := range []struct {
		name, method, path string
		want               bool
	}{
		{"a pull", http.MethodGet, images + "/app/proxy/v2/a/app/blobs/sha256:0", true},
		{"a push", http.MethodPatch, images + "/app/proxy/v2/a/app/blobs/uploads/1", true},
		{"a watch", http.MethodGet, images + "?watch=true", true},
		{"a list", http.MethodGet, images, false},
		{"an import", http.MethodPost, images + "/app/import", false},
		{"an Image by that name", http.MethodGet, images + "/proxy", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(tt.method, tt.path, nil)
			info, err := infos.NewRequestInfo(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := longRunning(r, info); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
