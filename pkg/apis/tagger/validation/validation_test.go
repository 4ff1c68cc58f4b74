// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
)

// problem is what a person needs of an error: where, of what type, and words of the detail that name the remedy.
type problem struct {
	Type   field.ErrorType
	Field  string
	Remedy string
}

// check compares errors with what is wanted, in any order.
func check(t *testing.T, got field.ErrorList, want []problem) {
	t.Helper()
	left := slices.Clone(want)
	for _, err := range got {
		i := slices.IndexFunc(left, func(p problem) bool {
			return p.Type == err.Type && p.Field == err.Field && strings.Contains(err.Detail, p.Remedy)
		})
		if i < 0 {
			t.Errorf("unexpected %s: %v", err.Type, err)
			continue
		}
		if left[i].Remedy == "" && err.Type != field.ErrorTypeDuplicate {
			t.Errorf("%s: the test must say which remedy the detail names: %q", err.Field, err.Detail)
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, p := range left {
		t.Errorf("missing: %+v", p)
	}
}

// reference stands in for the parser of references, which this package does not know.
func reference(value string) error {
	if strings.Contains(value, "://") {
		return errors.New("write host/repository:tag without a scheme")
	}
	return nil
}

func image(change func(*tagger.Image)) *tagger.Image {
	image := &tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: "ns", ResourceVersion: "1", UID: "uid"},
		Spec:       tagger.ImageSpec{From: "quay.io/company/myapp:latest", HistoryLimit: ptr.To[int32](25)},
		Status: tagger.ImageStatus{HashReferences: []tagger.HashReference{{
			From: "quay.io/company/myapp:latest", ImageReference: "quay.io/company/myapp@sha256:00",
		}}},
	}
	if change != nil {
		change(image)
	}
	return image
}

func imageImport(change func(*tagger.ImageImport)) *tagger.ImageImport {
	imp := &tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-00000000", Namespace: "ns", ResourceVersion: "1", UID: "uid"},
		Spec: tagger.ImageImportSpec{
			TargetImage: "myapp", From: "quay.io/company/myapp:latest", Mirror: ptr.To(false), Insecure: ptr.To(false),
			TTLSecondsAfterFinished: ptr.To[int32](3600),
		},
	}
	if change != nil {
		change(imp)
	}
	return imp
}

