// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// atRegistry is the name of an Image's tag at the server.
func (s *server) atRegistry(namespace, name, tag string) string {
	return s.registry + "/" + namespace + "/" + name + ":" + tag
}

// push pushes an image or an index with the library of crane.
func (s *server) push(t *testing.T, reference string, pushed content) {
	t.Helper()
	transport := s.transport()
	defer transport.CloseIdleConnections()
	ref := must(name.ParseReference(reference))(t)
	if err := remote.Push(ref, pushed, remote.WithTransport(transport), remote.WithAuth(s.basic())); err != nil {
		t.Fatal(err)
	}
}

// ociLayout writes an index of two platforms into a folder, with a tag.
func ociLayout(t *testing.T, tag string) (dir, digest string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "layout")
	pushed := newIndex(t, ociTypes)
	path := must(layout.Write(dir, empty.Index))(t)
	if err := path.AppendIndex(pushed, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
		t.Fatal(err)
	}
	return dir, digestOf(t, pushed)
}

// TestClientsPush pushes an index of two platforms from an OCI layout with each client, and reads every byte back.
func TestClientsPush(t *testing.T) {
	t.Parallel()
	tests := []struct {
		client string
		args   func(layout, to string) []string
	}{
		{"crane", func(layout, to string) []string { return []string{"push", "--index", layout, to} }},
		{"regctl", func(layout, to string) []string { return []string{"image", "copy", "ocidir://" + layout + ":v1", to} }},
		{"skopeo", func(layout, to string) []string {
			return []string{"copy", "--all", "oci:" + layout + ":v1", "docker://" + to}
		}},
		{"oras", func(layout, to string) []string { return []string{"cp", "--from-oci-layout", layout + ":v1", to} }},
	}
	for _, tt := range tests {
		t.Run(tt.client, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			dir, digest := ociLayout(t, "v1")
			to := s.atRegistry(namespace, "app", "v1")
			args := tt.args(dir, to)
			switch tt.client {
			case "skopeo":
				digest = "" // it compresses what is not
				args = append(args, "--dest-cert-dir", filepath.Join(s.home, "certs"), "--dest-creds", "anybody:"+s.token, "--insecure-policy")
			case "crane":
				digest = "" // it wraps the layout's own index
			}
			s.run(t, tt.client, args...)
			entries := s.image(t, namespace, "app").Status.HashReferences
			if len(entries) != 1 || entries[0].From != to {
				t.Fatalf("history %+v, want one entry from %s", entries, to)
			}
			if digest != "" && entries[0].ImageReference != s.mirrored(namespace, "app", digest) {
				t.Errorf("imageReference %s, want %s", entries[0].ImageReference, digest)
			}
			want := s.pull(t, entries[0].ImageReference)
			if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(s.pull(t, s.atRegistry(namespace, "app", "latest"))))); diff != "" {
				t.Errorf("pulled as latest (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPushBecomesHistory pushes, imports, rolls back and deletes, and looks at what the Image means after each; then at what is left of it
// when a push holds nothing any more.
func TestPushBecomesHistory(t *testing.T) {
	t.Parallel()
	s, namespace := start(t, t.TempDir()), newNamespace()
	out := lab.New(t, lab.TrustedTLS)
	first, second, third := newImage(t, ociTypes, "amd64"), newIndex(t, dockerTypes), newIndex(t, ociTypes)
	out.Push(t, "app", third)
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), RefreshInterval: &metav1.Duration{Duration: time.Hour}})
	eventually(t, "the schedule has imported", func(context.Context) (bool, error) { return len(s.history(t, namespace, "app")) == 1, nil })
	atSource := out.Reference("app@" + digestOf(t, third))
	latest := func() string {
		t.Helper()
		return strings.TrimSpace(s.run(t, "crane", "digest", s.atRegistry(namespace, "app", "latest")))
	}
	check := func(what, current string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, s.history(t, namespace, "app")); diff != "" {
			t.Errorf("history after %s (-want +got):\n%s", what, diff)
		}
		if current != "" && latest() != current {
			t.Errorf("latest after %s is %s, want %s", what, latest(), current)
		}
	}
	one, two := s.mirrored(namespace, "app", digestOf(t, first)), s.mirrored(namespace, "app", digestOf(t, second))

	s.push(t, s.atRegistry(namespace, "app", "v1"), first)
	check("a push", digestOf(t, first), one, atSource)
	image := s.image(t, namespace, "app")
	if !image.Spec.Suspend {
		t.Error("the push did not suspend the schedule")
	}
	if entry := image.Status.HashReferences[0]; entry.Size == 0 || !slices.Equal(entry.Platforms, []string{"linux/amd64"}) {
		t.Errorf("of what was pushed is known: %d bytes, %v", entry.Size, entry.Platforms)
	}
	s.push(t, s.atRegistry(namespace, "app", "latest"), second)
	check("a push of latest", digestOf(t, second), two, one, atSource)
	if condition := meta.FindStatusCondition(s.image(t, namespace, "app").Status.Conditions, v1beta1.ConditionImported); condition == nil || condition.Reason != v1beta1.ReasonPushed {
		t.Errorf("condition %+v, want reason Pushed", condition)
	}
	if _, err := s.api.TaggerV1beta1().Images(namespace).Rollback(t.Context(), "app", &v1beta1.ImageRollback{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check("a rollback", digestOf(t, first), one, two, one, atSource)
	s.run(t, "crane", "delete", s.registry+"/"+namespace+"/app@"+digestOf(t, first))
	check("the deletion of the current one", digestOf(t, second), two, atSource)
	if r := s.try(t, "crane", "delete", s.atRegistry(namespace, "app", "latest")); r.code == 0 || !strings.Contains(r.stderr, "latest follows the Image") {
		t.Errorf("latest was deleted: %+v", r)
	}
	s.push(t, s.atRegistry(namespace, "app", "v2"), first)
	s.run(t, "crane", "delete", s.atRegistry(namespace, "app", "v2"))
	check("the deletion of a tag", digestOf(t, first), one, two, atSource)

	// What was pushed under a tag that is gone is held by the history alone, also when garbage is collected, which a start does.
	fourth, loose := newIndex(t, ociTypes), newImage(t, ociTypes, "amd64")
	four := s.mirrored(namespace, "app", digestOf(t, fourth))
	s.push(t, s.atRegistry(namespace, "app", "v3"), fourth)
	s.run(t, "crane", "delete", s.atRegistry(namespace, "app", "v3"))
	s.push(t, s.atRegistry(namespace, "app", "v4"), first)
	s.push(t, s.registry+"/"+namespace+"/app@"+digestOf(t, loose), loose)
	check("two more pushes", digestOf(t, first), one, four, one, two, atSource)
	want := map[string]map[string][]byte{one: s.pull(t, one), two: s.pull(t, two), four: s.pull(t, four)}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.dropLeases(t)
	s = s.again(t)
	if got := s.manifestStatus(t, namespace, "app", digestOf(t, loose)); got != http.StatusNotFound {
		t.Errorf("what nothing holds answers %d after a collection, want 404", got)
	}
	for reference, want := range want {
		if diff := cmp.Diff(want, s.pull(t, reference)); diff != "" {
			t.Errorf("pulled from %s after a collection (-want +got):\n%s", reference, diff)
		}
	}
	check("a collection", digestOf(t, first), one, four, one, two, atSource)
}

// dropLeases has nothing be held by having been pushed lately, in the image store of a server that has ended. As containerd lays it out,
// each of its namespaces has a bucket of leases.
func (s *server) dropLeases(t *testing.T) {
	t.Helper()
	db := must(bolt.Open(filepath.Join(s.dir, "store", "meta.db"), 0o600, nil))(t)
	defer db.Close()
	dropped := 0
	if err := db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("v1")).ForEachBucket(func(namespace []byte) error {
			err := tx.Bucket([]byte("v1")).Bucket(namespace).DeleteBucket([]byte("leases"))
			if errors.Is(err, bolterrors.ErrBucketNotFound) {
				return nil
			}
			dropped++
			return err
		})
	}); err != nil || dropped == 0 {
		t.Fatalf("%d buckets of leases: %v", dropped, err)
	}
}

// TestImportOfPushedImage is refused: there is nowhere to import from.
func TestImportOfPushedImage(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	s.push(t, s.atRegistry(namespace, "app", "v1"), newImage(t, ociTypes, "amd64"))
	_, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("%v, want Invalid", err)
	}
}

// TestPushSurvivesRestart pushes, kills the server, and goes on: with the next process, and after its collection of garbage.
func TestPushSurvivesRestart(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	pushed := newIndex(t, ociTypes)
	s.push(t, s.atRegistry("default", "app", "v1"), pushed)
	want := s.pull(t, s.atRegistry("default", "app", "v1"))
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	again := s.again(t)
	if diff := cmp.Diff(want, again.pull(t, again.atRegistry("default", "app", "latest"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if history := again.history(t, "default", "app"); len(history) != 1 {
		t.Errorf("history %v, want one entry", history)
	}
	if image := again.image(t, "default", "app"); ptr.Deref(image.Spec.HistoryLimit, 0) != v1beta1.DefaultHistoryLimit {
		t.Errorf("historyLimit %v of an Image that a push made", image.Spec.HistoryLimit)
	}
}
