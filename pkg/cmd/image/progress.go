// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

const (
	// lineInterval is how often at most progress is written where it cannot be drawn.
	lineInterval = 5 * time.Second
	// barWidth is that of the bar itself, in columns.
	barWidth = 40
)

// display tells a person how an import, a push or a pull goes. That it cannot be written to is no reason to stop following, and not reported.
type display interface {
	// start says that the request is on its way. It may be called from any goroutine, more than once, and not at all.
	start()
	// show says how far the import is.
	show(*v1beta1.ImageImport)
	// read says what program an image is read from, and how many bytes of it there are so far.
	read(program string, bytes int64)
	// move says how much was moved.
	move(v1beta1.ImportProgress)
	// say writes a line that stays.
	say(line string)
	// close ends the display, once or more often.
	close()
}

// newDisplay returns a display that draws on a terminal, and writes plain lines to anything else, and to a terminal that does
// not say how large it is. name is the image, and doing what is done with it, such as importing.
func newDisplay(out io.Writer, doing, name string, clock clock.PassiveClock) display {
	if file, ok := out.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 0 {
			return newDrawing(doing+" "+name, clock, mpb.WithOutput(out))
		}
	}
	return &lines{out: out, doing: doing, clock: clock}
}

// lines is a display for logs: few plain lines.
type lines struct {
	out   io.Writer
	doing string
	clock clock.PassiveClock

	introduced bool
	reading    bool
	shown      v1beta1.ImportProgress
	shownAt    time.Time
}

func (*lines) start() {}
func (*lines) close() {}

func (l *lines) say(line string) {
	_ = printers.WriteEscaped(l.out, line+"\n")
}

func (l *lines) show(imp *v1beta1.ImageImport) {
	if !l.introduced {
		l.say(fmt.Sprintf("importing %s by imageimport.%s/%s", imp.Spec.From, v1beta1.GroupName, imp.Name))
		l.introduced = true
	}
	if imp.Status.Progress != nil {
		l.doing = "mirroring"
		l.write(*imp.Status.Progress)
	}
}

func (l *lines) read(program string, _ int64) {
	if !l.reading {
		l.say("reading from " + program)
		l.reading = true
	}
}

func (l *lines) move(progress v1beta1.ImportProgress) {
	if l.shownAt.IsZero() { // what takes a moment needs no lines
		l.shownAt = l.clock.Now()
	}
	l.write(progress)
}

func (l *lines) write(progress v1beta1.ImportProgress) {
	if progress == l.shown || l.clock.Since(l.shownAt) < lineInterval {
		return
	}
	l.say(l.doing + " " + inNumbers(&progress))
	l.shown, l.shownAt = progress, l.clock.Now()
}

// drawing is a display for terminals: a bar while something is moved, a spinner at other times. Neither stays.
type drawing struct {
	title   string
	clock   clock.PassiveClock
	options []mpb.ContainerOption
	status  atomic.Pointer[v1beta1.ImageImportStatus]
	reading atomic.Pointer[string] // nil before something is read

	lock      sync.Mutex // of what follows
	container *mpb.Progress
	bar       *mpb.Bar
	closed    bool
}

func newDrawing(title string, clock clock.PassiveClock, options ...mpb.ContainerOption) *drawing {
	d := &drawing{title: title, clock: clock, options: options}
	d.status.Store(&v1beta1.ImageImportStatus{})
	return d
}

func (d *drawing) start() { d.canvas() }

// canvas returns what is drawn on, nil after close.
func (d *drawing) canvas() *mpb.Progress {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.container == nil && !d.closed {
		d.container = mpb.New(d.options...)
		d.bar = d.container.New(0, mpb.SpinnerStyle().PositionLeft(),
			mpb.BarFillerMiddleware(d.fill),
			mpb.BarWidth(barWidth),
			mpb.PrependDecorators(decor.Name(d.title)),
			mpb.AppendDecorators(decor.Any(d.words)))
	}
	return d.container
}

// fill draws the bar while something is moved, and the spinner at other times.
func (d *drawing) fill(spinner mpb.BarFiller) mpb.BarFiller {
	bar := mpb.BarStyle().Build()
	return mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
		if progress := d.status.Load().Progress; progress != nil {
			stat.Current, stat.Total = progress.Bytes, progress.BytesTotal
			return bar.Fill(w, stat)
		}
		stat.RequestedWidth = 1
		return spinner.Fill(w, stat)
	})
}

// words are what stands behind the bar.
func (d *drawing) words(decor.Statistics) string {
	status := d.status.Load()
	switch next := status.NextAttemptTime; {
	case status.Progress != nil:
		return inNumbers(status.Progress)
	case next != nil:
		return "next attempt in " + duration.HumanDuration(max(0, next.Sub(d.clock.Now())))
	}
	if reading := d.reading.Load(); reading != nil {
		return *reading
	}
	return ""
}

func (d *drawing) show(imp *v1beta1.ImageImport) {
	d.status.Store(&imp.Status)
	d.canvas()
}

func (d *drawing) read(program string, bytes int64) {
	text := "reading from " + program
	if bytes > 0 {
		text += ", " + units.BytesSize(float64(bytes))
	}
	d.reading.Store(&text)
	d.canvas()
}

func (d *drawing) move(progress v1beta1.ImportProgress) {
	d.status.Store(&v1beta1.ImageImportStatus{Progress: &progress})
	d.canvas()
}

func (d *drawing) say(line string) {
	if canvas := d.canvas(); canvas != nil {
		_ = printers.WriteEscaped(canvas, line+"\n")
	}
}

func (d *drawing) close() {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.container != nil {
		d.bar.Abort(true)
		d.container.Wait()
	}
	d.container, d.closed = nil, true
}

// inNumbers says how much was moved.
func inNumbers(progress *v1beta1.ImportProgress) string {
	return fmt.Sprintf("%d/%d blobs, %s/%s", progress.Blobs, progress.BlobsTotal,
		units.BytesSize(float64(progress.Bytes)), units.BytesSize(float64(progress.BytesTotal)))
}