func TestValidateImage(t *testing.T) {
	t.Parallel()
	interval := func(d time.Duration) func(*tagger.Image) {
		return func(i *tagger.Image) { i.Spec.RefreshInterval = &metav1.Duration{Duration: d} }
	}
	limit := func(n int32) func(*tagger.Image) {
		return func(i *tagger.Image) { i.Spec.HistoryLimit = &n }
	}
	tests := []struct {
		name   string
		change func(*tagger.Image)
		want   []problem
	}{
		{name: "valid"},
		{name: "fed by pushes alone", change: func(i *tagger.Image) { i.Spec.From = "" }},
		{name: "longest name", change: func(i *tagger.Image) { i.Name = strings.Repeat("a", 63) }},
		{
			name: "name too long", change: func(i *tagger.Image) { i.Name = strings.Repeat("a", 64) },
			want: []problem{{field.ErrorTypeInvalid, "metadata.name", "no more than 63"}},
		},
		{
			name: "name with a dot", change: func(i *tagger.Image) { i.Name = "my.app" },
			want: []problem{{field.ErrorTypeInvalid, "metadata.name", "must not contain dots"}},
		},
		{
			name: "name in upper case", change: func(i *tagger.Image) { i.Name = "MyApp" },
			want: []problem{{field.ErrorTypeInvalid, "metadata.name", "must consist of lower case"}},
		},
		{
			name: "no name", change: func(i *tagger.Image) { i.Name = "" },
			want: []problem{{field.ErrorTypeRequired, "metadata.name", "name or generateName is required"}},
		},
		{
			name: "malformed reference", change: func(i *tagger.Image) { i.Spec.From = "https://quay.io/company/myapp" },
			want: []problem{{field.ErrorTypeInvalid, "spec.from", "without a scheme"}},
		},
		{name: "longest reference", change: func(i *tagger.Image) { i.Spec.From = strings.Repeat("a", 255) }},
		{
			name: "reference too long", change: func(i *tagger.Image) { i.Spec.From = strings.Repeat("a", 256) },
			want: []problem{{field.ErrorTypeTooLong, "spec.from", "255"}},
		},
		{name: "shortest interval", change: interval(time.Minute)},
		{
			name: "interval too short", change: interval(time.Minute - 1),
			want: []problem{{field.ErrorTypeInvalid, "spec.refreshInterval", "must be at least 1m0s; leave it out"}},
		},
		{
			name: "no interval is none, not zero", change: interval(0),
			want: []problem{{field.ErrorTypeInvalid, "spec.refreshInterval", "leave it out"}},
		},
		{
			name: "interval without a source",
			change: func(i *tagger.Image) {
				i.Spec.From, i.Spec.RefreshInterval = "", &metav1.Duration{Duration: time.Hour}
			},
			want: []problem{{field.ErrorTypeRequired, "spec.from", "needs a reference to import from"}},
		},
		{name: "smallest history", change: limit(1)},
		{name: "largest history", change: limit(25)},
		{name: "no history", change: limit(0), want: []problem{{field.ErrorTypeInvalid, "spec.historyLimit", "between 1 and 25"}}},
		{name: "history too long", change: limit(26), want: []problem{{field.ErrorTypeInvalid, "spec.historyLimit", "between 1 and 25"}}},
		{
			name: "every error at once",
			change: func(i *tagger.Image) {
				i.Name, i.Spec.From = "My_App", "http://a"
				limit(-1)(i)
				interval(time.Second)(i)
			},
			want: []problem{
				{field.ErrorTypeInvalid, "metadata.name", "lower case"},
				{field.ErrorTypeInvalid, "spec.from", "scheme"},
				{field.ErrorTypeInvalid, "spec.refreshInterval", "at least"},
				{field.ErrorTypeInvalid, "spec.historyLimit", "between"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check(t, ValidateImage(image(tt.change), reference), tt.want)
		})
		t.Run("update: "+tt.name, func(t *testing.T) {
			t.Parallel()
			old, updated := image(nil), image(tt.change)
			updated.Name = old.Name // that a name changes is another error
			var want []problem
			for _, p := range tt.want {
				if p.Field != "metadata.name" {
					want = append(want, p)
				}
			}
			check(t, ValidateImageUpdate(updated, old, reference), want)
		})
	}
}

// TestErrorsKeepSecrets: what people paste in place of a reference may hold a password.
func TestErrorsKeepSecrets(t *testing.T) {
	t.Parallel()
	const from = "https://alice:s3cret@quay.io/company/myapp"
	errs := slices.Concat(
		ValidateImage(image(func(i *tagger.Image) { i.Spec.From = from }), reference),
		ValidateImageImport(imageImport(func(i *tagger.ImageImport) { i.Spec.From = from }), reference),
		ValidateImage(image(func(i *tagger.Image) { i.Spec.From = from + strings.Repeat("a", 255) }), reference),
		ValidateImageImportUpdate(imageImport(func(i *tagger.ImageImport) { i.Spec.From = from }), imageImport(nil)),
	)
	if len(errs) != 4 {
		t.Fatalf("%d errors, want 4: %v", len(errs), errs)
	}
	for _, err := range errs {
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error quotes a password: %v", err)
		}
	}
}

func TestValidateImageUpdateMetadata(t *testing.T) {
	t.Parallel()
	check(t, ValidateImageUpdate(image(func(i *tagger.Image) { i.UID = "other" }), image(nil), reference),
		[]problem{{field.ErrorTypeInvalid, "metadata.uid", "immutable"}})
}

