// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/test/lab"
)

// TestRequests holds what a mirror is asked: for an image of B blobs and K
// manifests 2B+K+1 requests, and one for each tag.
func TestRequests(t *testing.T) {
	t.Parallel()
	src, dst := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	keep(t, dst)
	mirror := newRegistry(t, dst)
	image(t, src, "first:v1", "v1", "one", "two")
	index(t, src, "app:v1", "v1", image(t, src, "app", "", "a", "b", "c"), image(t, src, "app", "", "a", "d"))
	index(t, src, "app:v2", "v2", image(t, src, "app", "", "a", "b", "e"))
	image(t, src, "sibling:v1", "v1", "a", "b", "c", "d")

	copyTo(t, src, "first:v1", repository(t, mirror, "ns/first")) // by which it learns what the registry can
	dst.Requests()
	want := func(what string, want map[string]int) {
		t.Helper()
		if diff := cmp.Diff(want, dst.Requests()); diff != "" {
			t.Errorf("requests %s (-want +got):\n%s", what, diff)
		}
	}

	app := repository(t, mirror, "ns/app")
	root := copyTo(t, src, "app:v1", app)
	const blobs, manifests = 4 + 2, 3
	got := dst.Requests()
	if total(got) != 2*blobs+manifests+1 {
		t.Errorf("%d requests, want %d: %v", total(got), 2*blobs+manifests+1, got)
	}
	commit(t, app, "anchor-1", root)
	commit(t, repository(t, mirror, "ns/app"), "latest", root)
	want("of two tags after a copy", map[string]int{"PUT manifests": 2})

	again := repository(t, mirror, "ns/app")
	if complete, err := again.Complete(t.Context(), root); err != nil || !complete {
		t.Errorf("complete: %t, %v", complete, err)
	}
	want("when nothing changed", map[string]int{"GET manifests": manifests, "HEAD blobs": blobs})
	commit(t, again, "latest", root)
	want("of a tag that is as it should be", map[string]int{"HEAD manifests": 1})

	copyTo(t, src, "app:v2", repository(t, mirror, "ns/app"))
	want("of a change: two blobs of four are new", map[string]int{
		"GET manifests": 1, "PUT manifests": 2, "POST blobs": 2 + 2, "PUT blobs": 2,
	})
	copyTo(t, src, "sibling:v1", repository(t, mirror, "ns/sibling"))
	want("of another Image: one blob of five is new", map[string]int{
		"GET manifests": 1, "PUT manifests": 1, "POST blobs": 4 + 1, "PUT blobs": 1,
	})
	copyTo(t, src, "app:v1", repository(t, mirror, "other/app"))
	want("of another namespace: all are", map[string]int{
		"GET manifests": 1, "PUT manifests": manifests, "POST blobs": blobs, "PUT blobs": blobs,
	})

	newcomer := newRegistry(t, dst) // after a restart
	copyTo(t, src, "first:v1", repository(t, newcomer, "ns/second"))
	dst.Requests()
	commit(t, repository(t, newcomer, "ns/app"), "anchor-2", root)
	want("of a tag for what an earlier process left", map[string]int{"HEAD manifests": 1, "GET manifests": 1, "PUT manifests": 1})
}

// TestNothingIsSentTwice: also to a registry that mounts nothing.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	src, dst := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	keep(t, dst, func(k *keeper) { k.mountless = true })
	image(t, src, "app:v1", "v1", "a", "b")
	image(t, src, "app:v2", "v2", "a", "b", "c")
	copyTo(t, src, "app:v1", repository(t, newRegistry(t, dst), "ns/app"))
	if got := dst.Requests()["DELETE blobs"]; got > 1 {
		t.Errorf("%d uploads were given up, want at most that of the question", got)
	}
	for _, restarted := range []*Registry{newRegistry(t, dst), newRegistry(t, dst)} {
		app := repository(t, restarted, "ns/app")
		for _, content := range []string{"a", "b"} {
			d, _ := blob(content)
			if held, err := app.Mount(t.Context(), d); err != nil || !held {
				t.Errorf("%q is not found: %t, %v", content, held, err)
			}
		}
	}
	dst.Requests()
	copyTo(t, src, "app:v2", repository(t, newRegistry(t, dst), "ns/app"))
	if got := dst.Requests()["PUT blobs"]; got != 2 {
		t.Errorf("%d blobs were sent, want the layer and the config that are new", got)
	}
}

