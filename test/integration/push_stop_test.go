// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestStopWhilePushing asks a server to stop while a manifest is on its way: the push is recorded, or the client would have to know
// that it must be repeated.
func TestStopWhilePushing(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	namespace := newNamespace()
	s.push(t, s.atRegistry(namespace, "app", "v1"), newImage(t, ociTypes, "amd64"))
	before := s.history(t, namespace, "app")
	manifest := strings.Replace(must(s.get(t.Context(), "https://"+s.registry+"/v2/"+namespace+"/app/manifests/v1", basic(s.token)))(t).body,
		"{", `{"annotations":{"pushed":"while the server stops"},`, 1)
	transport := s.transport()
	transport.ExpectContinueTimeout = patience // the body is not sent before the server reads it
	defer transport.CloseIdleConnections()
	reading, sent := io.Pipe()
	request := must(http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+s.registry+"/v2/"+namespace+"/app/manifests/v2", reading))(t)
	request.ContentLength = int64(len(manifest))
	for key, value := range map[string]string{"Authorization": basic(s.token), "Content-Type": ocispec.MediaTypeImageManifest, "Expect": "100-continue"} {
		request.Header.Set(key, value)
	}
	answered := make(chan error, 1)
	status := 0
	go func() {
		response, err := transport.RoundTrip(request)
		if err == nil {
			status, err = response.StatusCode, response.Body.Close()
		}
		answered <- err
	}()
	if _, err := io.WriteString(sent, manifest[:1]); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "the registry port takes no more connections", func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.registry)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil, nil
	})
	if _, err := io.WriteString(sent, manifest[1:]); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil || status != http.StatusCreated {
		t.Errorf("the push was answered %d, %v", status, err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	s = s.again(t)
	if got, want := s.history(t, namespace, "app"), s.mirrored(namespace, "app", digest.FromString(manifest).String()); len(got) != len(before)+1 || got[0] != want {
		t.Errorf("history %q, want %s in front of %q", got, want, before)
	}
}
