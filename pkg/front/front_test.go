// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/test/lab"
)

func TestPushAndPull(t *testing.T) {
	t.Parallel()
	source := lab.New(t, lab.TrustedTLS)
	e := serve(t, Config{Mirrors: mirrors{"ns": registryAt(t, source)}})
	content := strings.Repeat("0123456789", 100_000)
	layer, config := e.put(t, "ns/app", content), e.put(t, "ns/app", "{}")
	m := e.putManifest(t, "ns/app", "v1", ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}})
	large := e.putManifest(t, "ns/app", "large", ocispec.Manifest{Config: config, Annotations: map[string]string{"a": content}})
	blobPath := "/v2/ns/app/blobs/" + layer.Digest.String()
	source.Requests()

	for _, tt := range []struct {
		name, method, path string
		headers            []string
		want               string // the status
		body               string
		header             map[string]string
		asked              map[string]int
	}{
		{
			name: "a manifest by its tag", method: http.MethodHead, path: "/v2/ns/app/manifests/v1", want: "200",
			header: map[string]string{"Docker-Content-Digest": m.Digest.String(), "Content-Type": m.MediaType},
			asked:  map[string]int{"HEAD manifests": 1, "GET manifests": 1},
		},
		{
			name: "a manifest by its digest", method: http.MethodHead, path: "/v2/ns/app/manifests/" + m.Digest.String(), want: "200",
			asked: map[string]int{"GET manifests": 1},
		},
		{
			name: "a large manifest, which is not held", method: http.MethodGet, path: "/v2/ns/app/manifests/" + large.Digest.String(), want: "200",
			header: map[string]string{"Content-Type": large.MediaType, "Content-Length": strconv.FormatInt(large.Size, 10)},
			asked:  map[string]int{"GET manifests": 2},
		},
		{
			name: "a part of it", method: http.MethodGet, path: "/v2/ns/app/manifests/" + large.Digest.String(), headers: []string{"Range: bytes=1-15"},
			want: "206", body: `"schemaVersion"`, asked: map[string]int{"GET manifests": 2},
		},
		{
			name: "whether a blob is there", method: http.MethodHead, path: blobPath, want: "200",
			header: map[string]string{"Content-Length": "1000000", "Docker-Content-Digest": layer.Digest.String()},
			asked:  map[string]int{"HEAD blobs": 1},
		},
		{name: "a blob", method: http.MethodGet, path: blobPath, want: "200", body: content, asked: map[string]int{"HEAD blobs": 1, "GET blobs": 1}},
		{
			name: "a part of a blob", method: http.MethodGet, path: blobPath, headers: []string{"Range: bytes=999990-"}, want: "206", body: "0123456789",
			header: map[string]string{"Content-Range": "bytes 999990-999999/1000000"},
			asked:  map[string]int{"HEAD blobs": 1, "GET blobs": 1},
		},
		{
			name: "a part in the middle", method: http.MethodGet, path: blobPath, headers: []string{"Range: bytes=11-13"}, want: "206", body: "123",
			asked: map[string]int{"HEAD blobs": 1, "GET blobs": 1},
		},
		{
			name: "several parts, in place of which there is all", method: http.MethodGet, path: blobPath, headers: []string{"Range: bytes=0-1,4-5"},
			want: "200", body: content, asked: map[string]int{"HEAD blobs": 1, "GET blobs": 1},
		},
		{
			name: "a part that is not there", method: http.MethodGet, path: blobPath, headers: []string{"Range: bytes=1000000-"}, want: "416",
			body: "invalid range: failed to overlap\n", asked: map[string]int{"HEAD blobs": 1},
		},
		{
			name: "a blob that is known", method: http.MethodGet, path: blobPath, headers: []string{`If-None-Match: "` + layer.Digest.String() + `"`},
			want: "304", asked: map[string]int{"HEAD blobs": 1},
		},
		{
			name: "no such blob", method: http.MethodHead, path: "/v2/ns/app/blobs/" + digest.FromString("none").String(), want: "404",
			asked: map[string]int{"HEAD blobs": 1},
		},
		{
			name: "no such blob by sha512, which this registry does not know", method: http.MethodHead,
			path: "/v2/ns/app/blobs/" + digest.SHA512.FromString("none").String(), want: "404", asked: map[string]int{"HEAD blobs": 1},
		},
		{name: "no such tag", method: http.MethodHead, path: "/v2/ns/app/manifests/v2", want: "404", asked: map[string]int{"HEAD manifests": 1}},
		{
			name: "tags", method: http.MethodGet, path: "/v2/ns/app/tags/list", want: "200", body: `{"name":"ns/app","tags":["large","v1"]}` + "\n",
			asked: map[string]int{"GET /v2/ns/app/tags/list": 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := e.do(t, tt.method, tt.path, "", tt.headers...)
			want(t, tt.name, got, tt.want)
			if tt.body != "" && got.body != tt.body {
				t.Errorf("got %d bytes, want %d, and those", len(got.body), len(tt.body))
			}
			for key, value := range tt.header {
				if got.header.Get(key) != value {
					t.Errorf("%s: got %q, want %q", key, got.header.Get(key), value)
				}
			}
			if diff := cmp.Diff(tt.asked, source.Requests()); diff != "" {
				t.Errorf("asked of the mirror (-want +got):\n%s", diff)
			}
		})
	}
}

