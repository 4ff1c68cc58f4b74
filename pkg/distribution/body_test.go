// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// dripping is a body that never ends.
type dripping struct {
	ctx   context.Context //nolint:containedctx // a reader has no other way to be told
	every time.Duration
}

func (d *dripping) Read(p []byte) (int, error) {
	timer := time.NewTimer(d.every)
	defer timer.Stop()
	select {
	case <-timer.C:
		return copy(p, " "), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

// TestStalledBody: a client that stops in the middle is given up, what it sent is there, and the next one goes on.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			// What is to arrive goes to a server that waits for it, however busy the machine is. Of the other one some seconds have to do for
			// four bytes.
			patient, backend := pushServer(t, Options{})
			server := serve(t, backend, Options{StallTimeout: 3 * time.Second})
			client := server.Client()
			if proto == "HTTP/1.1" {
				client = &http.Client{Transport: &http.Transport{TLSClientConfig: client.Transport.(*http.Transport).TLSClientConfig.Clone()}}
				client.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
			}
			run(t, patient, []step{{method: http.MethodPost, path: appUploads, want: uploading("u1-sha256", "0-0")}})

			body, pipe := io.Pipe()
			t.Cleanup(func() { _ = pipe.Close() })
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, server.URL+appUploads+"u1-sha256", body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = bearer("push")
			go func() { _, _ = io.WriteString(pipe, "0123") }() // and nothing more
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.Proto != proto || response.StatusCode != http.StatusBadRequest {
				t.Errorf("%s %d, want %s 400", response.Proto, response.StatusCode, proto)
			}
			run(t, patient, []step{
				{method: http.MethodGet, path: appUploads + "u1-sha256", want: reply{Status: 204, Location: appUploads + "u1-sha256", Range: "0-3"}},
				{method: http.MethodPut, path: "LOCATION?digest=" + canonicalBlob.String(), body: "456789", want: stored("blobs", canonicalBlob)},
			})
		})
	}
}

// TestSlowBody: one that goes on, however slowly, is not given up.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	server, _ := pushServer(t, Options{StallTimeout: 20 * time.Second})
	body, pipe := io.Pipe()
	go func() {
		for _, c := range blobText {
			timer := time.NewTimer(10 * time.Millisecond)
			<-timer.C
			_, _ = io.WriteString(pipe, string(c))
		}
		_ = pipe.Close()
	}()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+appUploads+"?digest="+canonicalBlob.String(), body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = bearer("push")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Errorf("%s, want 201", response.Status)
	}
}

// TestExpectContinue: who asks before it sends is told at once that it need not.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		method string
		path   string
		token  string
		length int64
		want   string
	}{
		{name: "accepted", method: "POST", path: appUploads + "?digest=" + canonicalBlob.String(), token: "push", length: 10, want: "100"},
		{name: "anonymous", method: "POST", path: appUploads + "?digest=" + canonicalBlob.String(), token: "x", length: 10, want: "401"},
		{name: "not allowed", method: "POST", path: "/v2/ns/base/blobs/uploads/", token: "push", length: 10, want: "403"},
		{name: "too large", method: "POST", path: appUploads + "?digest=" + canonicalBlob.String(), token: "push", length: 1 << 20, want: "413"},
		{name: "no digest", method: "POST", path: appUploads + "?digest=x", token: "push", length: 10, want: "400"},
		{name: "no upload", method: "PATCH", path: appUploads + "x", token: "push", length: 10, want: "404"},
		{name: "manifest that is too large", method: "PUT", path: appTag, token: "push", length: 4<<20 + 1, want: "413"},
		{name: "reserved tag", method: "PUT", path: "/v2/ns/app/manifests/anchor-1", token: "push", length: 10, want: "403"},
	}
	server, _ := pushServer(t, Options{MaxBlobBytes: 1 << 10})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, server)
			_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
				tt.method, tt.path, tt.token, tt.length)
			if err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+tt.want) {
				t.Errorf("got %q, %v, want %s", line, err, tt.want)
			}
		})
	}
}

// TestBodyThatNeverComes: who is refused, and sends nothing of what it announced, does not hold its connection.
func TestBodyThatNeverComes(t *testing.T) {
	t.Parallel()
	server, _ := pushServer(t, Options{StallTimeout: 200 * time.Millisecond})
	for _, length := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			conn := dial(t, server)
			if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", method, appUploads, length); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
				t.Errorf("%s with %s: got %q, %v, want a refusal and the end", method, length, answer, err)
			}
		}
	}
}

// TestFormThatDrips: the form of a request for a token has its time, however steadily its bytes come, and others find room meanwhile.
func TestFormThatDrips(t *testing.T) {
	t.Parallel()
	handler := New(memory{}, boundAuthorizer{}, Options{Tokens: giver{}, Service: service, StallTimeout: 500 * time.Millisecond}).(*handler)
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	conn := dial(t, server)
	if _, err := io.WriteString(conn, "POST /v2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		answered <- line
	}()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_, _ = io.WriteString(conn, "x") // until it is answered
			if !handler.requests.Idle() {
				t.Fatal("it takes a place of those that other requests need")
			}
		case line := <-answered:
			if !strings.HasPrefix(line, "HTTP/1.1 400") {
				t.Errorf("got %q, want 400", line)
			}
			return
		}
	}
}

// dial opens a connection to a server of TLS on which HTTP/1.1 is spoken by hand.
func dial(t *testing.T, server *httptest.Server) net.Conn {
	t.Helper()
	config := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = nil
	dialer := &tls.Dialer{Config: config}
	conn, err := dialer.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}
