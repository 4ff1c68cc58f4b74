// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
)

// bound is what a person sees of a request that creates an ImageImport: how it was answered, and what is stored then.
type bound struct {
	// Reason is the typed reason of the refusal, and Field the first field that it blames.
	Reason metav1.StatusReason
	Field  string
	// Import and Image are the specs that are stored.
	Import *tagger.ImageImportSpec
	Image  *tagger.ImageSpec
	// Generation is the Image's: how often somebody changed its spec.
	Generation int64
}

// A creator creates an ImageImport in one of the ways in which that can be done.
type creator func(ctx context.Context, s *stores, imp *tagger.ImageImport, validate rest.ValidateObjectFunc, dryRun []string) (runtime.Object, error)

// creators are a create, and an apply of what is not there, which the store handles as an update.
var creators = map[string]creator{
	"create": func(ctx context.Context, s *stores, imp *tagger.ImageImport, validate rest.ValidateObjectFunc, dryRun []string) (runtime.Object, error) {
		return s.imports.Create(ctx, imp, validate, &metav1.CreateOptions{DryRun: dryRun})
	},
	"apply": func(ctx context.Context, s *stores, imp *tagger.ImageImport, validate rest.ValidateObjectFunc, dryRun []string) (runtime.Object, error) {
		obj, created, err := s.imports.Update(ctx, imp.Name, rest.DefaultUpdatedObjectInfo(imp), validate, rest.ValidateAllObjectUpdateFunc,
			true, &metav1.UpdateOptions{DryRun: dryRun})
		if err == nil && !created {
			err = errors.New("nothing was created")
		}
		return obj, err
	},
}

func requested(change func(*tagger.ImageImportSpec)) *tagger.ImageImport {
	imp := &tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{Name: "myapp-0", Namespace: namespace},
		Spec:       tagger.ImageImportSpec{TargetImage: "myapp", TTLSecondsAfterFinished: ptr.To[int32](3600)},
	}
	if change != nil {
		change(&imp.Spec)
	}
	return imp
}

func filled(from string, mirror, insecure bool) *tagger.ImageImportSpec {
	return &tagger.ImageImportSpec{
		TargetImage: "myapp", From: from, Mirror: &mirror, Insecure: &insecure, TTLSecondsAfterFinished: ptr.To[int32](3600),
	}
}

func followed(change func(*tagger.ImageSpec)) *tagger.ImageSpec {
	spec := &tagger.ImageSpec{From: "quay.io/company/myapp", HistoryLimit: ptr.To[int32](25)}
	if change != nil {
		change(spec)
	}
	return spec
}

func refuse(context.Context, runtime.Object) error {
	return apierrors.NewForbidden(tagger.Resource("imageimports"), "myapp-0", errors.New("a policy says no"))
}

