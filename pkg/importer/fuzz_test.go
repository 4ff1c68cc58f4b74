// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// wantLine holds what is true of the text of every error: it goes into statuses,
// logs and terminals.
func wantLine(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("%q is not one line of text", text)
	}
}

// FuzzParseReference: what is taken for a reference is in canonical form, leads
// to where it says, and reads as the same reference again.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{
		"nginx", "quay.io/team/app:v1", "localhost/app", "LOCALHOST:5000/a/b/c", "index.docker.io/nginx", "docker.io:443/nginx",
		"[::1]:5000/app@sha256:" + strings.Repeat("0", 64), "[0:0::1]/app", "app:tag@sha512:" + strings.Repeat("a", 128),
		"user:password@host/app", "https://quay.io/app", "a.b./c", "xn--bcher-kva.example/app", "127.1:80/a", "h:00080/app", "..", "a//b", "a/../b",
		"quay.io./a/b:v1@" + sha256Zeros, "me:secret@h.io/a", "https://h.io/a", "a:b@c", "H.io:080/a", strings.Repeat("a", 256),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Kind != Invalid {
				t.Errorf("%q: %v, want an error of Kind Invalid", s, err)
			}
			wantLine(t, err.Error())
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q reads as %v, and that as %v, %v", s, r, again, err)
		}
		if len(r.host)+1+len(r.repository) > maxName || strings.ContainsAny(r.String(), " \t\r\n?#%\\") {
			t.Errorf("%q became %q", s, r)
		}
		if host, err := CanonicalHost(r.Host()); err != nil || host != r.Host() {
			t.Errorf("the host of %v becomes %q, %v", r, host, err)
		}
		address := "https://" + r.Endpoint() + "/v2/" + r.Repository() + "/manifests/" + r.object()
		u, err := url.Parse(address)
		if err != nil || u.Host != r.Endpoint() || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			u.Path != strings.TrimPrefix(address, "https://"+r.Endpoint()) || u.JoinPath().Path != u.Path {
			t.Errorf("%v leads to %v, %v", r, u, err)
		}
	})
}

// FuzzParseManifest: what is taken for a manifest can be copied, and cannot be
// taken for something else as well.
func FuzzParseManifest(f *testing.F) {
	d := `{"mediaType":"application/x","digest":"` + sha256Zeros + `","size":7}`
	image, index := []byte(`{"schemaVersion":2,"config":`+d+`,"layers":[`+d+`]}`), []byte(`{"schemaVersion":2,"manifests":[`+d+`]}`)
	for _, served := range append(slices.Clone(acceptedTypes), "", "application/json; charset=utf-8", "text/html", dockerSchema1) {
		f.Add(served, image)
		f.Add(served, index)
	}
	f.Add("application/json", []byte(`{"schemaVersion":1}`))
	f.Add("text/html", []byte(`<html>`))
	f.Fuzz(func(t *testing.T, served string, raw []byte) {
		m, err := parseManifest(raw, served, digest.FromBytes(raw))
		if err != nil {
			if KindOf(err) != UnsupportedManifest {
				t.Errorf("%v, want an error of Kind UnsupportedManifest", err)
			}
			wantLine(t, err.Error())
			return
		}
		if !bytes.Equal(m.raw, raw) || m.self.Digest != digest.FromBytes(raw) || m.self.Size != int64(len(raw)) || !slices.Contains(acceptedTypes, m.self.MediaType) {
			t.Errorf("%+v is not what was read", m.self)
		}
		for _, d := range append(slices.Clone(m.blobs), m.children...) {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%+v cannot be fetched", d)
			}
			inlined(d)
		}
		if m.config != nil && len(m.children) > 0 {
			t.Error("an image with children")
		}
		if (m.config == nil) != (m.self.MediaType == ocispec.MediaTypeImageIndex || m.self.MediaType == dockerList) {
			t.Errorf("%s with the config %v", m.self.MediaType, m.config)
		}
		for _, name := range platforms(m.children) {
			wantLine(t, name)
		}
		if size := totalSize(distinct(m.blobs)); size < 0 {
			t.Errorf("the size is %d", size)
		}
		asIndex, _ := parseManifest(raw, ocispec.MediaTypeImageIndex, m.self.Digest)
		asImage, _ := parseManifest(raw, ocispec.MediaTypeImageManifest, m.self.Digest)
		if asIndex != nil && asImage != nil {
			t.Error("it is an index for those who take it for one, and an image for others")
		}
	})
}

