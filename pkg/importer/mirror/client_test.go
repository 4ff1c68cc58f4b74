// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/test/lab"
)

// basic lets one user through.
func basic(user, password string) lab.Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if name, given, _ := r.BasicAuth(); name != user || given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			lab.Answering(401, "", "SECRET")(w, r, registry)
			return
		}
		registry.ServeHTTP(w, r)
	}
}

// bearer lets those through who have a token of /token for what they do. Who gets
// one is for grant to say. Each token is good for so many uses.
type bearer struct {
	grant func(r *http.Request) bool
	uses  int
	// refusal is the status for who gets none. Default 401.
	refusal int
	// static is a token that is always good, where there is one.
	static string

	mu     sync.Mutex
	issued map[string]int // token → uses left
	scopes []string
}

func (b *bearer) answer(w http.ResponseWriter, r *http.Request, registry http.Handler) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.issued == nil {
		b.issued = map[string]int{}
	}
	if b.refusal == 0 {
		b.refusal = http.StatusUnauthorized
	}
	if r.URL.Path == "/token" {
		_ = r.ParseForm()
		if !b.grant(r) {
			lab.Answering(b.refusal, "", "SECRET")(w, r, registry)
			return
		}
		token := fmt.Sprint("token-", len(b.issued))
		b.issued[token] = b.uses
		b.scopes = append(b.scopes, strings.Join(r.Form["scope"], " "))
		fmt.Fprintf(w, `{"token":%q,"access_token":%[1]q}`, token)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if b.issued[token] == 0 && (b.static == "" || token != b.static) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/token",service="mirror"`)
		lab.Answering(401, "", "SECRET")(w, r, registry)
		return
	}
	b.issued[token]--
	registry.ServeHTTP(w, r)
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	password := func(r *http.Request) bool {
		user, given, _ := r.BasicAuth()
		return user == "admin" && given == "p4ss"
	}
	refresh := func(r *http.Request) bool { return r.Form.Get("refresh_token") == "t0ken" }
	nobody := func(*http.Request) bool { return false }
	admin := Config{Username: "admin", Password: "p4ss"}
	wrong := Config{Username: "admin", Password: "SECRET"}
	tests := []struct {
		name   string
		fault  lab.Fault
		config Config
		want   importer.Kind
	}{
		{name: "Basic", fault: basic("admin", "p4ss"), config: admin},
		{name: "Basic, beside what we do not speak", fault: func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Add("WWW-Authenticate", "Negotiate")
			}
			w.Header().Add("WWW-Authenticate", `Basic realm="registry"`)
			if name, given, _ := r.BasicAuth(); name != "admin" || given != "p4ss" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			registry.ServeHTTP(w, r)
		}, config: admin},
		{name: "Basic, also with a token", fault: basic("admin", "p4ss"), config: Config{Username: "admin", Password: "p4ss", Token: "t0ken"}},
		{name: "Basic refused", fault: basic("admin", "p4ss"), config: wrong, want: importer.MirrorUnauthorized},
		{name: "none where some are wanted", fault: basic("admin", "p4ss"), want: importer.MirrorUnauthorized},
		{name: "Bearer", fault: (&bearer{grant: password, uses: 100}).answer, config: admin},
		{name: "Bearer refused", fault: (&bearer{grant: password, uses: 100}).answer, config: wrong, want: importer.MirrorUnauthorized},
		{name: "tokens that end at once, before a blob for one", fault: (&bearer{grant: password, uses: 1}).answer, config: admin},
		{name: "identity token", fault: (&bearer{grant: refresh, uses: 100}).answer, config: Config{Token: "t0ken"}},
		{name: "token that is sent as it is", fault: (&bearer{grant: nobody, static: "t0ken"}).answer, config: Config{Token: "t0ken"}},
		{name: "token that is sent as it is, and no refresh token", fault: (&bearer{grant: nobody, refusal: 400, static: "t0ken"}).answer, config: Config{Token: "t0ken"}},
		{name: "token that is sent as it is, where they are not asked for so", fault: (&bearer{grant: nobody, refusal: 405, static: "t0ken"}).answer, config: Config{Token: "t0ken"}},
		{name: "token that is sent as it is, with a user name", fault: (&bearer{grant: nobody, static: "t0ken"}).answer, config: Config{Username: "admin", Token: "t0ken"}},
		{name: "a token that is not valid", fault: (&bearer{grant: nobody, refusal: 400}).answer, config: Config{Token: "SECRET"}, want: importer.MirrorUnauthorized},
		{name: "a token service that fails", fault: (&bearer{grant: nobody, refusal: 500, static: "t0ken"}).answer, config: Config{Token: "t0ken"}, want: importer.MirrorUnavailable},
		{name: "a token that is no good, and a password", fault: (&bearer{grant: password, uses: 100}).answer,
			config: Config{Username: "admin", Password: "p4ss", Token: "SECRET"}},
		{name: "nothing is good", fault: (&bearer{grant: nobody}).answer, config: Config{Username: "admin", Password: "SECRET", Token: "SECRET"}, want: importer.MirrorUnauthorized},
		{name: "no token service", fault: lab.WithHeader("WWW-Authenticate", `Bearer realm=""`, lab.Answering(401, "", "SECRET")), config: wrong, want: importer.MirrorUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, lab.TrustedTLS)
			dst.Misbehave(tt.fault)
			tt.config.Name = "the Secret ns/s"
			mirror := newRegistry(t, dst, func(c *Config, _ *Options) { tt.config.Host = c.Host; *c = tt.config })
			mirror.wire.direct.ExpectContinueTimeout = time.Minute // machines that test are often busy
			app := repository(t, mirror, "ns/app")
			content := bytes.Repeat([]byte("x"), 1<<20)
			err := app.Push(t.Context(), describe("x/y", content), bytes.NewReader(content))
			if tt.want != "" {
				wantFailure(t, err, tt.want, "the Secret ns/s")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := app.Complete(t.Context(), digest.FromString("x")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTokens: one token does for a repository, and another is had for a mount.
func TestTokens(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	service := &bearer{grant: func(*http.Request) bool { return true }, uses: 100}
	dst.Misbehave(service.answer)
	mirror := newRegistry(t, dst)
	app := repository(t, mirror, "ns/app")
	d := push(t, app, "a")
	push(t, app, "b")
	if _, err := repository(t, mirror, "ns/two").Mount(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	want := []string{"repository:ns/app:pull,push", "repository:ns/app:pull repository:ns/two:pull,push", "repository:ns/two:pull,push"}
	if diff := cmp.Diff(want, service.scopes); diff != "" {
		t.Errorf("scopes of tokens (-want +got):\n%s", diff)
	}
}

func TestTransport(t *testing.T) {
	t.Parallel()
	authority, err := lab.Authority()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		transport lab.Transport
		change    func(*Config, *Options)
		want      importer.Kind
		text      string
	}{
		{name: "verified by the server's own authorities"},
		{name: "verified by the key ca", change: func(c *Config, o *Options) { c.CA, o.RootCAs = string(authority), nil }},
		{name: "not verified", transport: lab.UnknownCA, want: importer.MirrorUnavailable, text: "signed by an unknown authority"},
		{name: "not verified, and insecure", transport: lab.UnknownCA, change: func(c *Config, _ *Options) { c.Insecure = true }},
		{name: "plain HTTP", transport: lab.PlainHTTP, want: importer.MirrorUnavailable, text: "does not speak TLS"},
		{name: "plain HTTP, and insecure", transport: lab.PlainHTTP, change: func(c *Config, _ *Options) { c.Insecure = true }},
		{name: "at loopback by an administrator", change: func(_ *Config, o *Options) { o.Guard = importer.Guard{} }},
		{name: "at loopback by a tenant", change: func(c *Config, _ *Options) { c.Guarded = true }, want: importer.Blocked, text: "loopback"},
		{name: "at loopback by a tenant, where that is allowed", change: func(c *Config, o *Options) { c.Guarded, o.Guard = true, importer.Guard{AllowLoopback: true} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, tt.transport)
			keep(t, dst)
			app := repository(t, newRegistry(t, dst, func(c *Config, o *Options) {
				if tt.change != nil {
					tt.change(c, o)
				}
			}), "ns/app")
			d, raw := blob("content")
			held, err := app.Mount(t.Context(), d)
			if tt.want != "" {
				wantFailure(t, err, tt.want, tt.text)
				return
			}
			if err != nil || held {
				t.Fatal(held, err)
			}
			if err := app.Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
				t.Fatal(err)
			}
			if held, err := app.Mount(t.Context(), d); err != nil || !held {
				t.Errorf("held: %t, %v", held, err)
			}
		})
	}
}

