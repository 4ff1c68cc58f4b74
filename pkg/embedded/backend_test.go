// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/distribution"
)

// onlyToken lets one token do everything.
type onlyToken string

func (t onlyToken) Authorize(ctx context.Context, creds distribution.Credentials, _ distribution.Repository, _ distribution.Action) (context.Context, error) {
	if creds.Token != string(t) {
		return nil, distribution.ErrUnauthenticated
	}
	return ctx, nil
}

// TestPullThroughEndpoint pulls an index of two platforms with crane's library,
// over TLS, and compares every byte.
func TestPullThroughEndpoint(t *testing.T) {
	t.Parallel()
	source := platforms(t, "amd64", "arm64")
	s := openStore(t, t.TempDir())
	root := pushIndex(t, s.Repository("ns", "app"), source, "latest", "anchor-1")

	server := httptest.NewTLSServer(distribution.New(s, onlyToken("token"), distribution.Options{}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "https://")
	options := func(auth authn.Authenticator) []remote.Option {
		return []remote.Option{remote.WithContext(t.Context()), remote.WithTransport(server.Client().Transport), remote.WithAuth(auth)}
	}
	tests := []struct {
		name string
		ref  string
		auth authn.Authenticator
		// want is the status of a refusal, 0 for none.
		want int
	}{
		{name: "tag, Basic", ref: "/ns/app:latest", auth: &authn.Basic{Username: "any", Password: "token"}},
		{name: "digest, Basic", ref: "/ns/app@" + root.Digest.String(), auth: &authn.Basic{Username: "any", Password: "token"}},
		{name: "tag, Bearer", ref: "/ns/app:latest", auth: &authn.Bearer{Token: "token"}},
		{name: "wrong token", ref: "/ns/app:latest", auth: &authn.Basic{Username: "any", Password: "wrong"}, want: http.StatusUnauthorized},
		{name: "anonymous", ref: "/ns/app:latest", auth: authn.Anonymous, want: http.StatusUnauthorized},
		{name: "unknown tag", ref: "/ns/app:other", auth: &authn.Bearer{Token: "token"}, want: http.StatusNotFound},
		{name: "anchor", ref: "/ns/app:anchor-1", auth: &authn.Bearer{Token: "token"}, want: http.StatusNotFound},
		{name: "digest in another repository", ref: "/ns/b@" + root.Digest.String(), auth: &authn.Bearer{Token: "token"}, want: http.StatusNotFound},
		{name: "digest in another namespace", ref: "/b/app@" + root.Digest.String(), auth: &authn.Bearer{Token: "token"}, want: http.StatusNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref, err := name.ParseReference(host + tt.ref)
			if err != nil {
				t.Fatal(err)
			}
			pulled, err := remote.Index(ref, options(tt.auth)...)
			if tt.want != 0 {
				if got := statusOf(err); got != tt.want {
					t.Errorf("got %v, want status %d", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(pulled); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(contents(t, source), contents(t, pulled)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// platforms makes an index with a random image for each architecture.
func platforms(t *testing.T, architectures ...string) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range architectures {
		image, err := random.Image(64<<10, 3)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", architecture
		if image, err = mutate.ConfigFile(image, config); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	return index
}

// pushIndex sends an index and all that is below it, children first.
func pushIndex(t *testing.T, repo *Repository, index v1.ImageIndex, tags ...string) ocispec.Descriptor {
	t.Helper()
	send := func(mediaType types.MediaType, data []byte) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err := repo.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	must := func(data []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	eachImage(t, index, func(image v1.Image, mediaType types.MediaType) {
		eachLayer(t, image, func(data []byte) { send(types.DockerLayer, data) })
		send(types.DockerConfigJSON, must(image.RawConfigFile()))
		send(mediaType, must(image.RawManifest()))
	})
	root := send(types.OCIImageIndex, must(index.RawManifest()))
	named := map[string]digest.Digest{}
	for _, tag := range tags {
		named[tag] = root.Digest
	}
	if err := repo.Commit(t.Context(), named); err != nil {
		t.Fatal(err)
	}
	return root
}

func eachImage(t *testing.T, index v1.ImageIndex, do func(v1.Image, types.MediaType)) {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range manifest.Manifests {
		image, err := index.Image(desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		do(image, desc.MediaType)
	}
}

func eachLayer(t *testing.T, image v1.Image, do func([]byte)) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		reader, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		_ = reader.Close() // read to its end
		do(data)
	}
}

// contents returns everything that makes up an index, in order.
func contents(t *testing.T, index v1.ImageIndex) []string {
	t.Helper()
	var all []string
	add := func(raw func() ([]byte, error)) {
		data, err := raw()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(data))
	}
	add(index.RawManifest)
	eachImage(t, index, func(image v1.Image, _ types.MediaType) {
		add(image.RawManifest)
		add(image.RawConfigFile)
		eachLayer(t, image, func(data []byte) { all = append(all, digest.FromBytes(data).String()) })
	})
	return all
}

func statusOf(err error) int {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return 0
	}
	return refused.StatusCode
}