// TestMount: only repositories of the same namespace, which are named, give blobs.
func TestMount(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	k := keep(t, dst)
	mirror := newRegistry(t, dst)
	d := push(t, repository(t, mirror, "a/one"), "content")
	mount := func(name string, want bool) {
		t.Helper()
		if got, err := repository(t, mirror, name).Mount(t.Context(), d); err != nil || got != want {
			t.Errorf("mounted in %s: %t, %v", name, got, err)
		}
	}
	mount("b/one", false)
	mount("a/two", true)
	mount("a/one", true)
	k.lose("a/one", d.Digest)
	k.lose("a/two", d.Digest)
	mount("a/two", false) // what is remembered is not believed
	push(t, repository(t, mirror, "a/one"), "content")
	mount("a/two", true)
	for _, from := range k.from {
		source, to, _ := strings.Cut(from, "→")
		if source[:2] != "a/" || to[:2] != "a/" {
			t.Errorf("mounted %s", from)
		}
	}
	manifest := pushManifest(t, repository(t, mirror, "a/one"), ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "manifests": []string{}})
	for name, want := range map[string]bool{"a/one": true, "a/two": false} {
		if got, err := repository(t, mirror, name).Mount(t.Context(), manifest); err != nil || got != want {
			t.Errorf("the manifest is held by %s: %t, %v", name, got, err)
		}
	}
}

// TestMountFromAnywhere: a registry that does not care from where it is asked to
// mount gives no namespace what another one has.
func TestMountFromAnywhere(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	keep(t, dst, func(k *keeper) { k.anywhere = true })
	mirror := newRegistry(t, dst)
	d := push(t, repository(t, mirror, "b/app"), "content")
	if held, err := repository(t, mirror, "a/app").Mount(t.Context(), d); err != nil || held {
		t.Errorf("what is of b is mounted for a: %t, %v", held, err)
	}
}

// TestMountUnknown: a registry that refuses to mount anything is pushed to.
func TestMountUnknown(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 404, 405, 501} {
		dst := lab.New(t, lab.TrustedTLS)
		mirror := newRegistry(t, dst)
		mirror.mounts.Store(mountsYes)
		dst.Misbehave(lab.When(func(r *http.Request) bool { return r.URL.Query().Has("mount") }, lab.Answering(status, "", "")))
		app := repository(t, mirror, "ns/app")
		d, _ := blob("content")
		if held, err := app.Mount(t.Context(), d); err != nil || held {
			t.Errorf("%d: %t, %v", status, held, err)
		}
		push(t, app, "content")
	}
}

// TestMountRefused: that another repository must not be read is no failure.
func TestMountRefused(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	mirror := newRegistry(t, dst)
	k := keep(t, dst)
	d := push(t, repository(t, mirror, "a/one"), "content")
	dst.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if r.URL.Query().Get("from") == "a/one" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		k.answer(w, r, registry)
	})
	two := repository(t, mirror, "a/two")
	if held, err := two.Mount(t.Context(), d); err != nil || held {
		t.Errorf("got %t, %v", held, err)
	}
	push(t, two, "content")
}

