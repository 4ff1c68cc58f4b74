// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
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

// A step is what the queue would write to the status of an import.
type step func(*tagger.ImageImportStatus)

func failed(reason string) step {
	return func(status *tagger.ImageImportStatus) {
		status.ImportAttempts = append(status.ImportAttempts, tagger.ImportAttempt{When: metav1.Unix(1, 0), Reason: "in words"})
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: v1beta1.ConditionImported, Status: metav1.ConditionUnknown, Reason: reason,
		})
	}
}

func finished(status *tagger.ImageImportStatus) {
	status.CompletionTime = ptr.To(metav1.Unix(2, 0))
}

// write writes a step to the status of a stored import.
func (s *stores) write(t *testing.T, name string, do step) {
	t.Helper()
	if _, _, err := s.importStatus.Update(as(t, "tagger", "update", "imageimports/status", name), name,
		change(func(i *tagger.ImageImport) { do(&i.Status) }), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Errorf("writing the status of %s: %v", name, err)
	}
}

// onImport calls do for each ImageImport that is stored from now on, until the test ends.
func (s *stores) onImport(t *testing.T, do func(*tagger.ImageImport)) {
	t.Helper()
	watcher, err := s.imports.Watch(as(t, "tagger", "watch", "imageimports", ""), &metainternalversion.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for event := range watcher.ResultChan() {
			obj := event.Object
			if shared, ok := obj.(runtime.CacheableObject); ok { // as the watch cache hands it to many watchers
				obj = shared.GetObject()
			}
			if event.Type == watch.Added {
				do(obj.(*tagger.ImageImport))
			}
		}
	})
	t.Cleanup(func() {
		watcher.Stop()
		done.Wait()
	})
}

func TestImportWaits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		steps []step
		// want is how many attempts the answer knows of, and whether the import had finished.
		attempts int
		finished bool
	}{
		{name: "until it finished", steps: []step{finished}, finished: true},
		{
			name:     "through attempts that may heal",
			steps:    []step{failed(v1beta1.ReasonUnavailable), failed(v1beta1.ReasonRateLimited), finished},
			attempts: 2, finished: true,
		},
		{name: "until it seldom heals: not found", steps: []step{failed(v1beta1.ReasonNotFound)}, attempts: 1},
		{name: "until it seldom heals: unauthorized", steps: []step{failed(v1beta1.ReasonUnauthorized)}, attempts: 1},
		{name: "until it seldom heals: TLS", steps: []step{failed(v1beta1.ReasonTimeout), failed(v1beta1.ReasonTLS)}, attempts: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			s.createImage(t, validImage())
			// Imports of other Images come and go meanwhile, and are not what this request waits for.
			s.onImport(t, func(imp *tagger.ImageImport) {
				if imp.Spec.TargetImage != "myapp" {
					return
				}
				other := validImport()
				other.Name, other.Spec.TargetImage = "other-0", "other"
				if _, err := s.imports.Create(as(t, alice, "create", "imageimports", ""), other, nil, &metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
				s.write(t, other.Name, finished)
				for _, do := range tt.steps {
					s.write(t, imp.Name, do)
				}
			})
			got, err := importing(t, imagestorage.NewImportREST(s.imports, s.writer, noVerifier(t), nil), alice, &tagger.ImageImport{})
			if err != nil {
				t.Fatal(err)
			}
			if !named.MatchString(got.Name) || got.Spec.TargetImage != "myapp" || got.Spec.From != validImage().Spec.From {
				t.Errorf("the answer is %s of %+v", got.Name, got.Spec)
			}
			if attempts, done := len(got.Status.ImportAttempts), got.Status.CompletionTime != nil; attempts != tt.attempts || done != tt.finished {
				t.Errorf("%d attempts, finished: %t; want %d, %t", attempts, done, tt.attempts, tt.finished)
			}
		})
	}
}

