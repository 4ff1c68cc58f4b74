// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer/mirror"
	"tagger.dev/tagger/test/lab"
)

func inOneRepository(c *mirror.Config, _ *mirror.Options) { c.Repository = "cluster" }

// keys returns some, newest first.
func keys(n int) Keys {
	all := make([][]byte, n)
	for i := range all {
		all[i] = make([]byte, KeyBytes)
		_, _ = rand.Read(all[i])
	}
	return func(context.Context) ([][]byte, error) { return all, nil }
}

// TestUploadAtReplicas sends the parts of a blob to servers in turn, of which one began it and another one ends it.
func TestUploadAtReplicas(t *testing.T) {
	t.Parallel()
	source, shared := lab.New(t, lab.TrustedTLS), keys(1)
	replicas := make([]*endpoint, 3)
	for i := range replicas {
		replicas[i] = serve(t, Config{Mirrors: mirrors{"ns": registryAt(t, source)}, Keys: shared})
	}
	at := func(i int) *endpoint { return replicas[i%len(replicas)] }
	got := at(0).do(t, http.MethodPost, "/v2/ns/app/blobs/uploads/", "")
	want(t, "beginning", got, "202")
	content := ""
	for i, part := range []string{"first ", "second ", "third ", "fourth "} {
		content += part
		got = at(i+1).do(t, http.MethodPatch, got.header.Get("Location"), part)
		want(t, part, got, "202")
	}
	if got.header.Get("Range") != "0-25" {
		t.Errorf("Range: %s", got.header.Get("Range"))
	}
	want(t, "a chunk that does not fit", at(1).do(t, http.MethodPatch, got.header.Get("Location"), "x", "Content-Range: 3-3"), "416 BLOB_UPLOAD_INVALID")
	content += "last"
	d := digest.FromString(content).String()
	want(t, "ending", at(2).do(t, http.MethodPut, got.header.Get("Location")+"?digest="+d, "last"), "201")
	if pulled := at(0).do(t, http.MethodGet, "/v2/ns/app/blobs/"+d, ""); pulled.body != content {
		t.Errorf("got %q", pulled.body)
	}
}

// TestUploadIDs: what a client holds of an upload is good for that alone, and for a day.
func TestUploadIDs(t *testing.T) {
	t.Parallel()
	source, another := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	passive := clocktesting.NewFakePassiveClock(time.Now())
	both := keys(2)
	configured := mirrors{"ns": registryAt(t, source), "other": registryAt(t, source)}
	config := Config{Mirrors: configured, Clock: passive, Keys: both}
	e := serve(t, config)
	begun := e.do(t, http.MethodPost, "/v2/ns/app/blobs/uploads/", "")
	_, id, _ := strings.Cut(begun.header.Get("Location"), "/uploads/")
	sealed, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sealed), "uploads") || strings.Contains(id, source.Host) {
		t.Errorf("%q tells where it goes on", sealed)
	}
	sealed[len(sealed)-1] ^= 1
	both2 := func(context.Context) ([][]byte, error) { // once the key was rotated
		all, _ := both(t.Context())
		return [][]byte{make([]byte, KeyBytes), all[0]}, nil
	}
	source.Requests()
	later := func(d time.Duration) Config {
		c := config
		c.Clock = clocktesting.NewFakePassiveClock(passive.Now().Add(d))
		return c
	}
	with := func(change func(*Config)) Config {
		c := config
		change(&c)
		return c
	}
	for _, tt := range []struct {
		name, repository, id, want string
		config                     Config
	}{
		{name: "another repository", repository: "ns/other", id: id, want: "404 BLOB_UPLOAD_UNKNOWN", config: config},
		{name: "another namespace", repository: "other/app", id: id, want: "404 BLOB_UPLOAD_UNKNOWN", config: config},
		{name: "a changed one", repository: "ns/app", id: base64.RawURLEncoding.EncodeToString(sealed), want: "404 BLOB_UPLOAD_UNKNOWN", config: config},
		{name: "one that is made up", repository: "ns/app", id: "abc", want: "404 BLOB_UPLOAD_UNKNOWN", config: config},
		{name: "another mirror", repository: "ns/app", id: id, want: "404 BLOB_UPLOAD_UNKNOWN", config: with(func(c *Config) { c.Mirrors = mirrors{"ns": registryAt(t, another)} })},
		{name: "other keys", repository: "ns/app", id: id, want: "404 BLOB_UPLOAD_UNKNOWN", config: with(func(c *Config) { c.Keys = keys(3) })},
		{name: "a day later", repository: "ns/app", id: id, want: "404 BLOB_UPLOAD_UNKNOWN", config: later(24*time.Hour + time.Minute)},
		{name: "keys that cannot be had", repository: "ns/app", id: id, want: "500 UNKNOWN", config: with(func(c *Config) {
			c.Keys = func(context.Context) ([][]byte, error) { return nil, errors.New("SECRET") }
		})},
		{name: "hours later, by a key that was rotated", repository: "ns/app", id: id, want: "202", config: with(func(c *Config) {
			c.Clock, c.Keys = later(23*time.Hour).Clock, both2
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, tt.name, serve(t, tt.config).do(t, http.MethodPatch, "/v2/"+tt.repository+"/blobs/uploads/"+tt.id, "x"), tt.want)
			if n := len(source.Requests()) + len(another.Requests()); (n > 0) != (tt.want == "202") {
				t.Errorf("%d requests to the mirror", n)
			}
		})
	}
}

// TestUploadCut: a client that goes away in the middle is no fault of the mirror's.
func TestUploadCut(t *testing.T) {
	t.Parallel()
	source := lab.New(t, lab.TrustedTLS)
	registry := registryAt(t, source)
	repository, _, err := registry.Repository("ns", "app")
	if err != nil {
		t.Fatal(err)
	}
	f := New(Config{Mirrors: mirrors{"ns": registry}, Keys: oneKey(), Clock: clocktesting.NewFakePassiveClock(time.Now())})
	u, err := f.StartUpload(t.Context(), distribution.Repository{Namespace: "ns", Name: "app"}, digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	for _, size := range []int64{-1, 10} {
		if err := u.Append(t.Context(), failing{gone}, size); !errors.Is(err, gone) {
			t.Errorf("of %d bytes: %v", size, err)
		}
	}
	if err := u.Commit(t.Context(), failing{gone}, 10, digest.FromString("x")); !errors.Is(err, gone) {
		t.Errorf("at the end: %v", err)
	}
	if _, err := repository.Blob(t.Context(), digest.FromString("x")); err == nil {
		t.Error("there is a blob")
	}
}

type failing struct{ err error }

func (f failing) Read(p []byte) (int, error) { return 0, f.err }