func TestBind(t *testing.T) {
	t.Parallel()
	from := func(reference string) func(*tagger.ImageImportSpec) {
		return func(s *tagger.ImageImportSpec) { s.From = reference }
	}
	insecure := func(is bool) func(*tagger.ImageImportSpec) {
		return func(s *tagger.ImageImportSpec) { s.Insecure = &is }
	}
	everyHour := func(s *tagger.ImageSpec) { s.RefreshInterval = &metav1.Duration{Duration: time.Hour} }
	suspended := func(s *tagger.ImageSpec) {
		everyHour(s)
		s.Suspend = true
	}
	tests := []struct {
		name string
		// image is the Image that exists before; nil when there is none.
		image *tagger.ImageSpec
		// denied are rights that the requester does not have, as "verb resource".
		denied   []string
		spec     func(*tagger.ImageImportSpec)
		validate rest.ValidateObjectFunc
		dryRun   bool
		want     bound
	}{
		{
			name: "an Image is created",
			spec: from("nginx"),
			want: bound{
				Import: filled("nginx", false, false), Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.From = "nginx" }),
			},
		},
		{
			name: "an Image is created as the import says",
			spec: func(s *tagger.ImageImportSpec) {
				s.From, s.Mirror, s.Insecure = "nginx", ptr.To(true), ptr.To(true)
			},
			want: bound{
				Import: filled("nginx", true, true), Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.From, s.Mirror, s.Insecure = "nginx", true, true }),
			},
		},
		{
			name: "no Image and nowhere to import from",
			want: bound{Reason: metav1.StatusReasonInvalid, Field: "spec.from"},
		},
		{
			name: "no right to create the Image", denied: []string{"create images"}, spec: from("nginx"),
			want: bound{Reason: metav1.StatusReasonForbidden},
		},
		{
			name: "malformed", spec: from("malformed"),
			want: bound{Reason: metav1.StatusReasonInvalid, Field: "spec.from"},
		},
		{
			name: "no target", spec: func(s *tagger.ImageImportSpec) { s.TargetImage, s.From = "", "nginx" },
			want: bound{Reason: metav1.StatusReasonInvalid, Field: "spec.targetImage"},
		},
		{
			name:  "what is absent is inherited, which needs no right",
			image: followed(func(s *tagger.ImageSpec) { s.Mirror, s.Insecure = true, true }), denied: []string{"update images"},
			want: bound{
				Import: filled("quay.io/company/myapp", true, true), Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.Mirror, s.Insecure = true, true }),
			},
		},
		{
			name:  "false is not absent",
			image: followed(func(s *tagger.ImageSpec) { s.Mirror, s.Insecure = true, true }),
			spec:  func(s *tagger.ImageImportSpec) { s.Mirror, s.Insecure = ptr.To(false), ptr.To(false) },
			want: bound{
				Import: filled("quay.io/company/myapp", false, false), Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.Mirror, s.Insecure = true, true }),
			},
		},
		{
			name: "the same source in other words", image: followed(everyHour), denied: []string{"update images"},
			spec: from("quay.io/company/myapp:latest"),
			want: bound{Import: filled("quay.io/company/myapp:latest", false, false), Image: followed(everyHour), Generation: 1},
		},
		{
			name: "mirroring once needs no right", image: followed(nil), denied: []string{"update images"},
			spec: func(s *tagger.ImageImportSpec) { s.Mirror = ptr.To(true) },
			want: bound{Import: filled("quay.io/company/myapp", true, false), Image: followed(nil), Generation: 1},
		},
		{
			name: "another source", image: followed(nil), spec: from("quay.io/company/myapp:v2"),
			want: bound{Import: filled("quay.io/company/myapp:v2", false, false), Image: followed(nil), Generation: 1},
		},
		{
			name: "no right to another source", image: followed(everyHour), denied: []string{"update images"}, spec: from("nginx"),
			want: bound{Reason: metav1.StatusReasonForbidden, Image: followed(everyHour), Generation: 1},
		},
		{
			name: "another source suspends the schedule", image: followed(everyHour), spec: from("nginx"),
			want: bound{Import: filled("nginx", false, false), Image: followed(suspended), Generation: 2},
		},
		{
			name: "a suspended schedule is left alone", image: followed(suspended), spec: from("nginx"),
			want: bound{Import: filled("nginx", false, false), Image: followed(suspended), Generation: 1},
		},
		{
			name: "insecure", image: followed(everyHour), spec: insecure(true),
			want: bound{Import: filled("quay.io/company/myapp", false, true), Image: followed(everyHour), Generation: 1},
		},
		{
			name: "no right to insecure", image: followed(nil), denied: []string{"update images"}, spec: insecure(true),
			want: bound{Reason: metav1.StatusReasonForbidden, Image: followed(nil), Generation: 1},
		},
		{
			name: "insecure as the Image", image: followed(func(s *tagger.ImageSpec) { s.Insecure = true }),
			denied: []string{"update images"}, spec: insecure(true),
			want: bound{
				Import: filled("quay.io/company/myapp", false, true), Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.Insecure = true }),
			},
		},
		{
			name: "an Image fed by pushes", image: followed(func(s *tagger.ImageSpec) { s.From = "" }),
			want: bound{
				Reason: metav1.StatusReasonInvalid, Field: "spec.from", Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.From = "" }),
			},
		},
		{
			name: "an import into an Image fed by pushes", image: followed(func(s *tagger.ImageSpec) { s.From = "" }), spec: from("nginx"),
			want: bound{
				Import: filled("nginx", false, false), Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.From = "" }),
			},
		},
		{
			name: "no right to import into an Image fed by pushes", image: followed(func(s *tagger.ImageSpec) { s.From = "" }),
			denied: []string{"update images"}, spec: from("nginx"),
			want: bound{
				Reason: metav1.StatusReasonForbidden, Generation: 1,
				Image: followed(func(s *tagger.ImageSpec) { s.From = "" }),
			},
		},
		{
			name: "an Image that was created is taken back", spec: from("nginx"), validate: refuse,
			want: bound{Reason: metav1.StatusReasonForbidden},
		},
		{
			name: "an Image that was there stays", image: followed(nil), validate: refuse,
			want: bound{Reason: metav1.StatusReasonForbidden, Image: followed(nil), Generation: 1},
		},
		{
			name: "a schedule goes on when the import is refused", image: followed(everyHour), spec: from("nginx"), validate: refuse,
			want: bound{Reason: metav1.StatusReasonForbidden, Image: followed(everyHour), Generation: 3},
		},
		{
			name: "a schedule that was suspended stays so", image: followed(suspended), spec: from("nginx"), validate: refuse,
			want: bound{Reason: metav1.StatusReasonForbidden, Image: followed(suspended), Generation: 1},
		},
		{name: "dry run creates no Image", spec: from("nginx"), dryRun: true},
		{
			name: "dry run without the right", denied: []string{"create images"}, spec: from("nginx"), dryRun: true,
			want: bound{Reason: metav1.StatusReasonForbidden},
		},
		{
			name: "dry run that is refused", spec: from("nginx"), validate: refuse, dryRun: true,
			want: bound{Reason: metav1.StatusReasonForbidden},
		},
		{
			name: "dry run suspends nothing", image: followed(everyHour), spec: from("nginx"), dryRun: true,
			want: bound{Image: followed(everyHour), Generation: 1},
		},
	}
	for _, tt := range tests {
		for way, create := range creators {
			t.Run(way+": "+tt.name, func(t *testing.T) {
				t.Parallel()
				s := newStores(t, setup{authorizer: deny(tt.denied...)})
				if tt.image != nil {
					s.createImage(t, &tagger.Image{ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace}, Spec: *tt.image})
				}
				var dryRun []string
				if tt.dryRun {
					dryRun = []string{metav1.DryRunAll}
				}
				obj, err := create(as(t, alice, "create", "imageimports", ""), s, requested(tt.spec), tt.validate, dryRun)
				got := see(t, s, err)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("outcome %v (-want +got):\n%s", err, diff)
				}
				if err == nil {
					answered := obj.(*tagger.ImageImport).Spec
					if answered.From == "" || answered.Mirror == nil || answered.Insecure == nil {
						t.Errorf("the answer is not filled in: %+v", answered)
					}
				}
			})
		}
	}
}