// TestManifestsWait: no manifest is read without a place, also where a mirror does not say the digest of a tag.
func TestManifestsWait(t *testing.T) {
	t.Parallel()
	source := lab.New(t, lab.TrustedTLS)
	registry := registryAt(t, source)
	e := serve(t, Config{Mirrors: mirrors{"ns": registry}})
	m := e.putManifest(t, "ns/app", "v1", ocispec.Manifest{Config: e.put(t, "ns/app", "{}")})
	source.Requests()
	source.Misbehave(lab.When(func(r *http.Request) bool { return r.Method == http.MethodHead }, lab.Answering(http.StatusOK, "", "")))
	f, repo := New(Config{Mirrors: mirrors{"ns": registry}}), distribution.Repository{Namespace: "ns", Name: "app"}
	var releases []func()
	for range maxDocumentsOfNamespace {
		release, ok := f.documentsOfNamespace.TryAcquire("ns")
		if !ok {
			t.Fatal("no place")
		}
		releases = append(releases, release)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.Resolve(ctx, repo, "v1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a place: %v", err)
	}
	if diff := cmp.Diff(map[string]int{}, source.Requests(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("asked of the mirror without a place (-want +got):\n%s", diff)
	}
	for _, release := range releases {
		release()
	}
	if desc, err := f.Resolve(t.Context(), repo, "v1"); err != nil || desc.Digest != m.Digest {
		t.Errorf("with one: %v, %v, want %s", desc.Digest, err, m.Digest)
	}
	if !f.documents.Idle() || !f.documentsOfNamespace.Idle() {
		t.Error("a place was kept")
	}
}

// TestReferrers: the registry of the lab has no API for them, which nobody sees from outside.
func TestReferrers(t *testing.T) {
	t.Parallel()
	e := serve(t, Config{Mirrors: mirrors{"ns": registryAt(t, lab.New(t, lab.TrustedTLS))}})
	config := e.put(t, "ns/app", "{}")
	subject := e.putManifest(t, "ns/app", "v1", ocispec.Manifest{Config: config})
	listed := func(query string) []string {
		t.Helper()
		got := e.do(t, http.MethodGet, "/v2/ns/app/referrers/"+subject.Digest.String()+query, "")
		want(t, "listing", got, "200")
		var index ocispec.Index
		if err := json.Unmarshal([]byte(got.body), &index); err != nil {
			t.Fatal(err)
		}
		types := []string{}
		for _, d := range index.Manifests {
			types = append(types, d.ArtifactType+" "+d.Annotations["a"])
		}
		return types
	}
	compare := func(what string, want, got []string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	compare("of nothing", []string{}, listed(""))
	artifact := func(artifactType string) ocispec.Descriptor {
		return e.putManifest(t, "ns/app", "", ocispec.Manifest{
			ArtifactType: artifactType, Config: config, Subject: &subject, Annotations: map[string]string{"a": "1"},
		})
	}
	first := artifact("x/one")
	artifact("x/two")
	artifact("x/two")
	compare("of two", []string{"x/one 1", "x/two 1"}, listed(""))
	compare("of one type", []string{"x/two 1"}, listed("?artifactType=x/two"))
	want(t, "deleting one", e.do(t, http.MethodDelete, "/v2/ns/app/manifests/"+first.Digest.String(), ""), "202")
	compare("of one that is left", []string{"x/two 1"}, listed(""))
	want(t, "deleting it again", e.do(t, http.MethodDelete, "/v2/ns/app/manifests/"+first.Digest.String(), ""), "404 MANIFEST_UNKNOWN")
}

// TestDeletionOfWhatIsNamed: what the history of an Image names stays, as far as it is looked at.
func TestDeletionOfWhatIsNamed(t *testing.T) {
	t.Parallel()
	mirrored := lab.New(t, lab.TrustedTLS)
	registry := registryAt(t, mirrored)
	e := serve(t, Config{Mirrors: mirrors{"ns": registry}})
	kept, _, err := registry.Repository("ns", "app")
	if err != nil {
		t.Fatal(err)
	}
	putIndex := func(tag string, names ...ocispec.Descriptor) ocispec.Descriptor {
		raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: names})
		if err != nil {
			t.Fatal(err)
		}
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if err := kept.PutManifest(t.Context(), d, raw, []string{tag}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	config, layer := e.put(t, "ns/app", "{}"), e.put(t, "ns/app", "layer")
	platform := e.putManifest(t, "ns/app", "", ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}})
	inner := putIndex("inner", platform)
	outer := putIndex("anchor-1", inner)
	other := e.put(t, "ns/app", "other")
	unkept := e.putManifest(t, "ns/app", "", ocispec.Manifest{Config: other})
	putIndex("v1", unkept)
	for _, tt := range []struct{ name, path, want string }{
		{name: "an index in an index", path: "manifests/" + inner.Digest.String(), want: "409 DENIED"},
		{name: "an image in that", path: "manifests/" + platform.Digest.String(), want: "409 DENIED"},
		{name: "a layer of that", path: "blobs/" + layer.Digest.String(), want: "409 DENIED"},
		{name: "a config of that", path: "blobs/" + config.Digest.String(), want: "409 DENIED"},
		{name: "an image that no history names", path: "manifests/" + unkept.Digest.String(), want: "202"},
		{name: "a config that no history names", path: "blobs/" + other.Digest.String(), want: "202"},
		{name: "what is not there", path: "manifests/" + digest.FromString("x").String(), want: "404 MANIFEST_UNKNOWN"},
		{name: "what the history has itself", path: "manifests/" + outer.Digest.String(), want: "202"},
	} {
		want(t, tt.name, e.do(t, http.MethodDelete, "/v2/ns/app/"+tt.path, ""), tt.want)
	}
	mirrored.Misbehave(lab.When(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/tags/list") }, lab.Answering(http.StatusInternalServerError, "", "SECRET")))
	want(t, "when it cannot be looked at", e.do(t, http.MethodDelete, "/v2/ns/app/manifests/"+inner.Digest.String(), ""), "503 UNKNOWN")
}

func TestWhere(t *testing.T) {
	t.Parallel()
	one, all := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	asked := ""
	note := func(who string) lab.Fault {
		return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
			asked = who + " " + r.URL.Path
			registry.ServeHTTP(w, r)
		}
	}
	one.Misbehave(note("one"))
	all.Misbehave(note("all"))
	stored := lab.New(t, lab.TrustedTLS)
	stored.Misbehave(note("store"))
	store := New(Config{Mirrors: mirrors{"none": registryAt(t, stored)}, Keys: oneKey(), Clock: clock.RealClock{}})
	withStore := serve(t, Config{Mirrors: mirrors{"one": registryAt(t, one)}, Store: store})
	e := serve(t, Config{Mirrors: mirrors{"one": registryAt(t, one), "all": registryAt(t, all, inOneRepository), "a-b": registryAt(t, all, inOneRepository)}})
	blob := digest.FromString("x").String()
	for _, tt := range []struct {
		name, method, path, body, want string
		words                          []string
		asked                          string // of which source
		endpoint                       *endpoint
	}{
		{name: "the store where there is no mirror", endpoint: withStore, method: http.MethodPost, path: "/v2/none/app/blobs/uploads/", want: "202", asked: "store /v2/none/app/blobs/uploads/"},
		{name: "not the store where there is one", endpoint: withStore, method: http.MethodPost, path: "/v2/one/app/blobs/uploads/", want: "202", asked: "one /v2/one/app/blobs/uploads/"},
		{name: "a repository for each", method: http.MethodPost, path: "/v2/one/app/blobs/uploads/", want: "202", asked: "one /v2/one/app/blobs/uploads/"},
		{name: "one for all", method: http.MethodPost, path: "/v2/all/app/blobs/uploads/", want: "202", asked: "all /v2/cluster/all_app/blobs/uploads/"},
		{
			name: "a name that could be another one's", method: http.MethodPost, path: "/v2/all/a_b/blobs/uploads/", want: "400 NAME_INVALID",
			words: []string{"none can be called all/a_b"},
		},
		{name: "reading that", method: http.MethodGet, path: "/v2/all/a__b/blobs/" + blob, want: "404 NAME_UNKNOWN"},
		{
			name: "pushing without a mirror", method: http.MethodPost, path: "/v2/none/app/blobs/uploads/", want: "403 DENIED",
			words: []string{"no mirror is configured", "namespace none", "ask somebody"},
		},
		{
			name: "pushing a manifest without a mirror", method: http.MethodPut, path: "/v2/none/app/manifests/v1", body: `{"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`,
			want: "403 DENIED",
		},
		{name: "reading without a mirror", method: http.MethodGet, path: "/v2/none/app/blobs/" + blob, want: "404 NAME_UNKNOWN"},
		{name: "tags without a mirror", method: http.MethodGet, path: "/v2/none/app/tags/list", want: "404 NAME_UNKNOWN"},
		{name: "deleting without a mirror", method: http.MethodDelete, path: "/v2/none/app/blobs/" + blob, want: "404 NAME_UNKNOWN"},
		{name: "a mirror that is configured wrongly", method: http.MethodGet, path: "/v2/broken/app/blobs/" + blob, want: "503 UNKNOWN", words: []string{"the Secret tagger/mirror-registry-config"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked = ""
			at := e
			if tt.endpoint != nil {
				at = tt.endpoint
			}
			want(t, tt.name, at.do(t, tt.method, tt.path, tt.body), tt.want, tt.words...)
			if asked != tt.asked {
				t.Errorf("asked %q, want %q", asked, tt.asked)
			}
		})
	}
}

// TestMount: within the namespace, and only what the other repository has.
func TestMount(t *testing.T) {
	t.Parallel()
	source := lab.New(t, lab.TrustedTLS)
	var asked []string
	source.Misbehave(lab.When(func(r *http.Request) bool { return r.URL.Query().Has("mount") }, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		asked = append(asked, r.URL.Query().Get("from"))
		w.WriteHeader(http.StatusCreated)
	}))
	registry := registryAt(t, source)
	e := serve(t, Config{Mirrors: mirrors{"ns": registry, "other": registry}})
	held := e.put(t, "ns/one", "content").Digest.String()
	for _, tt := range []struct {
		name, from, digest, want string
		asked                    []string
	}{
		{name: "from the same namespace", from: "ns/one", digest: held, want: "201", asked: []string{"ns/one"}},
		{name: "from another namespace", from: "other/one", digest: held, want: "202"},
		{name: "what is not there, whatever the mirror says", from: "ns/one", digest: digest.FromString("none").String(), want: "202"},
		{name: "from anywhere", digest: held, want: "202"},
		{name: "from what cannot be", from: "ns/a_b", digest: held, want: "202"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked = nil
			want(t, tt.name, e.do(t, http.MethodPost, "/v2/ns/two/blobs/uploads/?mount="+tt.digest+"&from="+tt.from, ""), tt.want)
			if diff := cmp.Diff(tt.asked, asked); diff != "" {
				t.Errorf("mounted (-want +got):\n%s", diff)
			}
		})
	}
}
