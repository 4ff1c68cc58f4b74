// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// longerThanRequests is longer than kube-apiserver and Tagger let other requests go on.
const longerThanRequests = 65 * time.Second

// proxied pushes and pulls through kube-apiserver, with the rights of the roles and with less, and for longer than other requests may
// take.
func proxied(t *testing.T, x *tagger) {
	if _, err := kubectl(t, x.Cluster, "create", "role", "proxy-only", "-n", "a", "--verb", "get,create,update,patch,delete", "--resource", "images.tagger.dev/proxy"); err != nil {
		t.Fatal(err)
	}
	if _, err := kubectl(t, x.Cluster, "create", "rolebinding", "proxy-only", "-n", "a", "--role", "proxy-only", "--user", "paula"); err != nil {
		t.Fatal(err)
	}
	users := []string{"ann", "alice", "victor", "bob", "paula", "nobody"}
	clients := map[string]*http.Client{}
	var host string
	for _, user := range users {
		access, err := x.User(user)
		if err != nil {
			t.Fatal(err)
		}
		if clients[user], err = rest.HTTPClientFor(access.Config); err != nil {
			t.Fatal(err)
		}
		host = access.Config.Host
	}
	at := func(namespace, image string) string {
		return host + "/apis/tagger.dev/v1beta1/namespaces/" + namespace + "/images/" + image + "/proxy"
	}
	status := func(ctx context.Context, user, method, url string) (int, error) {
		request, err := http.NewRequestWithContext(ctx, method, url, nil)
		if err != nil {
			return 0, err
		}
		response, err := clients[user].Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	none := digest.FromString("there is no such content").String()
	for _, tt := range []struct {
		what, method, url string
		want              []int // of the users, in their order
	}{
		{"a pull", http.MethodGet, at("a", "app") + "/v2/a/app/manifests/latest", []int{200, 200, 200, 403, 404, 403}},
		{"a HEAD", http.MethodHead, at("a", "app") + "/v2/a/app/manifests/latest", []int{200, 200, 200, 403, 404, 403}},
		{"a push", http.MethodPost, at("a", "app") + "/v2/a/app/blobs/uploads/", []int{202, 202, 403, 403, 404, 403}},
		{"a push to an Image that is not there", http.MethodPost, at("a", "new") + "/v2/a/new/blobs/uploads/", []int{202, 202, 403, 403, 404, 403}},
		{"a deletion of what is not there", http.MethodDelete, at("a", "app") + "/v2/a/app/blobs/" + none, []int{404, 404, 403, 403, 404, 403}},
		{"the other namespace", http.MethodGet, at("b", "app") + "/v2/b/app/manifests/latest", []int{403, 403, 403, 200, 403, 403}},
		{"the other namespace by a path of this one", http.MethodGet, at("a", "app") + "/v2/b/app/manifests/latest", []int{404, 404, 404, 403, 404, 403}},
		{"this namespace by a path of the other one", http.MethodGet, at("b", "app") + "/v2/a/app/manifests/latest", []int{403, 403, 403, 404, 403, 403}},
	} {
		for i, user := range users {
			eventually(t, tt.what+" by "+user, func(ctx context.Context) error { // roles are aggregated, and caches filled, after a while
				got, err := status(ctx, user, tt.method, tt.url)
				if err == nil && got != tt.want[i] {
					err = fmt.Errorf("status %d, want %d", got, tt.want[i])
				}
				return err
			})
		}
	}

	// Layers are larger than what objects of the API may be.
	layer, err := random.Layer(32<<20, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(randomImage(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(forward(t, clients["alice"], at("a", "pushed"), "a/pushed:v1"), image); err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(forward(t, clients["victor"], at("a", "pushed"), "a/pushed:v1"))
	if err == nil {
		err = validate.Image(pulled)
	}
	if err != nil {
		t.Error(err)
	}
	if err := remote.Write(forward(t, clients["bob"], at("a", "pushed"), "a/pushed:v2"), image); err == nil {
		t.Error("bob pushes to the namespace of alice")
	}
	var streams errgroup.Group
	streams.Go(func() error {
		return slowUpload(t.Context(), clients["alice"], at("a", "pushed")+"/v2/a/pushed/blobs/uploads/")
	})
	streams.Go(func() error {
		hash, err := layer.Digest()
		if err != nil {
			return err
		}
		return slowDownload(t.Context(), clients["victor"], at("a", "pushed")+"/v2/a/pushed/blobs/", digest.Digest(hash.String()))
	})
	if err := streams.Wait(); err != nil {
		t.Error(err)
	}
}

// forward returns a reference to an image on a port of its own, from where a client's requests go below a URL. The client of a
// registry knows no such prefix.
func forward(t *testing.T, client *http.Client, below, repository string) name.Reference {
	t.Helper()
	target, err := url.Parse(below)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Transport: client.Transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			location, err := r.Location()
			if errors.Is(err, http.ErrNoLocation) {
				return nil
			}
			below, ok := strings.CutPrefix(location.Path, target.Path)
			if !ok || location.Host != target.Host {
				err = fmt.Errorf("the location %q does not lead through kube-apiserver", r.Header.Get("Location"))
			}
			r.Header.Set("Location", below)
			return err
		},
	})
	t.Cleanup(server.Close)
	reference, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

// ask makes a request of a client's, and returns its answer where that has the status that is wanted.
func ask(ctx context.Context, client *http.Client, method, url string, body io.Reader, want int) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err == nil && response.StatusCode != want {
		_ = response.Body.Close()
		err = fmt.Errorf("%s %s: status %d, want %d", method, url, response.StatusCode, want)
	}
	return response, err
}

// slowly does something in as many parts, for longer than requests may take.
func slowly(ctx context.Context, parts int, do func(part int) error) error {
	ticker := time.NewTicker(longerThanRequests / time.Duration(parts-1))
	defer ticker.Stop()
	for part := range parts {
		if part > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := do(part); err != nil {
			return fmt.Errorf("part %d: %w", part, err)
		}
	}
	return nil
}

// slowUpload sends a blob in one slow chunk.
func slowUpload(ctx context.Context, client *http.Client, uploads string) error {
	upload, err := locationOf(ask(ctx, client, http.MethodPost, uploads, nil, http.StatusAccepted))
	if err != nil {
		return err
	}
	const parts = 8
	content := bytes.Repeat([]byte("slow"), parts<<16)
	body, writer := io.Pipe()
	var sending errgroup.Group
	sending.Go(func() error {
		err := slowly(ctx, parts, func(part int) error {
			size := len(content) / parts
			_, err := writer.Write(content[part*size : (part+1)*size])
			return err
		})
		_ = writer.CloseWithError(err)
		return err
	})
	upload, err = locationOf(ask(ctx, client, http.MethodPatch, upload, body, http.StatusAccepted))
	if err != nil {
		return errors.Join(err, body.Close(), sending.Wait())
	}
	_, err = locationOf(ask(ctx, client, http.MethodPut, upload+"?digest="+digest.FromBytes(content).String(), nil, http.StatusCreated))
	return errors.Join(err, sending.Wait())
}

// locationOf returns where an answer without a body leads to.
func locationOf(response *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	location, err := response.Location()
	if err != nil {
		return "", err
	}
	return location.String(), nil
}

// slowDownload reads a blob slowly.
func slowDownload(ctx context.Context, client *http.Client, blobs string, dgst digest.Digest) error {
	response, err := ask(ctx, client, http.MethodGet, blobs+dgst.String(), nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	const parts = 8
	verifier := dgst.Verifier()
	if err := slowly(ctx, parts, func(part int) error {
		size := response.ContentLength / parts
		if part == parts-1 {
			size = response.ContentLength - size*(parts-1)
		}
		_, err := io.CopyN(verifier, response.Body, size)
		return err
	}); err != nil {
		return err
	}
	if !verifier.Verified() {
		return errors.New("what was read slowly has another digest")
	}
	return nil
}
