// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

func (s *server) image(t *testing.T, namespace, name string) *v1beta1.Image {
	t.Helper()
	image, err := s.api.TaggerV1beta1().Images(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func (s *server) createImage(t *testing.T, namespace, name string, spec v1beta1.ImageSpec) *v1beta1.Image {
	t.Helper()
	image, err := s.api.TaggerV1beta1().Images(namespace).Create(t.Context(),
		&v1beta1.Image{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// importImage posts to images/import and waits for the outcome, whatever it is, also where the call did not.
func (s *server) importImage(t *testing.T, namespace, name string, spec v1beta1.ImageImportSpec) *v1beta1.ImageImport {
	t.Helper()
	imp, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), name, &v1beta1.ImageImport{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("importing %s: %v", name, err)
	}
	if imp.Status.CompletionTime != nil {
		return imp
	}
	return s.finished(t, namespace, imp.Name)
}

// mustImport is importImage for an import that must succeed, for a reason: Imported or Unchanged.
func (s *server) mustImport(t *testing.T, namespace, name string, spec v1beta1.ImageImportSpec, reason string) *v1beta1.ImageImport {
	t.Helper()
	imp := s.importImage(t, namespace, name, spec)
	condition := meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported)
	if condition == nil || condition.Status != metav1.ConditionTrue || condition.Reason != reason {
		t.Fatalf("import of %s: condition %+v, want True with reason %s", name, condition, reason)
	}
	return imp
}

// createImport creates an ImageImport, which nobody waits for.
func (s *server) createImport(t *testing.T, namespace, name string, spec v1beta1.ImageImportSpec) *v1beta1.ImageImport {
	t.Helper()
	imp, err := s.api.TaggerV1beta1().ImageImports(namespace).Create(t.Context(),
		&v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return imp
}

// finished waits for the end of an import.
func (s *server) finished(t *testing.T, namespace, name string) *v1beta1.ImageImport {
	t.Helper()
	return s.awaitImport(t, namespace, name, func(imp *v1beta1.ImageImport) bool { return imp.Status.CompletionTime != nil })
}

func (s *server) awaitImport(t *testing.T, namespace, name string, condition func(*v1beta1.ImageImport) bool) *v1beta1.ImageImport {
	t.Helper()
	var imp *v1beta1.ImageImport
	err := poll(func(ctx context.Context) (done bool, err error) {
		imp, err = s.api.TaggerV1beta1().ImageImports(namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && condition(imp), err
	})
	if err != nil {
		t.Fatalf("waiting for ImageImport %s: %v; it is %+v", name, err, imp)
	}
	return imp
}

// gone waits until there is no such ImageImport.
func (s *server) gone(t *testing.T, namespace, name string) {
	t.Helper()
	eventually(t, "ImageImport "+name+" is gone", func(ctx context.Context) (bool, error) {
		_, err := s.api.TaggerV1beta1().ImageImports(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// outcome is what the condition Imported says.
type outcome struct {
	Status  metav1.ConditionStatus
	Reason  string
	Message string
}

func outcomeOf(conditions []metav1.Condition) outcome {
	condition := meta.FindStatusCondition(conditions, v1beta1.ConditionImported)
	if condition == nil {
		return outcome{}
	}
	return outcome{Status: condition.Status, Reason: condition.Reason, Message: condition.Message}
}

// history returns the imageReferences of an Image, newest first.
func (s *server) history(t *testing.T, namespace, name string) []string {
	t.Helper()
	references := []string{}
	for _, entry := range s.image(t, namespace, name).Status.HashReferences {
		references = append(references, entry.ImageReference)
	}
	return references
}

// mirrored returns the reference of a digest at the server's registry endpoint.
func (s *server) mirrored(namespace, name, digest string) string {
	return s.registry + "/" + namespace + "/" + name + "@" + digest
}