func TestValidateImageImport(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*tagger.ImageImport)
		want   []problem
	}{
		{name: "valid"},
		{name: "as images/import names them", change: func(i *tagger.ImageImport) { i.Name = strings.Repeat("a", 63) + "-01234567" }},
		{
			name: "name in upper case", change: func(i *tagger.ImageImport) { i.Name = "MyApp" },
			want: []problem{{field.ErrorTypeInvalid, "metadata.name", "must consist of lower case"}},
		},
		{
			name: "no target", change: func(i *tagger.ImageImport) { i.Spec.TargetImage = "" },
			want: []problem{{field.ErrorTypeRequired, "spec.targetImage", "name the Image, in the same namespace"}},
		},
		{
			name: "target in another namespace", change: func(i *tagger.ImageImport) { i.Spec.TargetImage = "other/myapp" },
			want: []problem{{field.ErrorTypeInvalid, "spec.targetImage", "must consist of lower case"}},
		},
		{
			name: "target too long", change: func(i *tagger.ImageImport) { i.Spec.TargetImage = strings.Repeat("a", 64) },
			want: []problem{{field.ErrorTypeInvalid, "spec.targetImage", "no more than 63"}},
		},
		{
			name: "malformed reference", change: func(i *tagger.ImageImport) { i.Spec.From = "docker://nginx" },
			want: []problem{{field.ErrorTypeInvalid, "spec.from", "without a scheme"}},
		},
		{
			name: "reference too long", change: func(i *tagger.ImageImport) { i.Spec.From = strings.Repeat("a", 256) },
			want: []problem{{field.ErrorTypeTooLong, "spec.from", "255"}},
		},
		{name: "deleted at once", change: func(i *tagger.ImageImport) { i.Spec.TTLSecondsAfterFinished = ptr.To[int32](0) }},
		{
			name: "deleted before it finished", change: func(i *tagger.ImageImport) { i.Spec.TTLSecondsAfterFinished = ptr.To[int32](-1) },
			want: []problem{{field.ErrorTypeInvalid, "spec.ttlSecondsAfterFinished", "at least 0"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check(t, ValidateImageImport(imageImport(tt.change), reference), tt.want)
		})
	}
}

