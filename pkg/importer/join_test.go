// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// TestEqualResolvesJoin has many resolve a tag at once: those that come while the first is under way share the second.
func TestEqualResolvesJoin(t *testing.T) {
	t.Parallel()
	const callers = 20
	registry, img := newRegistry(), newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	entered, opened := make(chan struct{}, callers), make(chan struct{})
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-opened
		registry.ServeHTTP(w, r)
	}))
	i := newImporter(t)
	src := source(up.reference(t, "app:v1"))
	resolve := func(ctx context.Context, src Source) error {
		res, err := i.Resolve(ctx, src, img.manifest.Digest)
		if err == nil && !res.Unchanged {
			err = errors.New("the tag has moved")
		}
		return err
	}
	var calls sync.WaitGroup
	call := func(ctx context.Context, src Source, want error) {
		calls.Go(func() {
			if err := resolve(ctx, src); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	call(t.Context(), src, nil)
	<-entered
	leaving, leave := context.WithCancel(t.Context())
	for range callers {
		call(t.Context(), src, nil)
	}
	call(leaving, src, context.Canceled)
	other := src
	other.Scope = "another namespace"
	call(t.Context(), other, nil)
	<-entered
	leave()
	eventually(t, func() bool {
		return i.resolves.waiting(question{scope: src.Scope, reference: src.Reference, known: img.manifest.Digest}) == callers
	})
	close(opened)
	calls.Wait()
	if seen := up.requests(); len(seen) != 3 {
		t.Errorf("%d requests, want one of the first, one of those who came meanwhile, and one of another namespace", len(seen))
	}
	eventually(t, func() bool { // nothing is kept of questions that were answered
		i.resolves.mu.Lock()
		defer i.resolves.mu.Unlock()
		return len(i.resolves.running)+len(i.resolves.next) == 0
	})
}

// TestGivenUpQuestionIsNotJoined has everybody leave who waits for the next asking: whoever comes then is answered nevertheless.
func TestGivenUpQuestionIsNotJoined(t *testing.T) {
	t.Parallel()
	j, q, entered, opened := newJoins(), question{scope: "ns"}, make(chan struct{}, 10), make(chan struct{})
	ask := func(ctx context.Context) (*Resolved, error) {
		entered <- struct{}{}
		<-opened
		return &Resolved{}, ctx.Err()
	}
	var calls sync.WaitGroup
	call := func(ctx context.Context, want error) {
		calls.Go(func() {
			if _, err := j.do(ctx, q, ask); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	call(t.Context(), nil)
	<-entered
	leaving, leave := context.WithCancel(t.Context())
	call(leaving, context.Canceled)
	eventually(t, func() bool { return j.waiting(q) == 1 })
	leave()
	eventually(t, func() bool { return j.waiting(q) == 0 })
	call(t.Context(), nil)
	eventually(t, func() bool { return j.waiting(q) == 1 })
	close(opened)
	calls.Wait()
	if len(entered) != 1 {
		t.Errorf("asked %d more times, want once", len(entered))
	}
}

// TestJoinedResolveEndsWithItsCallers: what nobody waits for any more is not asked.
func TestJoinedResolveEndsWithItsCallers(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(ended)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ref := up.reference(t, "app:v1")
	_, err := newImporter(t).Resolve(ctx, source(ref), "")
	wantFailure(t, err, ref, Timeout, "did not answer in time")
	if len(up.requests()) == 0 {
		t.Skip("the machine is too busy to ask within the time")
	}
	<-ended
}

// waiting returns how many wait for the next asking of a question.
func (j *joins) waiting(q question) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	if a := j.next[q]; a != nil {
		return a.waiting
	}
	return 0
}

// eventually waits until a condition holds.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		return condition(), nil
	})
	if err != nil {
		t.Fatal("it never happened")
	}
}
