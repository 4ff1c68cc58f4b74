// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"tagger.dev/tagger/pkg/distribution"
)

// lister is a cluster whose namespaces have UIDs.
type lister struct {
	uids map[string]string // by name
	err  error
}

func (l *lister) uid(_ context.Context, namespace string) (string, error) {
	if uid, ok := l.uids[namespace]; ok {
		return uid, nil
	}
	return "", fmt.Errorf("namespace %s: %w", namespace, distribution.ErrNameUnknown)
}

func (l *lister) all(context.Context) ([]string, error) {
	var all []string
	for _, uid := range l.uids {
		all = append(all, uid)
	}
	return all, l.err
}

// TestGoneNamespaces collects what a namespace had, at several times after it went, also after restarts.
func TestGoneNamespaces(t *testing.T) {
	t.Parallel()
	const delay = 7 * 24 * time.Hour
	dir, now := t.TempDir(), time.Date(2022, 2, 6, 19, 6, 24, 0, time.UTC)
	cluster := &lister{uids: map[string]string{"gone": "uid-1", "kept": "uid-2", "system": "uid-3"}}
	open := func() *Store {
		s, err := OpenStore(t.Context(), StoreConfig{Dir: dir, NamespaceUID: cluster.uid, Namespaces: cluster.all, NamespaceDelay: delay})
		if err != nil {
			t.Fatal(err)
		}
		s.now = func() time.Time { return now }
		return s
	}
	s := open()
	t.Cleanup(func() { _ = s.Close() })
	gone, root := sample(t, "gone")
	push(t, s.Repository("gone", "app"), gone...)
	commit(t, s.Repository("gone", "app"), root, "latest", "anchor-1")
	underWay, _ := sample(t, "under way")
	push(t, s.Repository("gone", "app"), underWay...)
	kept, root := sample(t, "kept")
	push(t, s.Repository("kept", "app"), kept...)
	commit(t, s.Repository("kept", "app"), root, "latest")

	steps := []struct {
		name  string
		do    func()
		after time.Duration
		want  int // how many files there are
	}{
		{name: "nothing is gone", do: func() {}, after: 2 * delay, want: 21},
		{name: "gone", do: func() { delete(cluster.uids, "gone") }, want: 21},
		{name: "gone for a while", after: delay - time.Second, do: func() {}, want: 21},
		{name: "there after all", do: func() { cluster.uids["gone"] = "uid-1" }, want: 21},
		{name: "gone again", after: time.Hour, do: func() { delete(cluster.uids, "gone") }, want: 21},
		{name: "nobody knows", after: 2 * delay, do: func() { cluster.err = errors.New("no answer") }, want: 21},
		{name: "all are gone", do: func() { cluster.err, cluster.uids = nil, nil }, want: 21},
		{name: "known, after a restart, and made again", do: func() {
			cluster.uids = map[string]string{"kept": "uid-2", "gone": "uid-4"}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
			s.asked.add("uid-1", gone[0].desc.Digest) // which nobody pushes any more
		}, want: 7},
	}
	for _, step := range steps {
		now = now.Add(step.after)
		step.do()
		collect(t, s)
		files, err := filepath.Glob(filepath.Join(dir, "content/blobs/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != step.want {
			t.Fatalf("%s: %d files, want %d", step.name, len(files), step.want)
		}
	}
	if diff := cmp.Diff(all(len(kept), true), readable(t, s, "kept", "app", kept)); diff != "" {
		t.Errorf("readable of the namespace that is there (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"uid-2"}, storedNamespaces(t, s)); diff != "" {
		t.Errorf("namespaces of the store (-want +got):\n%s", diff)
	}
}

// TestGoneByAClockThatWasAhead does not wait until the time that was noted.
func TestGoneByAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	now := time.Date(2042, 2, 6, 19, 6, 24, 0, time.UTC)
	cluster := &lister{uids: map[string]string{"gone": "uid-1", "system": "uid-3"}}
	s, err := OpenStore(t.Context(), StoreConfig{Dir: t.TempDir(), NamespaceUID: cluster.uid, Namespaces: cluster.all, NamespaceDelay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.now = func() time.Time { return now }
	items, root := sample(t, "gone")
	push(t, s.Repository("gone", "app"), items...)
	commit(t, s.Repository("gone", "app"), root, "latest")
	delete(cluster.uids, "gone")
	collect(t, s)
	now = now.AddDate(-20, 0, 0)
	collect(t, s)
	now = now.Add(time.Hour)
	if diff := cmp.Diff([]string{"uid-1"}, storedNamespaces(t, s)); diff != "" {
		t.Errorf("namespaces before (-want +got):\n%s", diff)
	}
	collect(t, s)
	if got := storedNamespaces(t, s); len(got) > 0 {
		t.Errorf("namespaces afterwards: %v, want none", got)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "content/blobs/sha256")); err != nil || len(left) > 0 {
		t.Errorf("%d files are left (%v)", len(left), err)
	}
}

// TestUntagInGoneNamespace: there is nothing to untag.
func TestUntagInGoneNamespace(t *testing.T) {
	t.Parallel()
	cluster := &lister{}
	s, err := OpenStore(t.Context(), StoreConfig{Dir: t.TempDir(), NamespaceUID: cluster.uid, Namespaces: cluster.all})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Repository("gone", "app").Untag(t.Context(), "latest"); err != nil {
		t.Error(err)
	}
}

func storedNamespaces(t *testing.T, s *Store) []string {
	t.Helper()
	var names []string
	if err := s.db.View(func(tx *bolt.Tx) (err error) {
		names, err = metadata.NewNamespaceStore(tx).List(t.Context())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}
