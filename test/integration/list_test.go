// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"net/http"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// createImages creates Images of these names, each with its name as the label name.
func (s *server) createImages(t *testing.T, namespace string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := s.api.TaggerV1beta1().Images(namespace).Create(t.Context(), &v1beta1.Image{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}},
			Spec:       v1beta1.ImageSpec{From: "quay.io/company/" + name},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *server) deleteImage(t *testing.T, namespace, name string) {
	t.Helper()
	if err := s.api.TaggerV1beta1().Images(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func namesOf(list *v1beta1.ImageList) []string {
	names := []string{}
	for _, image := range list.Items {
		names = append(names, image.Name)
	}
	return names
}

// TestChunkedList lists by pages, which together show one moment: what changes meanwhile is not in them.
func TestChunkedList(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	images := s.api.TaggerV1beta1().Images(namespace)
	s.createImages(t, namespace, "a", "b", "c", "d", "e", "f", "g")

	var got [][]string
	var remaining []int64
	versions := map[string]bool{}
	options := metav1.ListOptions{Limit: 3}
	for {
		page, err := images.List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, namesOf(page))
		versions[page.ResourceVersion] = true
		if page.RemainingItemCount != nil {
			remaining = append(remaining, *page.RemainingItemCount)
		}
		if page.Continue == "" {
			break
		}
		if len(got) == 1 {
			s.deleteImage(t, namespace, "e")
			s.createImages(t, namespace, "f1")
		}
		options.Continue = page.Continue
	}
	if diff := cmp.Diff([][]string{{"a", "b", "c"}, {"d", "e", "f"}, {"g"}}, got); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int64{4, 1}, remaining); diff != "" {
		t.Errorf("remainingItemCount (-want +got):\n%s", diff)
	}
	if len(versions) != 1 {
		t.Errorf("the pages are of the resourceVersions %v, want one", versions)
	}
	if _, err := images.List(t.Context(), metav1.ListOptions{Limit: 3, Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a continue token that is none: %v, want BadRequest", err)
	}
}

// TestSelectors lists by labels and fields. The fields of each kind are in TestKubectlFieldSelectors.
func TestSelectors(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	s.createImages(t, namespace, "a", "b", "c")
	tests := []struct {
		name, labels, fields string
		want                 []string // nil: BadRequest
	}{
		{"equal", "name=a", "", []string{"a"}},
		{"set", "name in (a,c)", "", []string{"a", "c"}},
		{"not", "name!=a", "", []string{"b", "c"}},
		{"present", "name", "", []string{"a", "b", "c"}},
		{"absent", "!name", "", []string{}},
		{"labels and fields", "name in (a,b)", "spec.from=quay.io/company/b", []string{"b"}},
		{"name and namespace", "", "metadata.name=c,metadata.namespace=" + namespace, []string{"c"}},
		{"field that cannot be selected by", "", "spec.historyLimit=25", nil},
		{"malformed", "a=b=c", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list, err := s.api.TaggerV1beta1().Images(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: tt.labels, FieldSelector: tt.fields})
			if tt.want == nil {
				if !apierrors.IsBadRequest(err) {
					t.Errorf("%v, want BadRequest", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, namesOf(list)); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

// TestResourceVersionMatch lists as of a moment, or as of one that is not older. Two Images are there at first; then "a" goes and
// "c" comes.
func TestResourceVersionMatch(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	images := s.api.TaggerV1beta1().Images(namespace)
	s.createImages(t, namespace, "a", "b")
	then, err := images.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.deleteImage(t, namespace, "a")
	s.createImages(t, namespace, "c")
	now, err := images.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	version, err := strconv.ParseUint(now.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	old, current, future := []string{"a", "b"}, []string{"b", "c"}, strconv.FormatUint(version+1_000_000, 10)
	tests := []struct {
		name    string
		options metav1.ListOptions
		want    []string
		status  int32 // of the error
	}{
		{"the most recent", metav1.ListOptions{}, current, 0},
		{"exactly then", metav1.ListOptions{ResourceVersion: then.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}, old, 0},
		{"exactly then, by pages", metav1.ListOptions{ResourceVersion: then.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 1}, old[:1], 0},
		{"exactly now", metav1.ListOptions{ResourceVersion: now.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}, current, 0},
		{"not older than now", metav1.ListOptions{ResourceVersion: now.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, current, 0},
		{"not older than now, unsaid", metav1.ListOptions{ResourceVersion: now.ResourceVersion}, current, 0},
		{"exactly in the future", metav1.ListOptions{ResourceVersion: future, ResourceVersionMatch: metav1.ResourceVersionMatchExact}, nil, http.StatusGatewayTimeout},
		{"not older than the future", metav1.ListOptions{ResourceVersion: future, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, nil, http.StatusGatewayTimeout},
		{"exactly, without a version", metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchExact}, nil, http.StatusUnprocessableEntity},
		{"exactly any", metav1.ListOptions{ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchExact}, nil, http.StatusUnprocessableEntity},
		{"unknown", metav1.ListOptions{ResourceVersion: now.ResourceVersion, ResourceVersionMatch: "Nearly"}, nil, http.StatusUnprocessableEntity},
		{"no version", metav1.ListOptions{ResourceVersion: "yesterday"}, nil, http.StatusBadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { // at once: etcd forgets what was, some minutes later
			list, err := images.List(t.Context(), tt.options)
			if diff := cmp.Diff(tt.status, statusOf(err)); diff != "" {
				t.Fatalf("status of %v (-want +got):\n%s", err, diff)
			}
			if err == nil {
				if diff := cmp.Diff(tt.want, namesOf(list)); diff != "" {
					t.Errorf("names (-want +got):\n%s", diff)
				}
			}
		})
	}
	// A version that a reader of the cache may ask for at any time: whatever there is.
	cached, err := images.List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(namesOf(cached), "b") {
		t.Errorf("any version: %v, want b among them", namesOf(cached))
	}
}

// statusOf returns the HTTP status of an API error, 0 where there is no error.
func statusOf(err error) int32 {
	if err == nil {
		return 0
	}
	if status, ok := err.(apierrors.APIStatus); ok {
		return status.Status().Code
	}
	return -1
}

// TestPatchTypes changes an Image by each kind of patch, those among them that must be refused.
func TestPatchTypes(t *testing.T) {
	t.Parallel()
	const strategic = `{"metadata":{"labels":{"name":null,"team":"x"}},"spec":{"mirror":true}}`
	tests := []struct {
		name   string
		kind   types.PatchType
		patch  string
		want   []any // from, mirror, label name, label team
		status int32
	}{
		{"merge", types.MergePatchType, strategic, []any{"quay.io/company/app", true, "", "x"}, 0},
		{"strategic merge", types.StrategicMergePatchType, strategic, []any{"quay.io/company/app", true, "", "x"}, 0},
		{"strategic merge that replaces", types.StrategicMergePatchType, `{"spec":{"$patch":"replace","mirror":true}}`, []any{"", true, "app", ""}, 0},
		{"JSON", types.JSONPatchType, `[{"op":"test","path":"/spec/mirror","value":false},{"op":"replace","path":"/spec/mirror","value":true},
			{"op":"remove","path":"/metadata/labels/name"},{"op":"add","path":"/metadata/labels/team","value":"x"}]`,
			[]any{"quay.io/company/app", true, "", "x"}, 0},
		{"JSON whose test fails", types.JSONPatchType, `[{"op":"test","path":"/spec/mirror","value":true},{"op":"remove","path":"/spec/from"}]`,
			[]any{"quay.io/company/app", false, "app", ""}, http.StatusUnprocessableEntity},
		{"invalid", types.MergePatchType, `{"spec":{"historyLimit":0}}`, []any{"quay.io/company/app", false, "app", ""}, http.StatusUnprocessableEntity},
		{"malformed", types.MergePatchType, `{`, []any{"quay.io/company/app", false, "app", ""}, http.StatusBadRequest},
		{"unknown", "application/x-nonsense", `{}`, []any{"quay.io/company/app", false, "app", ""}, http.StatusUnsupportedMediaType},
		{"of a version that has passed", types.MergePatchType, `{"metadata":{"resourceVersion":"1"},"spec":{"mirror":true}}`,
			[]any{"quay.io/company/app", false, "app", ""}, http.StatusConflict},
		{"of another object of the name", types.MergePatchType, `{"metadata":{"uid":"another"},"spec":{"mirror":true}}`,
			[]any{"quay.io/company/app", false, "app", ""}, http.StatusUnprocessableEntity},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			s.createImages(t, namespace, "app")
			_, err := s.api.TaggerV1beta1().Images(namespace).Patch(t.Context(), "app", tt.kind, []byte(tt.patch), metav1.PatchOptions{})
			if diff := cmp.Diff(tt.status, statusOf(err)); diff != "" {
				t.Errorf("status of %v (-want +got):\n%s", err, diff)
			}
			image := s.image(t, namespace, "app")
			if diff := cmp.Diff(tt.want, []any{image.Spec.From, image.Spec.Mirror, image.Labels["name"], image.Labels["team"]}); diff != "" {
				t.Errorf("Image (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("strategic merge of conditions", func(t *testing.T) {
		t.Parallel()
		s, namespace := shared(t)
		s.createImages(t, namespace, "app")
		for _, name := range []string{"A", "B"} {
			patch := `{"status":{"conditions":[{"type":"` + name + `","status":"True","reason":"New","message":"","lastTransitionTime":"2022-02-06T19:06:24Z"}]}}`
			if _, err := s.api.TaggerV1beta1().Images(namespace).Patch(t.Context(), "app", types.StrategicMergePatchType, []byte(patch),
				metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff("A B", conditionTypes(s.image(t, namespace, "app"))); diff != "" {
			t.Errorf("conditions (-want +got):\n%s", diff)
		}
	})
}
