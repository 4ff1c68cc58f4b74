// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	testingclock "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/test/lab"
)

// artifact is what refers to a subject and names nothing.
func artifact(t *testing.T, subject ocispec.Descriptor, name string) []byte {
	t.Helper()
	return marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Subject: &subject,
		Manifests: []ocispec.Descriptor{}, Annotations: map[string]string{"name": name},
	})
}

// writesList is of requests that write the list of what refers to a subject.
func writesList(subject digest.Digest) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/"+importer.ReferrersTag(subject))
	}
}

// TestReferrersOfTwoReplicas: one writes the list of referrers after it has read it, and before the other one's change is there.
func TestReferrersOfTwoReplicas(t *testing.T) {
	t.Parallel()
	subject := describe(ocispec.MediaTypeImageManifest, []byte("subject"))
	first, second := artifact(t, subject, "first"), artifact(t, subject, "second")
	dst := lab.New(t, lab.TrustedTLS)
	clk := testingclock.NewFakeClock(time.Now())
	// The first to write waits until the other one has.
	var held, undone atomic.Bool
	other := make(chan struct{})
	dst.Misbehave(lab.When(writesList(subject.Digest), func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if held.CompareAndSwap(false, true) {
			<-other
			registry.ServeHTTP(w, r)
			undone.Store(true)
			return
		}
		registry.ServeHTTP(w, r)
		select {
		case <-other:
		default:
			close(other)
		}
	}))
	done := make(chan error, 2)
	var last *Repository
	for _, raw := range [][]byte{first, second} {
		replica := repository(t, newRegistry(t, dst, func(_ *Config, o *Options) { o.Clock = clk }), "ns/app")
		go func() { done <- replica.PutManifest(t.Context(), describe(ocispec.MediaTypeImageIndex, raw), raw, nil) }()
		last = replica
	}
	for pushed := 0; pushed < 2; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			pushed++
		default:
			if undone.Load() && clk.HasWaiters() {
				clk.Step(settleTime)
			}
			runtime.Gosched()
		}
	}
	found, err := last.index(t.Context(), subject.Digest)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range found.Manifests {
		names = append(names, d.Annotations["name"])
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"first", "second"}, names); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// TestReferrersThatNeverSettle: a push fails whose referrer is never listed, and so does one that nobody waits for.
func TestReferrersThatNeverSettle(t *testing.T) {
	t.Parallel()
	subject := describe(ocispec.MediaTypeImageManifest, []byte("subject"))
	dst := lab.New(t, lab.TrustedTLS)
	dst.Misbehave(lab.When(writesList(subject.Digest), lab.Answering(http.StatusCreated, "", "")))
	clk := testingclock.NewFakeClock(time.Now())
	app := repository(t, newRegistry(t, dst, func(_ *Config, o *Options) { o.Clock = clk }), "ns/app")
	raw := artifact(t, subject, "lost")
	push := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() { done <- app.PutManifest(ctx, describe(ocispec.MediaTypeImageIndex, raw), raw, nil) }()
		for !clk.HasWaiters() {
			runtime.Gosched()
		}
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	given := push(ctx)
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
	clk.Step(settleTime)
	done := push(t.Context())
	for {
		select {
		case err := <-done:
			wantFailure(t, err, importer.MirrorUnavailable, "is written by others all the time")
			return
		default:
			if clk.HasWaiters() {
				clk.Step(settleTime)
			}
			runtime.Gosched()
		}
	}
}

// TestWhoHasNoReferrers: that a registry has no API for them is remembered where it says so, and nothing else is taken for that.
func TestWhoHasNoReferrers(t *testing.T) {
	t.Parallel()
	subject := describe(ocispec.MediaTypeImageManifest, []byte("subject"))
	list := marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{describe(ocispec.MediaTypeImageManifest, []byte("signature"))},
	})
	code := func(code string) string { return `{"errors":[{"code":"` + code + `"}]}` }
	for _, tt := range []struct {
		name       string
		status     int
		body       string
		remembered bool
	}{
		{name: "distribution", status: 404, body: "404 page not found\n", remembered: true},
		{name: "an endpoint that is unknown", status: 404, body: code("UNSUPPORTED"), remembered: true},
		{name: "the registry of crane", status: 404, body: code("METHOD_UNKNOWN"), remembered: true},
		{name: "a method that is unknown", status: 405, body: code("UNSUPPORTED"), remembered: true},
		{name: "not implemented", status: 501, remembered: true},
		{name: "a repository that is not there", status: 404, body: code("NAME_UNKNOWN")},
		{name: "a project of Harbor that is not there", status: 404, body: code("NOT_FOUND")},
		{name: "a proxy refuses", status: 403, body: "<html>"},
		{name: "a digest that is unknown", status: 400, body: code("DIGEST_INVALID")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dst := lab.New(t, lab.TrustedTLS)
			app := repository(t, newRegistry(t, dst), "ns/app")
			dst.Misbehave(lab.Only(lab.Referrers, lab.Answering(tt.status, "application/json", tt.body)))
			if offered, err := app.offersReferrers(t.Context(), subject.Digest); err != nil || offered {
				t.Errorf("offered: %t, %v", offered, err)
			}
			dst.Misbehave(lab.Only(lab.Referrers, lab.Answering(200, ocispec.MediaTypeImageIndex, string(list))))
			found, err := app.Referrers(t.Context(), subject.Digest)
			if err != nil || (len(found) == 0) != tt.remembered {
				t.Errorf("found afterwards: %d, %v", len(found), err)
			}
		})
	}
}
