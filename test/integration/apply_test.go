// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientmetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	applyv1beta1 "tagger.dev/tagger/pkg/generated/applyconfiguration/tagger/v1beta1"
)

// owners returns who owns which fields of an object below spec and status: "MANAGER OPERATION [SUBRESOURCE]" by the manager.
func owners(t *testing.T, object metav1.Object) map[string][]string {
	t.Helper()
	owners := map[string][]string{}
	for _, entry := range object.GetManagedFields() {
		var set fieldpath.Set
		if err := set.FromJSON(entry.FieldsV1.GetRawReader()); err != nil {
			t.Fatal(err)
		}
		var paths []string
		set.Leaves().Iterate(func(path fieldpath.Path) {
			if name := path.String(); strings.HasPrefix(name, ".spec") || strings.HasPrefix(name, ".status") {
				paths = append(paths, name)
			}
		})
		slices.Sort(paths)
		who := strings.Join(strings.Fields(entry.Manager+" "+string(entry.Operation)+" "+entry.Subresource), " ")
		owners[who] = append(owners[who], paths...)
	}
	return owners
}

// imageSpec and conditionConfig shorten the configurations below.
func imageSpec() *applyv1beta1.ImageSpecApplyConfiguration { return applyv1beta1.ImageSpec() }

func conditionConfig(name, reason string) *clientmetav1.ConditionApplyConfiguration {
	return clientmetav1.Condition().WithType(name).WithStatus(metav1.ConditionTrue).WithReason(reason).WithMessage("").
		WithLastTransitionTime(metav1.Unix(0, 0))
}

// conditionPaths are the leaves of a condition.
func conditionPaths(name string) []string {
	var paths []string
	for _, field := range []string{"lastTransitionTime", "message", "reason", "status", "type"} {
		paths = append(paths, `.status.conditions[type="`+name+`"].`+field)
	}
	return paths
}

