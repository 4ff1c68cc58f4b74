// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vbauerster/mpb/v8"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// TestLines holds that a log gets progress now and then, and only when there is some.
func TestLines(t *testing.T) {
	t.Parallel()
	out, clock := &bytes.Buffer{}, testingclock.NewFakeClock(now)
	display := newDisplay(out, "importing", "myapp", clock)
	display.start()
	display.read("podman", 0)
	display.read("podman", 1<<20)
	show := func(bytes int64) {
		display.show(anImport(v1beta1.ReasonInProgress, progressed, func(imp *v1beta1.ImageImport) { imp.Status.Progress.Bytes = bytes }))
	}
	display.show(anImport(v1beta1.ReasonPending))
	show(0)
	show(1 << 20)
	clock.Step(lineInterval)
	show(2 << 20)
	clock.Step(lineInterval)
	show(2 << 20)
	show(3 << 20)
	display.say("what a \x1b[31mregistry\x1b[m said")
	display.close()
	want := "reading from podman\n" +
		"importing quay.io/company/myapp:latest by imageimport.tagger.dev/myapp-0a1b2c3d\n" +
		"mirroring 3/7 blobs, 0B/40MiB\n" +
		"mirroring 3/7 blobs, 2MiB/40MiB\n" +
		"mirroring 3/7 blobs, 3MiB/40MiB\n" +
		"what a ^[[31mregistry^[[m said\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("unexpected lines (-want +got):\n%s", diff)
	}
}

// paper is what is drawn on, picture by picture.
type paper chan string

func (p paper) Write(picture []byte) (int, error) {
	p <- string(picture)
	return len(picture), nil
}

// TestDrawing holds what is drawn for each state, that what was said stays above it, and that nothing else stays.
func TestDrawing(t *testing.T) {
	t.Parallel()
	out, refresh := make(paper, 10), make(chan any)
	display := newDrawing("importing myapp", testingclock.NewFakeClock(now), mpb.WithOutput(out), mpb.ForceTTY(), mpb.WithManualRefresh(refresh))
	var got strings.Builder
	draw := func() {
		refresh <- time.Time{}
		got.WriteString(<-out)
	}
	display.start()
	draw()
	display.read("podman", 0)
	draw()
	display.read("podman", 3<<20)
	draw()
	display.show(anImport(v1beta1.ReasonInProgress, progressed))
	draw()
	display.say("attempt 1 of 10 failed")
	display.show(anImport(v1beta1.ReasonUnavailable, func(imp *v1beta1.ImageImport) {
		imp.Status.NextAttemptTime = ptr.To(metav1.NewTime(now.Add(12 * time.Second)))
	}))
	draw()
	display.close()
	display.say("nobody is there any more")
	close(out)
	for last := range out {
		got.WriteString(last)
	}
	want := "importing myapp ⠋ \n" +
		"UP importing myapp ⠙ reading from podman\n" +
		"UP importing myapp ⠹ reading from podman, 3MiB\n" +
		"UP importing myapp [==========>-------------------------] 3/7 blobs, 12.29MiB/40MiB\n" +
		"UP attempt 1 of 10 failed\n" +
		"importing myapp ⠸ next attempt in 12s\n" +
		"UP importing myapp ⠼ next attempt in 12s\n" +
		"UP "
	if diff := cmp.Diff(want, regexp.MustCompile("\x1b\\[1A\x1b\\[J").ReplaceAllString(got.String(), "UP ")); diff != "" {
		t.Errorf("unexpected drawing (-want +got):\n%s", diff)
	}
}