// TestProxy: a guarded mirror is looked at by name before a proxy connects.
func TestProxy(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	keep(t, dst)
	proxy := lab.Proxy(t, dst.Host)
	through := func(guarded bool, host string) error {
		mirror := newRegistry(t, dst, func(c *Config, o *Options) {
			c.Host, c.Guarded = host, guarded
			o.Proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
		})
		_, err := repository(t, mirror, "ns/app").Complete(t.Context(), digest.FromString("x"))
		return err
	}
	for _, guarded := range []bool{false, true} {
		if err := through(guarded, lab.Domain); err != nil {
			t.Error(err)
		}
	}
	if err := through(false, "127.0.0.1:1"); err != nil {
		t.Error(err)
	}
	wantFailure(t, through(true, "127.0.0.1:1"), importer.Blocked, "loopback")
}

// TestLocation: an upload goes on where the registry says; credentials go along to
// the same host alone.
func TestLocation(t *testing.T) {
	t.Parallel()
	dst, elsewhere := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	var mu sync.Mutex
	sent := ""
	elsewhere.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		mu.Lock()
		sent = "elsewhere " + r.Header.Get("Authorization")
		mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	})
	_, port, _ := net.SplitHostPort(dst.Host)
	tests := []struct {
		name, location string
		guarded        bool
		want           string
		kind           importer.Kind
	}{
		{name: "a path", location: "/v2/ns/app/blobs/uploads/1?state=a%2Fb%3D", want: "here Basic YTpi"},
		{name: "a URL", location: "https://" + dst.Host + "/v2/ns/app/blobs/uploads/1?state=a%2Fb%3D", want: "here Basic YTpi"},
		{name: "a URL with the scheme behind a proxy", location: "http://" + dst.Host + "/v2/ns/app/blobs/uploads/1?state=a%2Fb%3D", want: "here Basic YTpi"},
		{name: "another host", location: "https://" + elsewhere.Host + "/v2/ns/app/blobs/uploads/1?state=a%2Fb%3D", want: "elsewhere "},
		{name: "another host, of a mirror that a tenant chose", guarded: true, kind: importer.MirrorUnavailable,
			location: "https://" + elsewhere.Host + "/v2/ns/app/blobs/uploads/1?state=a%2Fb%3D"},
		{name: "the same host, of a mirror that a tenant chose", guarded: true, want: "here Basic YTpi",
			location: "https://" + dst.Host + "/v2/ns/app/blobs/uploads/1?state=a%2Fb%3D"},
		{name: "plain HTTP elsewhere", location: "http://localhost:" + port + "/upload", kind: importer.MirrorUnavailable},
		{name: "no URL", location: "https://SECRET%zz", kind: importer.MirrorUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
				basic("a", "b")(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost {
						w.Header().Set("Location", tt.location)
						w.WriteHeader(http.StatusAccepted)
						return
					}
					if got := r.URL.Query(); got.Get("state") != "a/b=" || got.Get("digest") == "" {
						t.Errorf("the upload goes on with %v", got)
					}
					mu.Lock()
					sent = "here " + r.Header.Get("Authorization")
					mu.Unlock()
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(http.StatusCreated)
				}))
			})
			sent = ""
			mirror := newRegistry(t, dst, func(c *Config, o *Options) {
				c.Username, c.Password, c.Guarded, o.Guard.AllowLoopback = "a", "b", tt.guarded, true
			})
			mirror.mounts.Store(mountsNo)
			d, raw := blob("content")
			err := repository(t, mirror, "ns/app").Push(t.Context(), d, bytes.NewReader(raw))
			if tt.kind != "" {
				wantFailure(t, err, tt.kind)
				if tt.guarded && sent != "" {
					t.Errorf("it was sent: %q", sent)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || sent != tt.want {
				t.Errorf("got %q, %v; want %q", sent, err, tt.want)
			}
		})
	}
}