func conditionTypes(image *v1beta1.Image) string {
	var names []string
	for _, condition := range image.Status.Conditions {
		names = append(names, condition.Type)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestServerSideApply applies parts of an Image as several field managers.
func TestServerSideApply(t *testing.T) {
	t.Parallel()
	type step struct {
		manager string
		spec    *applyv1beta1.ImageSpecApplyConfiguration
		status  *applyv1beta1.ImageStatusApplyConfiguration
		// toStatus applies to images/status, force takes fields from others.
		toStatus, force bool
		// update patches the spec instead, as clients do that do not apply.
		update string
		// conflict is what the answer names where the step must fail.
		conflict string
	}
	reference := applyv1beta1.HashReference().WithFrom("a").WithImageReference("a@sha256:0").WithImportedAt(metav1.Unix(0, 0))
	tests := []struct {
		name  string
		steps []step
		// want is what the Image then says: spec.from, spec.mirror, spec.suspend, and the types of its conditions.
		want   []any
		owners map[string][]string
	}{
		{
			name:  "two managers own different fields",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a")}, {manager: "b", spec: imageSpec().WithMirror(true)}},
			want:  []any{"a", true, false, ""},
			owners: map[string][]string{
				"a Apply": {".spec.from"}, "b Apply": {".spec.mirror"},
			},
		},
		{
			name: "what a manager no longer applies goes",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a").WithSuspend(true)}, {manager: "b", spec: imageSpec().WithMirror(true)},
				{manager: "b"}, {manager: "a", spec: imageSpec().WithFrom("a")}},
			want:   []any{"a", false, false, ""},
			owners: map[string][]string{"a Apply": {".spec.from"}},
		},
		{
			name:   "what two managers agree on both own",
			steps:  []step{{manager: "a", spec: imageSpec().WithFrom("a")}, {manager: "b", spec: imageSpec().WithFrom("a")}, {manager: "a"}},
			want:   []any{"a", false, false, ""},
			owners: map[string][]string{"b Apply": {".spec.from"}},
		},
		{
			name: "a conflict changes nothing",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a")},
				{manager: "b", spec: imageSpec().WithFrom("b").WithMirror(true), conflict: `conflict with "a": .spec.from`}},
			want:   []any{"a", false, false, ""},
			owners: map[string][]string{"a Apply": {".spec.from"}},
		},
		{
			name: "force takes what is in conflict",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a").WithSuspend(true)}, {manager: "b", spec: imageSpec().WithFrom("b"), force: true},
				{manager: "a", spec: imageSpec().WithFrom("a").WithSuspend(true), conflict: `conflict with "b": .spec.from`}},
			want:   []any{"b", false, true, ""},
			owners: map[string][]string{"a Apply": {".spec.suspend"}, "b Apply": {".spec.from"}},
		},
		{
			name: "an update takes what it changes",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a").WithMirror(true)}, {manager: "b", update: `{"spec":{"mirror":false}}`},
				{manager: "a", spec: imageSpec().WithFrom("a").WithMirror(true), conflict: `conflict with "b" using tagger.dev/v1beta1`}},
			want:   []any{"a", false, false, ""},
			owners: map[string][]string{"a Apply": {".spec.from"}, "b Update": {".spec.mirror"}},
		},
		{
			name: "a status that is applied to the Image is ignored, and owned by nobody",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a"),
				status: applyv1beta1.ImageStatus().WithHashReferences(reference).WithConditions(conditionConfig("Forged", "Forged"))}},
			want:   []any{"a", false, false, ""},
			owners: map[string][]string{"a Apply": {".spec.from"}},
		},
		{
			name: "a spec that is applied to the status is ignored, and owned by nobody",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a")},
				{manager: "b", toStatus: true, spec: imageSpec().WithFrom("b"), status: applyv1beta1.ImageStatus().WithConditions(conditionConfig("B", "New"))}},
			want:   []any{"a", false, false, "B"},
			owners: map[string][]string{"a Apply": {".spec.from"}, "b Apply status": conditionPaths("B")},
		},
		{
			name: "two managers own a condition each",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a")},
				{manager: "b", toStatus: true, status: applyv1beta1.ImageStatus().WithConditions(conditionConfig("B", "New"))},
				{manager: "c", toStatus: true, status: applyv1beta1.ImageStatus().WithConditions(conditionConfig("C", "New"))},
				{manager: "b", toStatus: true, status: applyv1beta1.ImageStatus().WithConditions(conditionConfig("C", "Old")), conflict: `conflict with "c"`}},
			want:   []any{"a", false, false, "B C"},
			owners: map[string][]string{"a Apply": {".spec.from"}, "b Apply status": conditionPaths("B"), "c Apply status": conditionPaths("C")},
		},
		{
			name: "applying the spec leaves the status",
			steps: []step{{manager: "a", spec: imageSpec().WithFrom("a")},
				{manager: "a", toStatus: true, status: applyv1beta1.ImageStatus().WithConditions(conditionConfig("A", "New"))},
				{manager: "a", spec: imageSpec().WithFrom("b")}},
			want:   []any{"b", false, false, "A"},
			owners: map[string][]string{"a Apply": {".spec.from"}, "a Apply status": conditionPaths("A")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			images := s.api.TaggerV1beta1().Images(namespace)
			for i, step := range tt.steps {
				apply := images.Apply
				if step.toStatus {
					apply = images.ApplyStatus
				}
				var err error
				if step.update != "" {
					_, err = images.Patch(t.Context(), "app", types.MergePatchType, []byte(step.update), metav1.PatchOptions{FieldManager: step.manager})
				} else {
					config := applyv1beta1.Image("app", namespace)
					if step.spec != nil {
						config = config.WithSpec(step.spec)
					}
					if step.status != nil {
						config = config.WithStatus(step.status)
					}
					_, err = apply(t.Context(), config, metav1.ApplyOptions{FieldManager: step.manager, Force: step.force})
				}
				switch {
				case step.conflict == "" && err != nil:
					t.Fatalf("step %d: %v", i, err)
				case step.conflict != "" && !apierrors.IsConflict(err):
					t.Fatalf("step %d: %v, want a conflict", i, err)
				case step.conflict != "" && !strings.Contains(err.Error(), step.conflict):
					t.Errorf("step %d: %q does not contain %q", i, err, step.conflict)
				}
			}
			image := s.image(t, namespace, "app")
			if diff := cmp.Diff(tt.want, []any{image.Spec.From, image.Spec.Mirror, image.Spec.Suspend, conditionTypes(image)}); diff != "" {
				t.Errorf("Image (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.owners, owners(t, image)); diff != "" {
				t.Errorf("owners (-want +got):\n%s", diff)
			}
			if len(image.Status.HashReferences) != 0 {
				t.Errorf("the history was forged: %+v", image.Status.HashReferences)
			}
		})
	}
}
