// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"tagger.dev/tagger/pkg/distribution"
)

// serveRegistry serves the registry port, of which nothing may be taken for so long. Tokens are names.
func serveRegistry(t *testing.T, take time.Duration) *httptest.Server {
	t.Helper()
	tokens := authenticator.TokenFunc(func(_ context.Context, name string) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, true, nil
	})
	config := &RegistryConfig{Host: "registry.example:5000", Tokens: tokens, Limits: distribution.Options{TakeTimeout: take}}
	server := httptest.NewUnstartedServer(nil)
	server.Config = newRegistryServer(config, tagged{}, newRing(), layersOf).server
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// dial connects with room for little of what the server sends.
func dial(t *testing.T, server *httptest.Server, proto string) *tls.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := errors.Join(conn.(*net.TCPConn).SetReadBuffer(64<<10), conn.SetDeadline(time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	config := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", []string{proto}
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client
}

// headers returns the frame of a request.
func headers(method, path string, stream uint32) []byte {
	var block, frame bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range []hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "registry.example"}, {Name: ":path", Value: path},
		{Name: "authorization", Value: "Bearer alice"},
	} {
		_ = encoder.WriteField(field) // a bytes.Buffer takes everything
	}
	_ = http2.NewFramer(&frame, nil).WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	return frame.Bytes()
}

func pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// TestNothingTaken has clients take nothing of what they ask for, which is small for the most part, and sees it end.
func TestNothingTaken(t *testing.T) {
	t.Parallel()
	const take = 2 * time.Second // the handshake has no more, and machines that test are often busy
	settings := func(conn io.Writer, settings ...http2.Setting) error {
		_, err := io.WriteString(conn, http2.ClientPreface)
		return errors.Join(err, http2.NewFramer(conn, nil).WriteSettings(settings...))
	}
	// endures tells whether the server still reads what a client sends without end, which reads nothing itself.
	endures := func(t *testing.T, conn io.Writer, next func() []byte) {
		t.Helper()
		for {
			if _, err := conn.Write(next()); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection is held")
				}
				return
			}
		}
	}
	for _, tt := range []struct{ name, request string }{
		{"the endpoint", "GET /v2/ HTTP/1.1\r\nHost: registry.example\r\n\r\n"},
		{"without a body", "HEAD /v2/a/app/manifests/latest HTTP/1.1\r\nHost: registry.example\r\n\r\n"},
		{"what no handler answers", "OPTIONS * HTTP/1.1\r\nHost: registry.example\r\n\r\n"},
	} {
		t.Run("HTTP/1.1, "+tt.name, func(t *testing.T) {
			t.Parallel()
			many := []byte(strings.Repeat(tt.request, 100))
			endures(t, dial(t, serveRegistry(t, take), "http/1.1"), func() []byte { return many })
		})
	}
	t.Run("HTTP/2, the connection", func(t *testing.T) {
		t.Parallel()
		conn := dial(t, serveRegistry(t, take), "h2")
		if err := settings(conn, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}); err != nil {
			t.Fatal(err)
		}
		if err := http2.NewFramer(conn, nil).WriteWindowUpdate(0, 1<<30); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(headers(http.MethodGet, "/v2/a/app/blobs/"+digest.FromString("").String(), 1)); err != nil {
			t.Fatal(err)
		}
		ping := bytes.Buffer{}
		_ = http2.NewFramer(&ping, nil).WritePing(false, [8]byte{})
		endures(t, conn, func() []byte {
			pause(10 * time.Millisecond) // many at once would end it as well
			return ping.Bytes()
		})
	})
	t.Run("HTTP/2, a stream", func(t *testing.T) {
		t.Parallel()
		conn := dial(t, serveRegistry(t, take), "h2")
		if err := settings(conn, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(headers(http.MethodGet, "/v2/", 1)); err != nil {
			t.Fatal(err)
		}
		framer := http2.NewFramer(nil, conn)
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if frame.Header().StreamID == 1 && frame.Header().Type == http2.FrameRSTStream {
				return
			}
		}
	})
}

// TestSlowClient moves what takes longer than nothing may be taken, on a connection that then waits as long.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	const take = 3 * time.Second // of which a quarter may be over, and machines that test are often busy
	dgst := digest.FromString("").String()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			server := serveRegistry(t, take)
			client := server.Client()
			transport := client.Transport.(*http.Transport)
			if proto == "HTTP/1.1" {
				transport.TLSClientConfig.NextProtos, transport.ForceAttemptHTTP2 = []string{"http/1.1"}, false
			}
			reused := false
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }})
			do := func(method, path string, body io.Reader, want int) io.Reader {
				t.Helper()
				request, err := http.NewRequestWithContext(ctx, method, server.URL+"/v2/"+path, body)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Authorization", "Bearer alice")
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = response.Body.Close() })
				if response.StatusCode != want || response.Proto != proto {
					t.Errorf("%s %s: %s %s", method, path, response.Proto, response.Status)
				}
				return response.Body
			}
			body, pipe := io.Pipe()
			go func() {
				for range 12 {
					pause(take / 8)
					_, _ = io.WriteString(pipe, "0")
				}
				_ = pipe.Close()
			}()
			_, _ = io.Copy(io.Discard, do(http.MethodPost, "a/app/blobs/uploads/?digest="+dgst, body, http.StatusCreated))

			pause(3 * take / 2)
			_, _ = io.Copy(io.Discard, do(http.MethodGet, "", nil, http.StatusOK))
			if !reused {
				t.Error("the connection was cut while it waited")
			}

			blob := do(http.MethodGet, "a/app/blobs/"+dgst, nil, http.StatusOK)
			for start := time.Now(); time.Since(start) < 2*take; pause(10 * time.Millisecond) {
				if _, err := io.CopyN(io.Discard, blob, 256<<10); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
