// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestBackup copies the data directory of a server that is stopped, loses what it has, and puts the copy back.
func TestBackup(t *testing.T) {
	t.Parallel()
	dir, backup := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	s := start(t, dir)
	namespace := newNamespace()
	out := lab.New(t, lab.TrustedTLS)
	index := newIndex(t, ociTypes)
	out.Push(t, "app", index)
	spec := v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonImported)
	before := s.image(t, namespace, "app")

	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	duplicate(t, s.dir, backup)
	s = s.again(t)
	if err := s.api.TaggerV1beta1().Images(namespace).Delete(t.Context(), "app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	duplicate(t, backup, s.dir)
	s = s.again(t)
	after := s.image(t, namespace, "app")
	if diff := cmp.Diff(before.Status.HashReferences, after.Status.HashReferences); diff != "" || after.UID != before.UID {
		t.Errorf("the history (-before the backup +restored):\n%s", diff)
	}
	s.pull(t, after.Status.HashReferences[0].ImageReference)
	out.Push(t, "app", newIndex(t, ociTypes))
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonImported)
	if n := len(s.image(t, namespace, "app").Status.HashReferences); n != 2 {
		t.Errorf("%d entries after the next import, want two", n)
	}
}

// duplicate copies a folder with the modes of what is in it.
func duplicate(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