// FuzzChallenge: whatever a registry on loopback wants, nobody else gets its
// credentials, and the import fails in words of ours. The registry speaks plain
// HTTP, where nothing but our own guard keeps a realm from doing so too.
func FuzzChallenge(f *testing.F) {
	for _, challenge := range []string{
		`Basic realm="x"`, `Bearer realm="https://auth.example/token",service="s",scope="repository:app:pull"`, `bearer realm=http://169.254.169.254/`,
		`Bearer realm="/token"`, `Bearer realm="http://user:password@auth.example/"`, "Negotiate\nBearer realm=\"https://auth.example\"\nBasic realm=x",
		`Bearer`, `Bearer realm=`, `Bearer realm="\`, `Bearer scope="a b c" ,, realm="ftp://x"`, "", "\x00", `Bearer realm="https://[::1"`,
	} {
		f.Add(challenge)
	}
	var challenges []string // of the call under way: calls of one process follow one another
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v2/") {
			io.WriteString(w, `{"token":"t"}`)
			return
		}
		w.Header()["Www-Authenticate"] = slices.Clone(challenges)
		w.WriteHeader(http.StatusUnauthorized)
	})
	const host = "127.0.0.1:5000" // reached by a pipe, for thousands of calls a second use up all ports
	pipes := pipeListener{accept: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(pipes)
	f.Cleanup(func() { server.Close() })
	elsewhere := errors.New("nothing else is reached in a test")
	var leaked string // of the call under way
	i := New(Options{AllowLoopback: true, Proxy: func(r *http.Request) (*url.URL, error) {
		if r.URL.Host == host {
			return nil, nil
		}
		// A realm may bring a user name of its own.
		if user, _, _ := r.BasicAuth(); (user == "alice" || r.Method == http.MethodPost) && !isLoopback(r.URL.Hostname()) {
			leaked = r.URL.String()
		}
		return nil, elsewhere
	}})
	for _, transport := range i.clients.transports.direct {
		transport.DialContext = pipes.dial
	}
	calls := 0
	f.Fuzz(func(t *testing.T, challenge string) {
		challenges = strings.Split(challenge, "\n")
		header := http.Header{"Www-Authenticate": slices.Clone(challenges)}
		SortChallenges(header)
		before, after := slices.Sorted(slices.Values(challenges)), slices.Sorted(slices.Values(header["Www-Authenticate"]))
		if !slices.Equal(before, after) {
			t.Errorf("%q became %q", before, after)
		}
		ref, err := ParseReference(host + "/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		src := source(ref, Credential{Username: "alice", Password: "SECRET"}, Credential{RefreshToken: "SECRET"})
		src.Insecure = true
		calls++
		src.Scope = strconv.Itoa(calls) // with neither tokens nor memories of earlier calls
		leaked = ""
		_, err = i.Resolve(t.Context(), src, "")
		if leaked != "" {
			t.Errorf("credentials for %s", leaked)
		}
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("got %v, want a failure without the password", err)
			return
		}
		wantLine(t, err.Error())
	})
}

// pipeListener accepts what dial connects, without a network.
type pipeListener struct {
	accept chan net.Conn
	closed chan struct{}
}

func (l pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.accept <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { close(l.closed); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// FuzzFailedURL: a redirect or a realm may lead to any URL, and that it cannot be
// reached is told by its host alone.
func FuzzFailedURL(f *testing.F) {
	for _, s := range []string{"https://cdn.example/blob?signature=SECRET", "https://me:SECRET@cdn/x", "http://[::1]:80/", "//\x7f", "https://\xff/", "https://a\u2028b/", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := classify(&url.Error{Op: "Get", URL: s, Err: io.EOF}, "registry.example")
		wantLine(t, err.Error())
		if u, parseErr := url.Parse(s); parseErr == nil && u.User != nil {
			if password, _ := u.User.Password(); len(password) > 8 && strings.Contains(err.Error(), password) && !strings.Contains(u.Host, password) {
				t.Errorf("%q has the password", err)
			}
		}
	})
}
