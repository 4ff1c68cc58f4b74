// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/test/lab"
)

// releases returns what MirrorReleases of a namespace say, as image and digests.
func (s *server) releases(ctx context.Context, namespace string) ([]string, error) {
	list, err := s.api.TaggerV1beta1().MirrorReleases().List(ctx, metav1.ListOptions{FieldSelector: "spec.namespace=" + namespace})
	if err != nil {
		return nil, err
	}
	said := []string{}
	for _, release := range list.Items {
		said = append(said, release.Spec.Image+" "+strings.Join(release.Spec.ImageReferences, " "))
	}
	slices.Sort(said)
	return said, nil
}

func (s *server) mustRelease(t *testing.T, namespace string, want ...string) {
	t.Helper()
	got, err := s.releases(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("MirrorReleases (-want +got):\n%s", diff)
	}
}

// tagsAtRest returns the tags of a repository in the image store of a server that has ended, those too that the registry port hides.
func (s *server) tagsAtRest(t *testing.T, namespace, name string) []string {
	t.Helper()
	store, err := embedded.OpenStore(t.Context(), embedded.StoreConfig{Dir: filepath.Join(s.dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tags, err := store.Tags(t.Context(), distribution.Repository{Namespace: namespace, Name: name})
	if err != nil && !errors.Is(err, distribution.ErrNameUnknown) {
		t.Fatal(err)
	}
	return tags
}

// manifestStatus returns the status of a pull by digest.
func (s *server) manifestStatus(t *testing.T, namespace, name, digest string) int {
	t.Helper()
	answer, err := s.get(t.Context(), fmt.Sprintf("https://%s/v2/%s/%s/manifests/%s", s.registry, namespace, name, digest), "Bearer "+s.token)
	if err != nil {
		t.Fatal(err)
	}
	return answer.status
}

func sorted(tags ...string) []string {
	slices.Sort(tags)
	return tags
}

// anchorOf is the tag of an entry of a history.
func anchorOf(digest string) string { return "anchor-" + strings.TrimPrefix(digest, "sha256:") }

// TestRelease has one digest leave the history of an Image, and two go with their Image, which is made again and means one of them
// again. Then the server is killed, and the releases are made due.
func TestRelease(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--mirror-release-delay", "1h")
	namespace := newNamespace()
	out := lab.New(t, lab.TrustedTLS)
	first, second, another, other := newIndex(t, ociTypes), newImage(t, ociTypes, "amd64"), newImage(t, ociTypes, "amd64"), newImage(t, ociTypes, "arm64")
	out.Push(t, "app", first)
	out.Push(t, "other", another)
	old, current, gone, made := digestOf(t, first), digestOf(t, second), digestOf(t, another), digestOf(t, other)

	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Mirror: true, HistoryLimit: ptr.To[int32](1)})
	s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
	s.mustRelease(t, namespace)
	out.Push(t, "app", second)
	wantCurrent := readAll(t, out.Name(t, "app"), out.Options()...)
	s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
	ofOther := v1beta1.ImageImportSpec{From: out.Reference("other"), Mirror: ptr.To(true)}
	s.mustImport(t, namespace, "other", ofOther, v1beta1.ReasonImported)
	out.Push(t, "other", other)
	wantOther := readAll(t, out.Name(t, "other"), out.Options()...)
	s.mustImport(t, namespace, "other", ofOther, v1beta1.ReasonImported)
	s.deleteImage(t, namespace, "other")
	s.mustImport(t, namespace, "other", ofOther, v1beta1.ReasonImported)
	ofApp, ofGone := "app "+s.mirrored(namespace, "app", old), "other "+s.mirrored(namespace, "other", made)+" "+s.mirrored(namespace, "other", gone)
	s.mustRelease(t, namespace, ofApp, ofGone)
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sorted(anchorOf(current), anchorOf(old), "latest"), s.tagsAtRest(t, namespace, "app")); diff != "" {
		t.Errorf("tags before anything is due (-want +got):\n%s", diff)
	}
	s = s.again(t, "--mirror-release-delay", "1h")
	s.mustRelease(t, namespace, ofApp, ofGone)
	s.makeDue(t, namespace, "other")
	s.makeDue(t, namespace, "app")
	eventually(t, "the release is done", func(ctx context.Context) (bool, error) {
		got, err := s.releases(ctx, namespace)
		return !slices.Contains(got, ofApp), err
	})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sorted(anchorOf(current), "latest"), s.tagsAtRest(t, namespace, "app")); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(sorted(anchorOf(made), "latest"), s.tagsAtRest(t, namespace, "other")); diff != "" {
		t.Errorf("tags of the Image that was made again (-want +got):\n%s", diff)
	}
	// The image store collects at the start.
	s = s.again(t, "--mirror-release-delay", "1h")
	for name, released := range map[string]string{"app": old, "other": gone} {
		if got := s.manifestStatus(t, namespace, name, released); got != http.StatusNotFound {
			t.Errorf("what was released of %s answers %d after a collection, want 404", name, got)
		}
	}
	for reference, want := range map[string]map[string][]byte{
		s.mirrored(namespace, "app", current): wantCurrent, s.mirrored(namespace, "other", made): wantOther,
	} {
		if diff := cmp.Diff(want, s.pull(t, reference)); diff != "" {
			t.Errorf("pulled from %s (-want +got):\n%s", reference, diff)
		}
	}
}

// makeDue has the releases of an Image done now.
func (s *server) makeDue(t *testing.T, namespace, name string) {
	t.Helper()
	releases := s.api.TaggerV1beta1().MirrorReleases()
	list, err := releases.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.namespace=" + namespace + ",spec.image=" + name})
	if err != nil || len(list.Items) == 0 {
		t.Fatalf("the releases of %s: %v, %v", name, list.Items, err)
	}
	for _, release := range list.Items {
		if _, err := releases.Patch(t.Context(), release.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"spec":{"dueTime":%q}}`, time.Now().Format(time.RFC3339)), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReleaseAtOnce waits for nothing but what is needed, also when all Images of a namespace are deleted.
func TestReleaseAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--mirror-release-delay", "0")
	namespace := newNamespace()
	out := lab.New(t, lab.TrustedTLS)
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Mirror: true, HistoryLimit: ptr.To[int32](2)})
	var digests []string
	for range 4 {
		image := newImage(t, ociTypes, "amd64")
		digests = append(digests, digestOf(t, image))
		out.Push(t, "app", image)
		s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
	}
	done := func(ctx context.Context) (bool, error) {
		got, err := s.releases(ctx, namespace)
		return len(got) == 0, err
	}
	eventually(t, "the releases are done", done)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sorted(anchorOf(digests[2]), anchorOf(digests[3]), "latest"), s.tagsAtRest(t, namespace, "app")); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	s = s.again(t, "--mirror-release-delay", "0")
	if err := s.api.TaggerV1beta1().Images(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the releases are done", done)
	eventually(t, "the metrics say so too", func(ctx context.Context) (bool, error) {
		metrics, err := s.get(ctx, s.apiURL+"/metrics", "Bearer "+s.token)
		return err == nil && strings.Contains(metrics.body, "tagger_mirror_releases_pending 0\n") &&
			strings.Contains(metrics.body, `tagger_mirror_releases_ended_total{outcome="released"} 1`+"\n"), err
	})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if got := s.tagsAtRest(t, namespace, "app"); len(got) > 0 {
		t.Errorf("tags of a deleted Image: %v, want none", got)
	}
}