func TestValidateImageImportUpdate(t *testing.T) {
	t.Parallel()
	immutable := []problem{{field.ErrorTypeInvalid, "spec", "create another ImageImport"}}
	tests := []struct {
		name   string
		change func(*tagger.ImageImport)
		want   []problem
	}{
		{name: "the same"},
		{name: "metadata", change: func(i *tagger.ImageImport) { i.Labels = map[string]string{"a": "b"} }},
		{name: "target", change: func(i *tagger.ImageImport) { i.Spec.TargetImage = "other" }, want: immutable},
		{name: "from", change: func(i *tagger.ImageImport) { i.Spec.From = "other" }, want: immutable},
		{name: "mirror", change: func(i *tagger.ImageImport) { i.Spec.Mirror = ptr.To(true) }, want: immutable},
		{name: "mirror absent", change: func(i *tagger.ImageImport) { i.Spec.Mirror = nil }, want: immutable},
		{name: "insecure", change: func(i *tagger.ImageImport) { i.Spec.Insecure = ptr.To(true) }, want: immutable},
		{name: "time to live", change: func(i *tagger.ImageImport) { i.Spec.TTLSecondsAfterFinished = ptr.To[int32](1) }, want: immutable},
		{
			name: "identity", change: func(i *tagger.ImageImport) { i.UID = "other" },
			want: []problem{{field.ErrorTypeInvalid, "metadata.uid", "immutable"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check(t, ValidateImageImportUpdate(imageImport(tt.change), imageImport(nil)), tt.want)
		})
	}
}

func TestValidateStatusUpdates(t *testing.T) {
	t.Parallel()
	reference := tagger.HashReference{ImageReference: "quay.io/company/myapp@sha256:00"}
	condition := metav1.Condition{
		Type: "Imported", Status: metav1.ConditionTrue, Reason: "Imported", LastTransitionTime: metav1.Unix(1, 0),
	}
	badCondition := condition
	badCondition.Reason = "not a reason"

	ofImage := func(status tagger.ImageStatus) field.ErrorList {
		return ValidateImageStatusUpdate(image(func(i *tagger.Image) { i.Status = status }), image(nil))
	}
	ofImport := func(status tagger.ImageImportStatus) field.ErrorList {
		return ValidateImageImportStatusUpdate(imageImport(func(i *tagger.ImageImport) { i.Status = status }), imageImport(nil))
	}
	tests := []struct {
		name string
		errs field.ErrorList
		want []problem
	}{
		{name: "empty Image", errs: ofImage(tagger.ImageStatus{})},
		{name: "empty import", errs: ofImport(tagger.ImageImportStatus{})},
		{name: "longest history", errs: ofImage(tagger.ImageStatus{HashReferences: slices.Repeat([]tagger.HashReference{reference}, 25)})},
		{
			name: "history too long",
			errs: ofImage(tagger.ImageStatus{HashReferences: slices.Repeat([]tagger.HashReference{reference}, 26)}),
			want: []problem{{field.ErrorTypeTooMany, "status.hashReferences", "at most 25"}},
		},
		{
			name: "entry that names nothing",
			errs: ofImage(tagger.ImageStatus{HashReferences: []tagger.HashReference{reference, {Size: -1}}}),
			want: []problem{
				{field.ErrorTypeRequired, "status.hashReferences[1].imageReference", "names what to run"},
				{field.ErrorTypeInvalid, "status.hashReferences[1].size", "not be negative"},
			},
		},
		{
			name: "conditions of an Image",
			errs: ofImage(tagger.ImageStatus{Conditions: []metav1.Condition{condition, badCondition}}),
			want: []problem{
				{field.ErrorTypeDuplicate, "status.conditions[1]", ""},
				{field.ErrorTypeInvalid, "status.conditions[1].reason", "a condition reason must start with alphabetic character"},
			},
		},
		{
			name: "remembered imports",
			errs: ofImage(tagger.ImageStatus{RecordedImports: []tagger.HashReference{
				{ImportUID: "a", ImageReference: "x"}, {ImageReference: "x"}, {ImportUID: "a"},
			}}),
			want: []problem{
				{field.ErrorTypeRequired, "status.recordedImports[1].importUID", "name the import"},
				{field.ErrorTypeDuplicate, "status.recordedImports[2].importUID", ""},
				{field.ErrorTypeRequired, "status.recordedImports[2].imageReference", "names what to run"},
			},
		},
		{
			name: "negative progress, and nobody's claim",
			errs: ofImport(tagger.ImageImportStatus{Progress: &tagger.ImportProgress{Blobs: -1}, Claim: &tagger.ImportClaim{}}),
			want: []problem{
				{field.ErrorTypeInvalid, "status.progress.blobs", "not be negative"},
				{field.ErrorTypeRequired, "status.claim.holder", "name the server"},
			},
		},
		{
			name: "an import that has ended is started again",
			errs: ValidateImageImportStatusUpdate(imageImport(nil), imageImport(func(i *tagger.ImageImport) {
				i.Status = tagger.ImageImportStatus{CompletionTime: ptr.To(metav1.Unix(1, 0)), HashReference: &reference}
			})),
			want: []problem{
				{field.ErrorTypeForbidden, "status.completionTime", "once the import has ended"},
				{field.ErrorTypeForbidden, "status.hashReference", "once the import has ended"},
			},
		},
		{
			name: "ten attempts",
			errs: ofImport(tagger.ImageImportStatus{ImportAttempts: make([]tagger.ImportAttempt, 10), HashReference: &reference}),
		},
		{
			name: "more attempts than there are",
			errs: ofImport(tagger.ImageImportStatus{ImportAttempts: make([]tagger.ImportAttempt, 11)}),
			want: []problem{{field.ErrorTypeTooMany, "status.importAttempts", "at most 10"}},
		},
		{
			name: "import that brought nothing",
			errs: ofImport(tagger.ImageImportStatus{HashReference: &tagger.HashReference{}}),
			want: []problem{{field.ErrorTypeRequired, "status.hashReference.imageReference", "names what to run"}},
		},
		{
			name: "conditions of an import",
			errs: ofImport(tagger.ImageImportStatus{Conditions: []metav1.Condition{badCondition}}),
			want: []problem{{field.ErrorTypeInvalid, "status.conditions[0].reason", "must start with alphabetic"}},
		},
		{
			name: "another Image's status",
			errs: ValidateImageStatusUpdate(image(func(i *tagger.Image) { i.UID = "other" }), image(nil)),
			want: []problem{{field.ErrorTypeInvalid, "metadata.uid", "immutable"}},
		},
		{
			name: "another import's status",
			errs: ValidateImageImportStatusUpdate(imageImport(func(i *tagger.ImageImport) { i.UID = "other" }), imageImport(nil)),
			want: []problem{{field.ErrorTypeInvalid, "metadata.uid", "immutable"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check(t, tt.errs, tt.want)
		})
	}
}

func TestValidationChangesNothing(t *testing.T) {
	t.Parallel()
	valid := imageImport(nil)
	ValidateImageImport(valid, reference)
	ValidateImageImportUpdate(valid, imageImport(func(i *tagger.ImageImport) { i.Spec.Mirror = nil }))
	if diff := cmp.Diff(imageImport(nil), valid); diff != "" {
		t.Errorf("validation wrote (-want +got):\n%s", diff)
	}
}