// TestImportAnswersInProgress: whatever ends the wait, the answer is the stored import, which goes on.
func TestImportAnswersInProgress(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	close(stopping)
	tests := []struct {
		name string
		// within is how long the request may take in all; 0 for as long as it likes.
		within   time.Duration
		stopping <-chan struct{}
		imports  func(imagestorage.ImportStore) imagestorage.ImportStore
		// atLeast is how long the request waits before.
		atLeast time.Duration
	}{
		{name: "deadline", within: 2300 * time.Millisecond, atLeast: 200 * time.Millisecond},
		{name: "deadline that leaves no time to wait", within: time.Second},
		{name: "server stops", stopping: stopping},
		{name: "watch fails", imports: func(s imagestorage.ImportStore) imagestorage.ImportStore {
			return unwatchable{ImportStore: s, err: apierrors.NewTooManyRequests("not yet", 1)}
		}},
		{name: "watch ends", imports: func(s imagestorage.ImportStore) imagestorage.ImportStore {
			return unwatchable{ImportStore: s}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t, setup{})
			s.createImage(t, validImage())
			var imports imagestorage.ImportStore = s.imports
			if tt.imports != nil {
				imports = tt.imports(imports)
			}
			began := time.Now()
			ctx := as(t, alice, "create", "images/import", "myapp")
			if tt.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithDeadline(ctx, began.Add(tt.within))
				defer cancel()
			}
			obj, err := imagestorage.NewImportREST(imports, s.writer, noVerifier(t), tt.stopping).
				Create(ctx, "myapp", &tagger.ImageImport{}, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if ctx.Err() != nil {
				t.Error("the answer comes too late")
			}
			if waited := time.Since(began); waited < tt.atLeast {
				t.Errorf("waited %s, want %s at least", waited, tt.atLeast)
			}
			got := obj.(*tagger.ImageImport)
			if got.Status.CompletionTime != nil {
				t.Errorf("the import has finished: %+v", got.Status)
			}
			if stored := s.stored(t); len(stored) != 1 || stored[0].UID != got.UID {
				t.Errorf("stored: %v, answered: %v", stored, got)
			}
		})
	}
}

// unwatchable is a store that cannot be watched, or no longer.
type unwatchable struct {
	imagestorage.ImportStore
	err error
}

func (u unwatchable) Watch(context.Context, *metainternalversion.ListOptions) (watch.Interface, error) {
	if u.err != nil {
		return nil, u.err
	}
	ended := watch.NewFake()
	ended.Stop()
	return ended, nil
}

// TestImportOfShortLife: an import that lives no longer than it runs was seen to finish.
func TestImportOfShortLife(t *testing.T) {
	t.Parallel()
	s := newStores(t, setup{})
	s.createImage(t, validImage())
	remove := func(name string) {
		if _, _, err := s.imports.Delete(as(t, "tagger", "delete", "imageimports", name), name, rest.ValidateAllObjectFunc, nil); err != nil {
			t.Error(err)
		}
	}
	var first atomic.Bool
	s.onImport(t, func(imp *tagger.ImageImport) {
		if first.CompareAndSwap(false, true) {
			s.write(t, imp.Name, finished)
		}
		remove(imp.Name)
	})
	r := imagestorage.NewImportREST(s.imports, s.writer, noVerifier(t), nil)
	for _, want := range []bool{true, false} {
		got, err := importing(t, r, alice, &tagger.ImageImport{})
		if err != nil {
			t.Fatal(err)
		}
		if done := got.Status.CompletionTime != nil; done != want {
			t.Errorf("finished: %t, want %t", done, want)
		}
	}
}

// TestImportPlaces: of many calls of one user, some wait and the others are answered at once; another user waits.
func TestImportPlaces(t *testing.T) {
	t.Parallel()
	const places = 16
	s := newStores(t, setup{})
	s.createImage(t, validImage())
	r := imagestorage.NewImportREST(s.imports, s.writer, noVerifier(t), nil)
	answers := make(chan *tagger.ImageImport, places+2)
	var calls sync.WaitGroup
	t.Cleanup(calls.Wait)
	call := func(who string) {
		calls.Go(func() {
			imp, err := importing(t, r, who, &tagger.ImageImport{})
			if err != nil {
				t.Error(err)
			}
			answers <- imp
		})
	}
	for range places + 1 {
		call(alice)
	}
	atOnce := <-answers // has no place
	call("bob")
	stored := make(chan string, places+2)
	s.onImport(t, func(imp *tagger.ImageImport) { stored <- imp.Name })
	for range places + 2 {
		s.write(t, <-stored, finished)
	}
	inProgress := 0
	for range places + 1 {
		if imp := <-answers; imp != nil && imp.Status.CompletionTime == nil {
			inProgress++
		}
	}
	if atOnce == nil || atOnce.Status.CompletionTime != nil || inProgress != 0 {
		t.Errorf("the first answer is %v, and %d others did not wait; want one alone that did not", atOnce, inProgress)
	}
	s.onImport(t, func(imp *tagger.ImageImport) { s.write(t, imp.Name, finished) })
	if imp, err := importing(t, r, alice, &tagger.ImageImport{}); err != nil || imp.Status.CompletionTime == nil {
		t.Errorf("the places were not given back: %v, %v", imp, err)
	}
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
