// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// attack is one request of a client that means ill.
type attack struct {
	name, method, path string
	authorization      string // the good token when empty
	header             map[string]string
	body               string
	chunked            bool
	want               string // status and code
}

// TestHostileClient sends what no client should to the registry port. docs/security.md has the same table. Afterwards the server has
// not grown much, and works for everybody else.
func TestHostileClient(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	namespace, victim := newNamespace(), newNamespace()
	secret := newImage(t, ociTypes, "amd64")
	s.push(t, s.atRegistry(victim, "secret", "v1"), secret)
	blob, manifest := must(must(secret.Layers())(t)[0].Digest())(t).String(), digestOf(t, secret)
	before := s.mostMemory(t)

	// These begin first, and are looked at when the rest is done: they take a minute, and two.
	stalled := s.stalledUpload(t, namespace)
	shortLived := basic(s.registryToken(t, 60).Status.Token)
	if got := s.attacked(t, attack{name: "a token that is good", method: "GET", path: "/v2/", authorization: shortLived}); got != "200 " {
		t.Errorf("a token that is good: got %s", got)
	}

	app := "/v2/" + namespace + "/app"
	uploads, tag := app+"/blobs/uploads/", app+"/manifests/v1"
	oci := map[string]string{"Content-Type": ocispec.MediaTypeImageManifest}
	large := func(n int) string { return `{"annotations":{"a":"` + strings.Repeat("x", n-24) + `"}}` }
	stolen := `{"config":{"digest":"` + blob + `"},"layers":[{"digest":"` + blob + `"}]}`
	attacks := []attack{
		{name: "dots in a path", method: "GET", path: "/v2/" + namespace + "/../" + victim + "/manifests/v1", want: "400 NAME_INVALID"},
		{name: "escaped dots", method: "GET", path: "/v2/%2e%2e/" + victim + "/manifests/v1", want: "400 NAME_INVALID"},
		{name: "an escaped slash", method: "GET", path: "/v2/" + namespace + "/app%2f..%2f..%2f" + victim + "%2fsecret/manifests/v1", want: "400 NAME_INVALID"},
		{name: "a zero byte", method: "GET", path: "/v2/" + namespace + "/app%00/manifests/v1", want: "400 NAME_INVALID"},
		{name: "a digest that is a path", method: "GET", path: app + "/blobs/sha256:..%2f..%2f..%2fmeta.db", want: "400 DIGEST_INVALID"},
		{name: "an upload that is a path", method: "PATCH", path: uploads + "..%2f..%2f" + victim, body: "x", want: "404 BLOB_UPLOAD_UNKNOWN"},
		{name: "two slashes in front", method: "GET", path: "//v2/" + victim + "/secret/manifests/v1", want: "404 UNSUPPORTED"},

		{name: "a blob of another namespace", method: "GET", path: app + "/blobs/" + blob, want: "404 BLOB_UNKNOWN"},
		{name: "a manifest of another namespace", method: "GET", path: app + "/manifests/" + manifest, want: "404 MANIFEST_UNKNOWN"},
		{name: "a manifest that names a blob of another namespace", method: "PUT", path: tag, header: oci, body: stolen, want: "400 MANIFEST_BLOB_UNKNOWN"},
		{name: "a mount from another namespace", method: "POST", path: uploads + "?mount=" + blob + "&from=" + victim + "/secret", want: "202 "},
		{name: "the blob afterwards", method: "GET", path: app + "/blobs/" + blob, want: "404 BLOB_UNKNOWN"},
		{name: "a mount from a path", method: "POST", path: uploads + "?mount=" + blob + "&from=../" + victim, want: "202 "},

		{name: "a manifest of 4 MiB and a byte", method: "PUT", path: tag, header: oci, body: large(4<<20 + 1), want: "413 SIZE_INVALID"},
		{name: "the same without its length", method: "PUT", path: tag, header: oci, body: large(4<<20 + 1), chunked: true, want: "413 SIZE_INVALID"},
		{name: "a million levels", method: "PUT", path: tag, header: oci, body: strings.Repeat("[", 1<<20), want: "400 MANIFEST_INVALID"},
		{name: "a million levels within", method: "PUT", path: tag, header: oci, body: `{"annotations":` + strings.Repeat(`{"a":`, 700_000), want: "400 MANIFEST_INVALID"},
		{name: "a million layers", method: "PUT", path: tag, header: oci, body: `{"layers":[{}` + strings.Repeat(",{}", 1_300_000) + "]}", want: "400 MANIFEST_INVALID"},
		{name: "a reserved tag", method: "PUT", path: app + "/manifests/anchor-1", header: oci, body: "{}", want: "403 DENIED"},

		{name: "a header of 128 KiB", method: "GET", path: "/v2/", header: map[string]string{"X-Bomb": strings.Repeat("x", 128<<10)}, want: "431 "},
		{name: "a token of 60 KiB", method: "GET", path: "/v2/", authorization: "Bearer " + strings.Repeat("x", 60<<10), want: "401 UNAUTHORIZED"},
		{name: "no token", method: "POST", path: uploads, authorization: " ", want: "401 UNAUTHORIZED"},
		{name: "an empty password", method: "POST", path: uploads, authorization: basic(""), want: "401 UNAUTHORIZED"},
		{name: "garbage for a token", method: "POST", path: uploads, authorization: basic("garbage"), want: "401 UNAUTHORIZED"},
		{name: "a token without a signature", method: "POST", path: uploads, want: "401 UNAUTHORIZED",
			authorization: "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsImdyb3VwcyI6WyJzeXN0ZW06bWFzdGVycyJdLCJleHAiOjQxMDI0NDQ4MDB9."},
		{name: "a token that expired", method: "POST", path: uploads, want: "401 UNAUTHORIZED",
			authorization: "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJhZG1pbiIsImV4cCI6MTAwMDAwMDAwMH0.c2lnbmF0dXJl"},
	}
	for _, a := range attacks { // in order: one looks at what another has done
		if got := s.attacked(t, a); got != a.want {
			t.Errorf("%s: got %s, want %s", a.name, got, a.want)
		}
	}

	// The same manifests, many at once. Some may find no room.
	var group sync.WaitGroup
	for _, a := range attacks {
		if !strings.HasPrefix(a.name, "a million") && !strings.HasPrefix(a.name, "a manifest of 4 MiB") {
			continue
		}
		for range 12 {
			group.Go(func() {
				if got := s.attacked(t, a); got != a.want && got != "429 TOOMANYREQUESTS" {
					t.Errorf("%s, at once: got %s, want %s", a.name, got, a.want)
				}
			})
		}
	}
	group.Wait()

	if opened := s.openUploads(t, uploads, 10_000); opened < 990 || opened > 1000 {
		t.Errorf("%d of 10,000 uploads were begun, want 1000 without those that are open before", opened)
	}

	if got := <-stalled; !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("an upload that stalls: got %q, want status 400", got)
	}
	expired := attack{name: "a token of ours that expired", method: "GET", path: "/v2/", authorization: shortLived}
	eventually(t, "a token of a minute has expired", func(context.Context) (bool, error) {
		got := s.attacked(t, expired)
		if got != "200 " && got != "401 UNAUTHORIZED" {
			return false, fmt.Errorf("it gets %s", got)
		}
		return got != "200 ", nil
	})
	after := s.mostMemory(t)
	t.Logf("at most %d MiB before, and %d MiB afterwards", before, after)
	if after-before > 250 {
		t.Errorf("memory grew by %d MiB", after-before)
	}
	other := s.atRegistry(newNamespace(), "app", "v1")
	normal := newIndex(t, ociTypes)
	s.push(t, other, normal)
	transport := s.transport()
	defer transport.CloseIdleConnections()
	pulled := must(remote.Index(must(name.ParseReference(other))(t), remote.WithTransport(transport), remote.WithAuth(s.basic())))(t)
	if diff := cmp.Diff(digestOf(t, normal), digestOf(t, pulled)); diff != "" {
		t.Errorf("a push of somebody else (-want +got):\n%s", diff)
	}
}