// TestTimeouts: a registry that does nothing is not waited for.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	const soon = 200 * time.Millisecond
	over := make(chan struct{})
	content := bytes.Repeat([]byte("x"), 64<<20) // more than lies in buffers on the way
	tests := []struct {
		name    string
		fault   lab.Fault
		options Options
	}{
		{name: "it answers nothing", fault: lab.HangingAfter(-1), options: Options{DocumentTimeout: soon}},
		{name: "its token service answers nothing, amid a push", options: Options{DocumentTimeout: soon}, fault: func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
			switch {
			case r.URL.Path == "/token":
				<-r.Context().Done()
			case r.Method == http.MethodPut:
				w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			default:
				registry.ServeHTTP(w, r)
			}
		}},
		{name: "its answer does not end", options: Options{DocumentTimeout: soon}, fault: lab.When(func(r *http.Request) bool { return r.Method == http.MethodPut },
			func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})},
		{name: "it takes nothing", options: Options{StallTimeout: soon}, fault: lab.When(func(r *http.Request) bool { return r.Method == http.MethodPut },
			func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
				_, _ = io.ReadFull(r.Body, make([]byte, 1))
				<-over // who does not read does not see that a client has gone
			})},
		{name: "it does not finish", options: Options{StoreTimeout: soon}, fault: lab.When(func(r *http.Request) bool { return r.Method == http.MethodPut },
			func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, lab.TrustedTLS)
			dst.Misbehave(tt.fault)
			mirror := newRegistry(t, dst, func(_ *Config, o *Options) {
				tt.options.RootCAs = o.RootCAs
				*o = tt.options
			})
			if tt.options.StallTimeout > 0 {
				defer close(over)
			}
			mirror.wire.direct.ExpectContinueTimeout = time.Minute // machines that test are often busy
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := repository(t, mirror, "ns/app").Push(ctx, describe("x/y", content), bytes.NewReader(content))
			wantFailure(t, err, importer.MirrorUnavailable)
		})
	}
}
