// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
)

// named is how images/import names the ImageImports of myapp.
var named = regexp.MustCompile(`^myapp-[0-9a-f]{8}$`)

// verifier is a Verifier that does what a test says.
type verifier func(ctx context.Context, imp *tagger.ImageImport) (*tagger.ImageImport, error)

func (v verifier) Verify(ctx context.Context, imp *tagger.ImageImport) (*tagger.ImageImport, error) {
	return v(ctx, imp)
}

// noVerifier fails the test: only dry runs verify.
func noVerifier(t *testing.T) verifier {
	return func(context.Context, *tagger.ImageImport) (*tagger.ImageImport, error) {
		t.Error("a request that is no dry run was verified")
		return nil, errors.New("unexpected")
	}
}

// importing is a request for images/import as a client makes it.
func importing(t *testing.T, s *imagestorage.ImportREST, who string, body *tagger.ImageImport) (*tagger.ImageImport, error) {
	t.Helper()
	began := time.Now()
	defer func() {
		if waited := time.Since(began); waited > 20*time.Second {
			t.Errorf("the answer came after %s, when waiting ends anyway", waited)
		}
	}()
	obj, err := s.Create(as(t, who, "create", "images/import", "myapp"), "myapp", body, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*tagger.ImageImport), nil
}

func TestImportOfAnother(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.createImage(t, validImage())
	stopping := make(chan struct{})
	close(stopping)
	r := imagestorage.NewImportREST(s.imports, s.writer, noVerifier(t), stopping)
	tests := []struct {
		name string
		body tagger.ImageImport
		want []string
	}{
		{name: "nothing said"},
		{name: "the same said", body: tagger.ImageImport{
			ObjectMeta: metav1.ObjectMeta{Name: "myapp", Namespace: namespace}, Spec: tagger.ImageImportSpec{TargetImage: "myapp"},
		}},
		{name: "name", body: tagger.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, want: []string{"metadata.name"}},
		{name: "namespace", body: tagger.ImageImport{ObjectMeta: metav1.ObjectMeta{Namespace: "other"}}, want: []string{"metadata.namespace"}},
		{name: "target", body: tagger.ImageImport{Spec: tagger.ImageImportSpec{TargetImage: "other"}}, want: []string{"spec.targetImage"}},
		{
			name: "everything",
			body: tagger.ImageImport{
				ObjectMeta: metav1.ObjectMeta{Name: "myapp-0", Namespace: "default"}, Spec: tagger.ImageImportSpec{TargetImage: "other"},
			},
			want: []string{"metadata.name", "metadata.namespace", "spec.targetImage"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(s.stored(t))
			_, err := importing(t, r, alice, &tt.body)
			var got []string
			if status := apierrors.APIStatus(nil); errors.As(err, &status) && apierrors.IsInvalid(err) {
				for _, cause := range status.Status().Details.Causes {
					got = append(got, cause.Field)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if stored := len(s.stored(t)) - before; (stored == 1) != (tt.want == nil) {
				t.Errorf("%d imports were stored", stored)
			}
		})
	}
}

// TestImportStores what the body says, and of that nothing but what a client may say.
func TestImportStores(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	stopping := make(chan struct{})
	close(stopping)
	body := &tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{
			Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"why": "because"}, UID: "mine", Generation: 7,
		},
		Spec:   tagger.ImageImportSpec{From: "nginx", Mirror: ptr.To(true), TTLSecondsAfterFinished: ptr.To[int32](60)},
		Status: tagger.ImageImportStatus{CompletionTime: ptr.To(metav1.Unix(1, 0))},
	}
	got, err := importing(t, imagestorage.NewImportREST(s.imports, s.writer, noVerifier(t), stopping), alice, body)
	if err != nil {
		t.Fatal(err)
	}
	image := s.image(t, "myapp")
	if image == nil {
		t.Fatal("the Image was not created")
	}
	want := &tagger.ImageImport{
		ObjectMeta: metav1.ObjectMeta{
			Name: got.Name, Namespace: namespace, UID: got.UID, ResourceVersion: got.ResourceVersion,
			CreationTimestamp: got.CreationTimestamp, Generation: 1, Labels: body.Labels, Annotations: body.Annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "tagger.dev/v1beta1", Kind: "Image", Name: "myapp", UID: image.UID, Controller: ptr.To(true),
			}},
		},
		Spec: tagger.ImageImportSpec{
			TargetImage: "myapp", From: "nginx", Mirror: ptr.To(true), Insecure: ptr.To(false), TTLSecondsAfterFinished: ptr.To[int32](60),
		},
		Status: got.Status, // see TestCreate of imageimport
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if !named.MatchString(got.Name) || got.UID == "mine" {
		t.Errorf("name %q, UID %q", got.Name, got.UID)
	}
}

// taken is a store where some of the names that are tried are taken.
type taken struct {
	imagestorage.ImportStore
	names atomic.Int64
}