// TestLimitsOfPushes pushes what is larger than the flags allow.
func TestLimitsOfPushes(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--max-manifest-size=1Ki", "--max-blob-size=2Ki")
	app := "/v2/" + newNamespace() + "/app"
	oci := map[string]string{"Content-Type": ocispec.MediaTypeImageIndex}
	index := func(n int) string {
		head := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[],"annotations":{"a":"`
		return head + strings.Repeat("x", n-len(head)-len(`"}}`)) + `"}}`
	}
	blob := func(n int) string {
		return app + "/blobs/uploads/?digest=" + digest.FromString(strings.Repeat("x", n)).String()
	}
	for _, a := range []attack{
		{name: "a manifest of 1 KiB", method: "PUT", path: app + "/manifests/v1", header: oci, body: index(1 << 10), want: "201 "},
		{name: "and a byte", method: "PUT", path: app + "/manifests/v1", header: oci, body: index(1<<10 + 1), want: "413 SIZE_INVALID"},
		{name: "a blob of 2 KiB", method: "POST", path: blob(2 << 10), body: strings.Repeat("x", 2<<10), want: "201 "},
		{name: "and a byte", method: "POST", path: blob(2<<10 + 1), body: strings.Repeat("x", 2<<10+1), want: "413 SIZE_INVALID"},
	} {
		if got := s.attacked(t, a); got != a.want {
			t.Errorf("%s: got %s, want %s", a.name, got, a.want)
		}
	}
}

// attacked returns the status and the error code that a request gets.
func (s *server) attacked(t *testing.T, a attack) string {
	t.Helper()
	transport := s.transport()
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(a.request(t.Context(), s))
	for tries := 1; tries < 10 && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)); tries++ {
		// The server does not read what is too large, and closes soon after the answer: who writes yet may miss that.
		response, err = transport.RoundTrip(a.request(t.Context(), s))
	}
	if err != nil {
		t.Errorf("%s: %v", a.name, err)
		return ""
	}
	defer response.Body.Close()
	var document struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	code := ""
	if raw, err := io.ReadAll(response.Body); err == nil && json.Unmarshal(raw, &document) == nil && len(document.Errors) > 0 {
		code = document.Errors[0].Code
	}
	return fmt.Sprintf("%d %s", response.StatusCode, code)
}

