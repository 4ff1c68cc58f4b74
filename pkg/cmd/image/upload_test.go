// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http2"
	"k8s.io/utils/clock"
	"oras.land/oras-go/v2/content"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/embedded"
)

// anybody may do anything: the port has looked at the token.
type anybody struct{}

func (anybody) Authorize(ctx context.Context, _ distribution.Credentials, _ distribution.Repository, _ distribution.Action) (context.Context, error) {
	return ctx, nil
}

// torn is a body that ends in the middle, as of a connection that breaks.
type torn struct {
	io.Reader
	io.Closer
}

func (b *torn) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// TestPushGoesOn holds that a blob whose connection breaks goes on with what the registry has not got, by each way, and is begun anew
// where that does not do.
func TestPushGoesOn(t *testing.T) {
	t.Parallel()
	const cut = 1000 // of the blob's bytes arrive
	tests := []struct {
		name string
		via  string
		// looks answers the question how much is there, after is another answer to the rest.
		looks, rest func(w http.ResponseWriter, r *http.Request)
		want        []string // what of the blob is sent, as its Content-Range; whole: all of it
	}{
		{name: "to the registry port", via: viaRegistry, want: []string{"whole", "1000-LAST"}},
		{name: "through kube-apiserver", via: viaAPIServer, want: []string{"whole", "1000-LAST"}},
		{
			name: "the upload is gone", via: viaRegistry, want: []string{"whole", "whole"},
			looks: func(w http.ResponseWriter, _ *http.Request) { distribution.Refuse(w, distribution.ErrUploadUnknown) },
		},
		{
			name: "the registry does not say", via: viaRegistry, want: []string{"whole", "whole"},
			looks: func(w http.ResponseWriter, _ *http.Request) { distribution.Refuse(w, distribution.ErrUnsupported) },
		},
		{
			name: "it goes on at another host", via: viaRegistry, want: []string{"whole", "whole"},
			looks: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://registry.example.com/v2/")
				w.Header().Set("Range", "0-999")
				w.WriteHeader(http.StatusNoContent)
			},
		},
		{
			name: "nothing arrived", via: viaRegistry, want: []string{"whole", "whole"},
			looks: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", r.URL.Path)
				w.Header().Set("Range", "0-0")
				w.WriteHeader(http.StatusNoContent)
			},
		},
		{
			name: "what arrived does not fit", via: viaRegistry, want: []string{"whole", "1000-LAST", "whole"},
			rest: func(w http.ResponseWriter, _ *http.Request) { distribution.Refuse(w, distribution.ErrDigestInvalid) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store, err := embedded.OpenStore(t.Context(), embedded.StoreConfig{Dir: filepath.Join(t.TempDir(), "store")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			port := newPort(t, true)
			port.handler = distribution.New(store, anybody{}, distribution.Options{})
			var lock sync.Mutex
			var at, last string // of the blob that is cut
			var sent []string
			misbehave := func(w http.ResponseWriter, r *http.Request) bool {
				lock.Lock()
				defer lock.Unlock()
				digest := r.URL.Query().Get("digest")
				switch {
				case r.Method == http.MethodPut && at == "" && r.ContentLength > 2*cut:
					at, last, sent = digest, fmt.Sprint(r.ContentLength-1), []string{"whole"}
					r.Body = &torn{io.LimitReader(r.Body, cut), r.Body}
					port.handler.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				case r.Method == http.MethodPut && digest == at && at != "":
					chunk := strings.ReplaceAll(r.Header.Get("Content-Range"), last, "LAST")
					if chunk == "" {
						chunk = "whole"
					}
					sent = append(sent, chunk)
					if tt.rest != nil && chunk != "whole" {
						tt.rest(w, r)
						return true
					}
				case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/uploads/") && tt.looks != nil:
					tt.looks(w, r)
					return true
				}
				return false
			}
			port.misbehave = misbehave
			server := published(t, port.host(), port.authority())
			server.proxy = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !misbehave(w, r) {
					port.handler.ServeHTTP(w, r)
				}
			})
			folder, _ := newLayout(t)
			got := server.run(t.Context(), clock.RealClock{}, nil, "push", "myapp", "--from=oci:"+folder, "--via="+tt.via, "-o", "name")
			if got.Code != 0 || got.Stdout != "image.tagger.dev/myapp\n" {
				t.Fatalf("unexpected result: %+v", got)
			}
			if diff := cmp.Diff(tt.want, sent); diff != "" {
				t.Errorf("what was sent (-want +got):\n%s\n%s", diff, got.Stderr)
			}
			index, err := remote.Index(port.reference(t, "ns/myapp:latest"), port.options()...)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestProgressOfRest holds that a blob that goes on is shown as far as it is, and no byte of it twice.
func TestProgressOfRest(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]io.ReadCloser{
		"a source that begins anywhere": struct {
			io.ReadSeeker
			io.Closer
		}{bytes.NewReader(make([]byte, 100)), io.NopCloser(nil)},
		"a source that is read on": io.NopCloser(bytes.NewBuffer(make([]byte, 100))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blob := ocispec.Descriptor{Digest: "sha256:" + "0", Size: 100}
			moving := &transfer{display: &lines{out: io.Discard, clock: clock.RealClock{}}, moved: map[godigest.Digest]int64{}}
			moving.note(blob.Digest, 70) // which broke
			rest := &counted{ReadCloser: source, transfer: moving, blob: blob}
			if err := skip(rest, 60); err != nil {
				t.Fatal(err)
			}
			if moving.progress.Bytes != 60 {
				t.Errorf("%d bytes at first, want 60", moving.progress.Bytes)
			}
			if n, err := io.Copy(io.Discard, rest); err != nil || n != 40 {
				t.Errorf("%d bytes are left, want 40: %v", n, err)
			}
			if moving.progress.Bytes != 100 {
				t.Errorf("%d bytes in the end, want 100", moving.progress.Bytes)
			}
		})
	}
}

// TestMayHeal: which errors of a transfer have it begun again.
func TestMayHeal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"kube-apiserver goes away", http2.GoAwayError{ErrCode: http2.ErrCodeNo}, true}, //nolint:staticcheck // the client of kube-apiserver gives no other
		{"it ends a stream", http2.StreamError{Code: http2.ErrCodeInternal}, true},
		{"the connection is reset", syscall.ECONNRESET, true},
		{"the answer breaks off", io.ErrUnexpectedEOF, true},
		{"a certificate that nobody knows", x509.UnknownAuthorityError{}, false},
		{"the user has enough", context.Canceled, false},
		{"the content is not what it should be", content.ErrMismatchedDigest, false},
	} {
		if got := mayHeal(&url.Error{Op: "Put", URL: "https://registry.example/v2/", Err: tt.err}); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
