// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/test/lab"
)

func TestPush(t *testing.T) {
	t.Parallel()
	large := make([]byte, 3<<20)
	_, _ = rand.Read(large)
	failing := errors.New("the source failed")
	precondition := func(err error) bool { return errdefs.IsFailedPrecondition(err) }
	const index = `{"schemaVersion":2,"manifests":[]}`
	tests := []struct {
		name      string
		mediaType string
		content   string
		desc      func(*ocispec.Descriptor)
		reader    io.Reader // nil: of the content
		want      func(error) bool
	}{
		{name: "a small blob", content: "a"},
		{name: "an empty blob", content: ""},
		{name: "a large blob", content: string(large)},
		{name: "byte by byte, and the end apart", content: "abc", reader: iotest.OneByteReader(strings.NewReader("abc"))},
		{name: "the end with the last bytes", content: "abc", reader: iotest.DataErrReader(strings.NewReader("abc"))},
		{name: "a manifest", mediaType: ocispec.MediaTypeImageIndex, content: index},
		{name: "sha512", mediaType: ocispec.MediaTypeImageIndex, content: index, desc: func(d *ocispec.Descriptor) {
			d.Digest = digest.SHA512.FromString(index)
		}},
		{name: "longer", content: "abc", reader: strings.NewReader("abcd"), want: precondition},
		{name: "longer by much", content: "abc", reader: strings.NewReader("abc" + string(large)), want: precondition},
		{name: "shorter", content: "abc", reader: strings.NewReader("ab"), want: precondition},
		{name: "other content", content: "abc", reader: strings.NewReader("abd"), want: precondition},
		{name: "other content at the end of much", content: string(large), reader: bytes.NewReader(append(bytes.Clone(large[1:]), 0)), want: precondition},
		{name: "something in place of nothing", content: "", reader: strings.NewReader("a"), want: precondition},
		{name: "a manifest with other content", mediaType: ocispec.MediaTypeImageIndex, content: index, reader: strings.NewReader(index + " "), want: precondition},
		{name: "a source that fails at once", content: "abc", reader: iotest.ErrReader(failing), want: func(err error) bool { return errors.Is(err, failing) }},
		{name: "a source that fails in between", content: string(large), reader: io.MultiReader(bytes.NewReader(large[:1<<20]), iotest.ErrReader(failing)),
			want: func(err error) bool { return errors.Is(err, failing) }},
		{name: "a manifest whose source fails", mediaType: ocispec.MediaTypeImageIndex, content: index, reader: iotest.ErrReader(failing),
			want: func(err error) bool { return errors.Is(err, failing) }},
		{name: "no digest", content: "abc", desc: func(d *ocispec.Descriptor) { d.Digest = "md5:0" }, want: errdefs.IsInvalidArgument},
		{name: "no size", content: "abc", desc: func(d *ocispec.Descriptor) { d.Size = -1 }, want: errdefs.IsInvalidArgument},
		{name: "a manifest that is too large", mediaType: ocispec.MediaTypeImageIndex, content: index, desc: func(d *ocispec.Descriptor) { d.Size = 5 << 20 },
			want: errdefs.IsInvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, lab.TrustedTLS)
			keep(t, dst)
			app := repository(t, newRegistry(t, dst), "ns/app")
			if tt.mediaType == "" {
				tt.mediaType = ocispec.MediaTypeImageLayer
			}
			d := describe(tt.mediaType, []byte(tt.content))
			if tt.desc != nil {
				tt.desc(&d)
			}
			reader := tt.reader
			if reader == nil {
				reader = strings.NewReader(tt.content)
			}
			// Once as it comes, once where the mount that was refused has begun the upload.
			for _, mounts := range []int32{mountsUnknown, mountsYes} {
				app.registry.mounts.Store(mounts)
				if mounts == mountsYes && tt.want == nil {
					break
				}
				if mounts == mountsYes && d.Digest.Validate() == nil {
					if _, err := app.Mount(t.Context(), d); err != nil && tt.mediaType == ocispec.MediaTypeImageLayer {
						t.Fatal(err)
					}
				}
				err := app.Push(t.Context(), d, reader)
				if tt.want == nil && err != nil || tt.want != nil && !tt.want(err) {
					t.Errorf("got %v", err)
				}
				if tt.reader != nil {
					break // which can be read once
				}
			}
			if d.Digest.Validate() != nil {
				return
			}
			held, err := app.has(t.Context(), map[bool]string{true: "manifests", false: "blobs"}[importer.IsManifest(tt.mediaType)], d)
			if err != nil || held != (tt.want == nil) {
				t.Errorf("held: %t, %v", held, err)
			}
		})
	}
}