// request returns the request of an attack.
func (a *attack) request(ctx context.Context, s *server) *http.Request {
	var body io.Reader = bytes.NewReader([]byte(a.body))
	if a.chunked {
		body = struct{ io.Reader }{body}
	}
	request, err := http.NewRequestWithContext(ctx, a.method, "https://"+s.registry+a.path, body)
	if err != nil {
		panic(err) // a mistake in the table
	}
	for key, value := range a.header {
		request.Header.Set(key, value)
	}
	switch a.authorization {
	case "":
		request.Header.Set("Authorization", basic(s.token))
	case " ":
	default:
		request.Header.Set("Authorization", a.authorization)
	}
	return request
}

// openUploads begins uploads, some at once, and returns how many it could. All others are refused as too many.
func (s *server) openUploads(t *testing.T, path string, n int) int {
	t.Helper()
	client := &http.Client{Transport: s.transport()}
	defer client.CloseIdleConnections()
	var opened atomic.Int64
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(8)
	for range n {
		group.Go(func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+s.registry+path, nil)
			if err != nil {
				return err
			}
			request.Header.Set("Authorization", basic(s.token))
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			switch response.StatusCode {
			case http.StatusAccepted:
				opened.Add(1)
			case http.StatusTooManyRequests:
			default:
				return fmt.Errorf("beginning an upload: %s", response.Status)
			}
			_, err = io.Copy(io.Discard, response.Body) // so that the connection is used again
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	return int(opened.Load())
}

// stalledUpload begins an upload of which half of a chunk comes, and tells with what line the server ends it.
func (s *server) stalledUpload(t *testing.T, namespace string) <-chan string {
	t.Helper()
	dialer := &tls.Dialer{Config: s.transport().TLSClientConfig}
	conn := must(dialer.DialContext(t.Context(), "tcp", s.registry))(t)
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(3 * patience)); err != nil {
		t.Fatal(err)
	}
	path := "/v2/" + namespace + "/app/blobs/uploads/?digest=" + digest.FromString("0123456789").String()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 10\r\n\r\n01234", path, basic(s.token)); err != nil {
		t.Fatal(err)
	}
	line := make(chan string, 1)
	go func() {
		got, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			got = err.Error()
		}
		line <- got
	}()
	return line
}