func TestCommit(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	keep(t, dst)
	mirror := newRegistry(t, dst)
	app := repository(t, mirror, "ns/app")
	empty := func(name string) map[string]any {
		return map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []string{}, "annotations": map[string]string{"x": name}}
	}
	one, two := pushManifest(t, app, ocispec.MediaTypeImageIndex, empty("1")), pushManifest(t, app, ocispec.MediaTypeImageIndex, empty("2"))
	if err := app.Commit(t.Context(), map[string]digest.Digest{"anchor-1": one.Digest, "anchor-2": two.Digest, "latest": one.Digest}); err != nil {
		t.Fatal(err)
	}
	want := func(tag string, want *ocispec.Descriptor) {
		t.Helper()
		got, err := app.document(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case want == nil && got != nil, want != nil && (got == nil || digest.FromBytes(got.raw) != want.Digest || got.mediaType != want.MediaType):
			t.Errorf("the tag %s points to %v, want %v", tag, got, want)
		}
	}
	want("anchor-1", &one)
	want("anchor-2", &two)
	want("latest", &one)
	commit(t, repository(t, mirror, "ns/app"), "latest", two.Digest)
	want("latest", &two)

	err := app.Commit(t.Context(), map[string]digest.Digest{"x": digest.FromString("absent")})
	wantFailure(t, err, importer.MirrorUnavailable, "has not got")
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v does not say that content is missing", err)
	}

	for leftOut, wanted := range map[string][]digest.Digest{"anchor": {two.Digest}, "a": {two.Digest}, "never": {one.Digest, two.Digest}, "": {}} {
		got, err := app.Tagged(t.Context(), []digest.Digest{one.Digest, two.Digest, digest.FromString("absent")}, func(tag string) bool { return strings.HasPrefix(tag, leftOut) })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, got); diff != "" {
			t.Errorf("named by other tags than %s… (-want +got):\n%s", leftOut, diff)
		}
	}
	if err := app.Untag(t.Context(), "latest", "anchor-1", "never-there"); err != nil {
		t.Error(err)
	}
	want("latest", nil)
	want("anchor-2", &two)
	if got, err := app.manifest(t.Context(), one.Digest); err != nil || got == nil {
		t.Errorf("the manifest went with its tag: %v", err)
	}
	dst.Misbehave(lab.When(func(r *http.Request) bool { return r.Method == http.MethodDelete }, lab.Answering(405, "", "SECRET")))
	err = app.Untag(t.Context(), "anchor-2")
	wantFailure(t, err, importer.MirrorUnavailable, "does not let the tag anchor-2 be deleted")
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("%v cannot be told from a failure", err)
	}
	dst.Misbehave(lab.Answering(403, "", "SECRET"))
	wantFailure(t, app.Untag(t.Context(), "anchor-2"), importer.MirrorUnauthorized)
}

func TestComplete(t *testing.T) {
	t.Parallel()
	src := lab.New(t, lab.TrustedTLS)
	child := image(t, src, "app", "", "a", "b")
	root := index(t, src, "app:v1", "v1", child, image(t, src, "app", "", "a", "c"))
	layer, _ := blob("a")
	tests := []struct {
		name  string
		lose  digest.Digest // a blob
		fault func(k *keeper) lab.Fault
		root  digest.Digest
		want  bool
		kind  importer.Kind
	}{
		{name: "all there", want: true},
		{name: "not there", root: digest.FromString("absent")},
		{name: "no digest", root: "sha256:0"},
		{name: "a blob is no manifest", root: layer.Digest},
		{name: "a blob is missing", lose: layer.Digest},
		{name: "a blob has another size", fault: func(k *keeper) lab.Fault {
			return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
				if r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
					w.Header().Set("Content-Length", "2")
					return
				}
				k.answer(w, r, registry)
			}
		}},
		{name: "a manifest is missing", fault: func(k *keeper) lab.Fault { return at(k, child.Digest, lab.Answering(404, "", "")) }},
		{name: "a manifest is damaged", fault: func(k *keeper) lab.Fault { return at(k, child.Digest, lab.Altering(lab.Flip)) }},
		{name: "the root is damaged", fault: func(k *keeper) lab.Fault { return at(k, root.Digest, lab.Altering(lab.Flip)) }},
		{name: "the registry fails", fault: func(*keeper) lab.Fault { return lab.Answering(500, "", "SECRET") }, kind: importer.MirrorUnavailable},
		{name: "the registry fails at a blob", fault: func(k *keeper) lab.Fault { return at(k, layer.Digest, lab.Answering(503, "", "SECRET")) }, kind: importer.MirrorUnavailable},
		{name: "the registry refuses", fault: func(*keeper) lab.Fault { return lab.Answering(403, "", "SECRET") }, kind: importer.MirrorUnauthorized},
		{name: "an endless manifest", fault: func(k *keeper) lab.Fault {
			return at(k, root.Digest, lab.Endless(root.MediaType, 8<<20, false))
		}, kind: importer.MirrorUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, lab.TrustedTLS)
			k := keep(t, dst)
			app := repository(t, newRegistry(t, dst), "ns/app")
			copyTo(t, src, "app:v1", app)
			if tt.lose != "" {
				k.lose("ns/app", tt.lose)
			}
			if tt.fault != nil {
				dst.Misbehave(tt.fault(k))
			}
			if tt.root == "" {
				tt.root = root.Digest
			}
			got, err := app.Complete(t.Context(), tt.root)
			if tt.kind != "" {
				wantFailure(t, err, tt.kind)
			} else if err != nil || got != tt.want {
				t.Errorf("got %t, %v; want %t", got, err, tt.want)
			}
		})
	}
}