// TestVerifier: who reads wrong content never gets all of it.
func TestVerifier(t *testing.T) {
	t.Parallel()
	const content = "content"
	failing := errors.New("the source failed")
	for _, tt := range []struct {
		name   string
		reader io.Reader
		want   error
	}{
		{name: "right", reader: strings.NewReader(content)},
		{name: "right, the end with it", reader: iotest.DataErrReader(strings.NewReader(content))},
		{name: "other", reader: strings.NewReader("CONTENT"), want: errdefs.ErrFailedPrecondition},
		{name: "other, the end with it", reader: iotest.DataErrReader(strings.NewReader("CONTENT")), want: errdefs.ErrFailedPrecondition},
		{name: "longer", reader: iotest.OneByteReader(strings.NewReader(content + "x")), want: errdefs.ErrFailedPrecondition},
		{name: "shorter", reader: strings.NewReader(content[1:]), want: errdefs.ErrFailedPrecondition},
		{name: "fails where it should end", reader: io.MultiReader(strings.NewReader(content), iotest.ErrReader(failing)), want: failing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(describe("x/y", []byte(content)), tt.reader)
			got, err := io.ReadAll(v)
			if !errors.Is(err, tt.want) || err == nil && string(got) != content || err != nil && len(got) >= len(content) {
				t.Errorf("got %q, %v; want %v", got, err, tt.want)
			}
			if !errors.Is(v.failure(), tt.want) {
				t.Errorf("failure: %v", v.failure())
			}
		})
	}
}

// TestPushStreams: the registry has the first bytes before the source has the last.
func TestPushStreams(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	arrived := make(chan struct{})
	dst.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if r.Method == http.MethodPut {
			first := make([]byte, 1)
			if _, err := io.ReadFull(r.Body, first); err == nil {
				close(arrived)
			}
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(first), r.Body))
		}
		registry.ServeHTTP(w, r)
	})
	content := bytes.Repeat([]byte("x"), 1<<20)
	sent := 0
	source := reading(func(p []byte) (int, error) {
		if sent == len(content) {
			return 0, io.EOF
		}
		if sent > len(content)/2 {
			select {
			case <-arrived:
			case <-t.Context().Done():
			case <-time.After(time.Minute):
				t.Error("nothing arrives while the source has not ended")
				return 0, io.ErrUnexpectedEOF
			}
		}
		n := copy(p, content[sent:min(len(content), sent+64<<10)])
		sent += n
		return n, nil
	})
	if err := repository(t, newRegistry(t, dst), "ns/app").Push(t.Context(), describe("x/y", content), source); err != nil {
		t.Error(err)
	}
}

// TestPushRefused: whose failure it was is told, and the session of a mount is not
// used twice.
func TestPushRefused(t *testing.T) {
	t.Parallel()
	put := func(f lab.Fault) lab.Fault {
		return lab.When(func(r *http.Request) bool { return r.Method == http.MethodPut }, f)
	}
	tests := []struct {
		name  string
		fault lab.Fault
		want  importer.Kind
		text  string
	}{
		{name: "forbidden to begin", fault: lab.Answering(403, "application/json", `{"errors":[{"code":"DENIED","message":"SECRET"}]}`), want: importer.MirrorUnauthorized, text: "403 DENIED"},
		{name: "nowhere to go on", fault: lab.Answering(202, "", ""), want: importer.MirrorUnavailable, text: "does not say where"},
		{name: "full", fault: put(lab.Answering(507, "", "SECRET")), want: importer.MirrorUnavailable, text: "no space left"},
		{name: "too large", fault: put(lab.Answering(413, "", "SECRET")), want: importer.MirrorUnavailable, text: "413"},
		{name: "it says that it changed on the way", fault: put(lab.Answering(400, "application/json", `{"errors":[{"code":"DIGEST_INVALID"}]}`)), want: importer.MirrorUnavailable, text: "400 DIGEST_INVALID"},
		{name: "the connection ends", fault: put(lab.CuttingAfter(0)), want: importer.MirrorUnavailable},
		{name: "it redirects to a page", fault: put(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.Copy(io.Discard, r.Body)
			http.Redirect(w, r, "/login", http.StatusFound)
		}), want: importer.MirrorUnavailable, text: "check the address in the Secret"},
		{name: "it wants credentials when it has a blob", fault: put(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}), want: importer.MirrorUnavailable, text: "cannot be sent twice"},
		{name: "content that was not taken", fault: put(lab.Answering(201, "", "")), want: importer.MirrorUnavailable, text: "did not take all"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, lab.TrustedTLS)
			dst.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
				if r.URL.Path == "/login" {
					return
				}
				tt.fault(w, r, registry)
			})
			app := repository(t, newRegistry(t, dst, func(c *Config, _ *Options) { c.Username, c.Password = "u", "p" }), "ns/app")
			content := bytes.Repeat([]byte("x"), 32<<20) // more than lies in buffers on the way
			err := app.Push(t.Context(), describe("x/y", content), bytes.NewReader(content))
			wantFailure(t, err, tt.want, tt.text)
			if errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err) {
				t.Errorf("%v blames the content", err)
			}
		})
	}
}

// TestSessions: the upload that a refused mount begins is the one that is used, once.
func TestSessions(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	keep(t, dst)
	mirror := newRegistry(t, dst)
	mirror.mounts.Store(mountsYes)
	app := repository(t, mirror, "ns/app")
	d, raw := blob("content")
	if held, err := app.Mount(t.Context(), d); err != nil || held {
		t.Fatal(held, err)
	}
	for n, want := range []map[string]int{{"POST blobs": 1, "PUT blobs": 1}, {"POST blobs": 1, "PUT blobs": 1}} {
		if err := app.Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, dst.Requests()); diff != "" {
			t.Errorf("requests of push %d (-want +got):\n%s", n, diff)
		}
	}
}
