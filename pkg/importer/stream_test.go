// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/limit"
)

// stalling is a Destination that stops in the middle of a blob.
type stalling struct {
	*memory
	stall func(context.Context) error
}

func (s stalling) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	head := make([]byte, 1)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if err := s.stall(ctx); err != nil {
		return err
	}
	return s.memory.Push(ctx, d, io.MultiReader(bytes.NewReader(head), r))
}

func TestMirrorSlowDestination(t *testing.T) {
	t.Parallel()
	p := publish(t)
	const idle = 2 * time.Second // machines that test are often busy
	tests := []struct {
		name   string
		within time.Duration
		stall  func(context.Context) error
		want   Kind // "": it works
		text   string
	}{
		{
			name: "is not the source's silence", within: time.Minute,
			stall: func(context.Context) error { <-time.After(3 * idle); return nil },
		},
		{
			name: "until the deadline", within: 3 * idle,
			stall: func(ctx context.Context) error { <-ctx.Done(); return errors.New("closed") },
			want:  Timeout, text: "in time",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref := serve(t, p).reference(t, "app:v1")
			i := newImporter(t, func(o *Options) { o.IdleTimeout = idle })
			ctx, cancel := context.WithTimeout(t.Context(), tt.within)
			defer cancel()
			_, err := i.Mirror(ctx, source(ref), &Resolved{Digest: p.index}, stalling{newMemory(), tt.stall}, nil)
			if tt.want != "" {
				wantFailure(t, err, ref, tt.want, tt.text)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// namespace is a Destination that links what any of its repositories holds.
type namespace struct {
	*memory
	all *memory
}

func (n namespace) Mount(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	return n.all.Mount(ctx, d)
}

func (n namespace) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	return n.all.Push(ctx, d, r)
}

// TestMirrorTogether: several copies of the same content into one namespace
// fetch it once.
func TestMirrorTogether(t *testing.T) {
	t.Parallel()
	p := publish(t)
	up := serve(t, p)
	i := newImporter(t)
	src := source(up.reference(t, "app:v1"))
	res, err := i.Resolve(t.Context(), src, "")
	if err != nil {
		t.Fatal(err)
	}
	all := newMemory()
	var copies sync.WaitGroup
	for range 5 {
		copies.Go(func() {
			if _, err := i.Mirror(t.Context(), src, res, namespace{newMemory(), all}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	copies.Wait()
	if got := up.count("/blobs/"); got != 7 {
		t.Errorf("%d blobs fetched, want 7", got)
	}
	for name, left := range map[string]*limit.Keyed{"hosts": i.hosts, "streams": i.streams, "shares": i.shares, "blobs": i.blobs} {
		if !left.Idle() {
			t.Errorf("%s are still taken", name)
		}
	}
}

// TestStreams: no more blobs are read at once than allowed, by all copies
// together, and as many as allowed.
func TestStreams(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                     string
		perHost, streams, scopes int
		want                     int32
	}{
		{name: "by host", perHost: 2, streams: 32, scopes: 1, want: 2},
		{name: "by scope", perHost: 8, streams: 4, scopes: 1, want: 3},
		{name: "by process", perHost: 8, streams: 4, scopes: 2, want: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			registry := newRegistry()
			var now, most atomic.Int32
			full := make(chan struct{})
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/blobs/") {
					if n := now.Add(1); n > most.Load() {
						most.Store(n)
						if n == tt.want {
							time.AfterFunc(100*time.Millisecond, func() { close(full) })
						}
					}
					defer now.Add(-1)
					<-full // nobody ends before as many as allowed have begun, and others had time to
				}
				registry.ServeHTTP(w, r)
			}))
			i := newImporter(t, func(o *Options) { o.StreamsPerHost, o.Streams = tt.perHost, tt.streams })
			var copies sync.WaitGroup
			for n := range 2 {
				var layers [][]byte
				for l := range 6 {
					layers = append(layers, blob(fmt.Sprint(n, l), 1000))
				}
				img := newImage(t, "amd64", layers...)
				repository := fmt.Sprint("app", n)
				put(t, registry, repository, "v1", img.manifest.MediaType, img.raw, img.blobs...)
				res := &Resolved{Digest: img.manifest.Digest, MediaType: img.manifest.MediaType, Manifest: img.raw}
				src := source(up.reference(t, repository+":v1"))
				src.Scope = fmt.Sprint(n % tt.scopes)
				copies.Go(func() {
					if _, err := i.Mirror(t.Context(), src, res, newMemory(), nil); err != nil {
						t.Error(err)
					}
				})
			}
			copies.Wait()
			if got := most.Load(); got != tt.want {
				t.Errorf("%d streams at once, want %d", got, tt.want)
			}
		})
	}
}