// TestContentIsBounded: not any number of things below a root is looked for.
func TestContentIsBounded(t *testing.T) {
	t.Parallel()
	below := &content{seen: map[digest.Digest]bool{}}
	var err error
	added := 0
	for ; err == nil && added < 2*maxContent; added += 1000 {
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: describe(ocispec.MediaTypeImageConfig, []byte("{}")),
		}
		for n := range 1000 {
			m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayer, []byte(strconv.Itoa(added+n))))
		}
		err = below.add(&manifest{mediaType: m.MediaType, raw: marshal(t, m)})
	}
	if !errors.Is(err, errIncomplete) || len(below.blobs) < maxContent || added > maxContent+2000 {
		t.Errorf("%d things were added, %d are known: %v", added, len(below.blobs), err)
	}
}

// at lets a fault answer requests for an object, and the keeper all others.
func at(k *keeper, d digest.Digest, f lab.Fault) lab.Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/"+d.String()) {
			f(w, r, registry)
			return
		}
		k.answer(w, r, registry)
	}
}

// TestCancelled: who does not wait is told that, and not that the mirror failed.
func TestCancelled(t *testing.T) {
	t.Parallel()
	dst := lab.New(t, lab.TrustedTLS)
	gate := lab.NewGate(t)
	dst.Misbehave(gate.Fault)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gate.Reached()
		cancel()
	}()
	_, err := repository(t, newRegistry(t, dst), "ns/app").Complete(ctx, digest.FromString("x"))
	if !errors.Is(err, context.Canceled) || importer.KindOf(err) == importer.MirrorUnavailable {
		t.Errorf("got %v", err)
	}
}