func (s *taken) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if s.names.Add(-1) >= 0 {
		return nil, apierrors.NewAlreadyExists(tagger.Resource("imageimports"), obj.(*tagger.ImageImport).Name)
	}
	return s.ImportStore.Create(ctx, obj, validate, options)
}

func TestImportTriesAnotherName(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	close(stopping)
	for _, tt := range []struct {
		taken int64
		want  func(error) bool
	}{
		{taken: 3, want: func(err error) bool { return err == nil }},
		{taken: 1000, want: apierrors.IsAlreadyExists},
	} {
		t.Run(fmt.Sprintf("%d taken", tt.taken), func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			s.createImage(t, validImage())
			store := &taken{ImportStore: s.imports}
			store.names.Store(tt.taken)
			_, err := importing(t, imagestorage.NewImportREST(store, s.writer, noVerifier(t), stopping), alice, &tagger.ImageImport{})
			if !tt.want(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestImportDryRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		image *tagger.Image
		from  string
		err   error
	}{
		{name: "Image that exists", image: validImage()},
		{name: "Image that would be created", from: "quay.io/company/myapp:latest"},
		{name: "failure that is not the import's", image: validImage(), err: apierrors.NewInternalError(errors.New("no clock"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			if tt.image != nil {
				s.createImage(t, tt.image)
			}
			verify := verifier(func(_ context.Context, imp *tagger.ImageImport) (*tagger.ImageImport, error) {
				if !named.MatchString(imp.Name) || imp.Spec.From != "quay.io/company/myapp:latest" || imp.Spec.Mirror == nil {
					t.Errorf("what is verified is %s of %+v", imp.Name, imp.Spec)
				}
				finished(&imp.Status)
				return imp, tt.err
			})
			body := &tagger.ImageImport{Spec: tagger.ImageImportSpec{From: tt.from}}
			obj, err := imagestorage.NewImportREST(s.imports, s.writer, verify, nil).Create(as(t, alice, "create", "images/import", "myapp"),
				"myapp", body, rest.ValidateAllObjectFunc, &metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && obj.(*tagger.ImageImport).Status.CompletionTime == nil {
				t.Error("the answer is not what was verified")
			}
			if stored := s.stored(t); len(stored) > 0 {
				t.Errorf("imports were stored: %v", stored)
			}
			if image := s.image(t, "myapp"); (image != nil) != (tt.image != nil) {
				t.Errorf("the Image is %v", image)
			}
		})
	}
}

// TestImportIsAdmitted: policies see the import twice, as what was posted to images/import and as the ImageImport.
func TestImportIsAdmitted(t *testing.T) {
	t.Parallel()
	no := func() error {
		return apierrors.NewForbidden(tagger.Resource("images"), "myapp", errors.New("a policy says no"))
	}
	onImports := func(do func(admission.Attributes) error) func(context.Context, admission.Attributes) error {
		return func(_ context.Context, a admission.Attributes) error {
			if a.GetResource().Resource != "imageimports" {
				return nil
			}
			return do(a)
		}
	}
	tests := []struct {
		name      string
		admission plugin
		posted    rest.ValidateObjectFunc
	}{
		{name: "as what was posted", posted: func(context.Context, runtime.Object) error { return no() }},
		{name: "by mutation", admission: plugin{admit: onImports(func(admission.Attributes) error { return no() })}},
		{name: "by validation", admission: plugin{validate: onImports(func(a admission.Attributes) error {
			if spec := a.GetObject().(*tagger.ImageImport).Spec; spec.From != "nginx" || spec.Mirror == nil || spec.Insecure == nil {
				t.Errorf("validation sees %+v", spec)
			}
			return no()
		})}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{admission: tt.admission})
			if tt.posted == nil {
				tt.posted = rest.ValidateAllObjectFunc
			}
			body := &tagger.ImageImport{Spec: tagger.ImageImportSpec{From: "nginx"}}
			_, err := imagestorage.NewImportREST(s.imports, s.writer, noVerifier(t), nil).Create(
				as(t, alice, "create", "images/import", "myapp"), "myapp", body, tt.posted, &metav1.CreateOptions{})
			if !apierrors.IsForbidden(err) {
				t.Errorf("error %v, want the refusal", err)
			}
			if stored := s.stored(t); len(stored) > 0 || s.image(t, "myapp") != nil {
				t.Errorf("the refused import left something: %v, %v", stored, s.image(t, "myapp"))
			}
		})
	}
}

func TestImportSpeaksOfImageImports(t *testing.T) {
	t.Parallel()
	r := imagestorage.NewImportREST(nil, nil, nil, nil)
	if got, want := r.GroupVersionKind(v1beta1.SchemeGroupVersion), v1beta1.SchemeGroupVersion.WithKind("ImageImport"); got != want {
		t.Errorf("kind %v, want %v", got, want)
	}
	if _, ok := r.New().(*tagger.ImageImport); !ok {
		t.Errorf("the body is a %T", r.New())
	}
}