// see returns how a request was answered and what is stored now.
func see(t *testing.T, s *stores, err error) bound {
	t.Helper()
	var got bound
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		got.Reason = status.Status().Reason
		if details := status.Status().Details; details != nil && len(details.Causes) > 0 {
			got.Field = details.Causes[0].Field
		}
	} else if err != nil {
		t.Errorf("the error has no status: %v", err)
	}
	image := s.image(t, "myapp")
	if image != nil {
		got.Image, got.Generation = &image.Spec, image.Generation
	}
	for _, imp := range s.stored(t) {
		got.Import = &imp.Spec
		if image != nil && !metav1.IsControlledBy(&imp, image) {
			t.Errorf("the import is owned by %v, not by its Image", imp.OwnerReferences)
		}
	}
	return got
}

func TestBindSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		image  *tagger.ImageSpec
		denied string
		from   string
		want   string
	}{
		{name: "no Image", want: `there is no Image "myapp" in this namespace; say where to import it from`},
		{name: "pushes", image: &tagger.ImageSpec{}, want: "say where to import from"},
		{
			name: "create", denied: "create images", from: "nginx",
			want: "the import creates its Image, which needs the right to create images: no rule allows it",
		},
		{
			name: "update", image: followed(nil), denied: "update images", from: "nginx",
			want: "which needs the right to update images",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{authorizer: deny(tt.denied)})
			if tt.image != nil {
				s.createImage(t, &tagger.Image{ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace}, Spec: *tt.image})
			}
			imp := requested(func(spec *tagger.ImageImportSpec) { spec.From = tt.from })
			_, err := s.imports.Create(as(t, alice, "create", "imageimports", ""), imp, nil, &metav1.CreateOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestBindToImageBeingDeleted(t *testing.T) {
	t.Parallel()
	for way, create := range creators {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			image := validImage()
			image.Finalizers = []string{"tests.example/keep"}
			s.createImage(t, image)
			if _, _, err := s.images.Delete(as(t, alice, "delete", "images", "myapp"), "myapp", rest.ValidateAllObjectFunc, nil); err != nil {
				t.Fatal(err)
			}
			_, err := create(as(t, alice, "create", "imageimports", ""), s, requested(nil), rest.ValidateAllObjectFunc, nil)
			if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "import again when it is gone") {
				t.Errorf("error %v, want a conflict that says what to do", err)
			}
			if stored := s.stored(t); len(stored) > 0 {
				t.Errorf("stored: %v", stored)
			}
		})
	}
}

