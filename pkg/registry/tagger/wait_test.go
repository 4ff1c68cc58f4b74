// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
)

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

// TestImportWaitsForAnotherReplica: the replica that answers is not the one that works.
func TestImportWaitsForAnotherReplica(t *testing.T) {
	t.Parallel()
	answering := newStores(t, setup{})
	answering.createImage(t, validImage())
	working := newStores(t, setup{prefix: answering.prefix})
	working.onImport(t, func(imp *tagger.ImageImport) {
		working.write(t, imp.Name, failed(v1beta1.ReasonUnavailable))
		working.write(t, imp.Name, finished)
	})
	got, err := importing(t, imagestorage.NewImportREST(answering.imports, answering.writer, noVerifier(t), nil), alice, &tagger.ImageImport{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.CompletionTime == nil || len(got.Status.ImportAttempts) != 1 {
		t.Errorf("the answer is %+v, want it finished", got.Status)
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
		{name: "deadline", within: 6 * time.Second, atLeast: time.Second},
		{name: "deadline that leaves no time to wait", within: 1900 * time.Millisecond},
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
	ctx, fail := context.WithCancelCause(t.Context())
	var calls sync.WaitGroup
	t.Cleanup(calls.Wait)
	call := func(who string) {
		calls.Go(func() {
			imp, err := importing(t, r, who, &tagger.ImageImport{})
			if err != nil {
				fail(err)
			}
			answers <- imp
		})
	}
	for range places + 1 {
		call(alice)
	}
	atOnce := <-answers // has no place
	if _, err := r.Create(as(t, alice, "create", "images/import", "myapp"), "myapp", &tagger.ImageImport{}, rest.ValidateAllObjectFunc,
		&metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a dry run without a place: %v, want to be told to come later", err)
	}
	call("bob")
	stored := make(chan string, places+2)
	s.onImport(t, func(imp *tagger.ImageImport) { stored <- imp.Name })
	for range places + 2 {
		select {
		case name := <-stored:
			s.write(t, name, finished)
		case <-ctx.Done(): // what failed is not stored
			t.Fatal(context.Cause(ctx))
		}
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