// TestReferrers: where there is no referrers API the tag of the specification
// lists what refers to an image.
func TestReferrers(t *testing.T) {
	t.Parallel()
	const api = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`
	subject := describe(ocispec.MediaTypeImageManifest, []byte("subject"))
	tag := "sha256-" + subject.Digest.Encoded()
	signature := func(name string) ocispec.Manifest {
		return ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: &subject,
			Config:      describe("application/vnd.example.config", []byte("{}")),
			Layers:      []ocispec.Descriptor{describe(ocispec.MediaTypeImageLayer, []byte("{}"))},
			Annotations: map[string]string{"name": name},
		}
	}
	listed := func(t *testing.T, r *Repository) []string {
		t.Helper()
		found, err := r.index(t.Context(), subject.Digest)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range found.Manifests {
			names = append(names, d.Annotations["name"]+" "+d.ArtifactType+" "+d.MediaType)
		}
		return slices.Sorted(slices.Values(names))
	}

	t.Run("no API", func(t *testing.T) {
		t.Parallel()
		dst := lab.New(t, lab.TrustedTLS)
		keep(t, dst)
		mirror := newRegistry(t, dst)
		app := repository(t, mirror, "ns/app")
		push(t, app, "{}")
		names := []string{"a", "b", "c", "d"}
		pushed := make(chan ocispec.Descriptor, len(names))
		for _, name := range names { // at the same time
			go func() {
				pushed <- pushManifest(t, repository(t, mirror, "ns/app"), ocispec.MediaTypeImageManifest, signature(name))
			}()
		}
		var last ocispec.Descriptor
		for range names {
			last = <-pushed
		}
		var want []string
		for _, name := range names {
			want = append(want, name+" application/vnd.example.config "+ocispec.MediaTypeImageManifest)
		}
		if diff := cmp.Diff(want, listed(t, app)); diff != "" {
			t.Errorf("listed (-want +got):\n%s", diff)
		}
		if got := dst.Requests()["GET referrers"]; got > len(names) {
			t.Errorf("the API was looked for %d times", got)
		}
		pushManifest(t, app, ocispec.MediaTypeImageManifest, signature("a")) // again
		if diff := cmp.Diff(want, listed(t, app)); diff != "" {
			t.Errorf("listed (-want +got):\n%s", diff)
		}
		if complete, err := app.Complete(t.Context(), last.Digest); err != nil || !complete {
			t.Errorf("complete: %t, %v", complete, err)
		}
		dst.Requests()
		if _, err := app.Complete(t.Context(), last.Digest); err != nil || dst.Requests()["GET referrers"] != 0 {
			t.Errorf("the API is looked for again: %v", err)
		}
		// Another replica wrote the list at the same time, or this one did not come to it.
		pushManifest(t, app, ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "manifests": []string{}})
		if _, err := app.put(t.Context(), tag, manifest{mediaType: ocispec.MediaTypeImageIndex, raw: []byte(api)}); err != nil {
			t.Fatal(err)
		}
		if complete, err := app.Complete(t.Context(), last.Digest); err != nil || complete {
			t.Errorf("complete without being listed: %t, %v", complete, err)
		}
	})
	t.Run("API", func(t *testing.T) {
		t.Parallel()
		dst := lab.New(t, lab.TrustedTLS)
		keep(t, dst)
		app := repository(t, newRegistry(t, dst), "ns/app")
		push(t, app, "{}")
		dst.Misbehave(lab.Only(lab.Referrers, lab.Answering(200, ocispec.MediaTypeImageIndex, api)))
		d := pushManifest(t, app, ocispec.MediaTypeImageManifest, signature("a"))
		if got := listed(t, app); got != nil {
			t.Errorf("listed by a tag: %v", got)
		}
		if complete, err := app.Complete(t.Context(), d.Digest); err != nil || !complete {
			t.Errorf("complete: %t, %v", complete, err)
		}
	})
	t.Run("the registry says that it saw to it", func(t *testing.T) {
		t.Parallel()
		dst := lab.New(t, lab.TrustedTLS)
		dst.Misbehave(lab.When(func(r *http.Request) bool { return r.Method == http.MethodPut },
			lab.WithHeader("OCI-Subject", subject.Digest.String(), lab.Answering(201, "", ""))))
		pushManifest(t, repository(t, newRegistry(t, dst), "ns/app"), ocispec.MediaTypeImageManifest, signature("a"))
		if diff := cmp.Diff(map[string]int{"PUT manifests": 1}, dst.Requests()); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
	t.Run("the API fails", func(t *testing.T) {
		t.Parallel()
		dst := lab.New(t, lab.TrustedTLS)
		app := repository(t, newRegistry(t, dst), "ns/app")
		push(t, app, "{}")
		dst.Misbehave(lab.Only(lab.Referrers, lab.Answering(503, "", "SECRET")))
		raw := marshal(t, signature("a"))
		err := app.Push(t.Context(), describe(ocispec.MediaTypeImageManifest, raw), strings.NewReader(string(raw)))
		wantFailure(t, err, importer.MirrorUnavailable, "503")
	})
	t.Run("the tag is something else", func(t *testing.T) {
		t.Parallel()
		dst := lab.New(t, lab.TrustedTLS)
		app := repository(t, newRegistry(t, dst), "ns/app")
		push(t, app, "{}")
		other := signature("other")
		other.Subject = nil
		d := pushManifest(t, app, ocispec.MediaTypeImageManifest, other)
		commit(t, app, tag, d.Digest)
		raw := marshal(t, signature("a"))
		err := app.Push(t.Context(), describe(ocispec.MediaTypeImageManifest, raw), strings.NewReader(string(raw)))
		wantFailure(t, err, importer.MirrorUnavailable, "is no list of what refers to")
	})
}