// TestOwners: an import belongs to its Image alone, whatever the request says.
func TestOwners(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	image := s.createImage(t, validImage())
	other := metav1.OwnerReference{APIVersion: "tests.example/v1", Kind: "Thing", Name: "other", UID: "other"}
	controller := metav1.OwnerReference{APIVersion: "tests.example/v1", Kind: "Thing", Name: "boss", UID: "boss", Controller: ptr.To(true)}
	again := metav1.OwnerReference{APIVersion: "tagger.dev/v1beta1", Kind: "Image", Name: "myapp", UID: image.UID, BlockOwnerDeletion: ptr.To(true)}
	imp := requested(nil)
	imp.OwnerReferences = []metav1.OwnerReference{controller, other, again}
	obj, err := s.imports.Create(as(t, alice, "create", "imageimports", ""), imp, nil, &metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []metav1.OwnerReference{
		{APIVersion: "tagger.dev/v1beta1", Kind: "Image", Name: "myapp", UID: image.UID, Controller: ptr.To(true)},
		other,
	}
	if diff := cmp.Diff(want, obj.(*tagger.ImageImport).OwnerReferences); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

// TestApplyAgain: applying the manifest of an import again changes nothing, whatever its Image says by then.
func TestApplyAgain(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.createImage(t, validImage())
	ctx := as(t, alice, "patch", "imageimports", "myapp-0")
	first, err := creators["apply"](ctx, s, requested(nil), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.images.Update(as(t, alice, "update", "images", "myapp"), "myapp", change(func(i *tagger.Image) {
		i.Spec.From, i.Spec.Mirror = "elsewhere", false
	}), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	second, created, err := s.imports.Update(ctx, "myapp-0", change(func(i *tagger.ImageImport) { i.Spec = requested(nil).Spec }),
		nil, nil, true, &metav1.UpdateOptions{})
	if err != nil || created {
		t.Fatalf("created %t, %v", created, err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("applied again (-first +second):\n%s", diff)
	}
}
