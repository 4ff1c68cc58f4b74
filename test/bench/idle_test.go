// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench && linux

package bench

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned"
)

const (
	images = 10_000
	// entries are those of the history of each Image.
	entries = 5
	// idle is how long a server is looked at that has nothing to do.
	idle = time.Minute
)

// TestIdle measures a standalone server without Images, then with 10,000 of them that are on an hourly schedule, of which none is
// due, and again after a restart.
func TestIdle(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	fmt.Println("images  processor  resident memory  data directory")
	s.measure(t, "0")
	began := time.Now()
	s.fill(t)
	fmt.Printf("%d Images with %d entries each were written in %s\n", images, entries, time.Since(began).Round(time.Second))
	s.measure(t, strconv.Itoa(images))
	began = time.Now()
	s.stop(t)
	s = start(t, dir)
	fmt.Printf("stopped and started again in %s\n", time.Since(began).Round(100*time.Millisecond))
	s.measure(t, strconv.Itoa(images))
	s.stop(t)
}

type server struct {
	dir string
	cmd *exec.Cmd
	// config is the administrator's.
	config *rest.Config
	api    versioned.Interface
}

// start starts a server on a data directory and waits until it is ready.
func start(t *testing.T, dir string) *server {
	t.Helper()
	s := &server{dir: filepath.Join(dir, "data"), cmd: exec.Command("tagger-apiserver", "--standalone", "--data-dir", filepath.Join(dir, "data"), "--secure-port", "0", "--registry-port", "0")}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("%v: run it by make bench, which builds the server", err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	err = wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		printed, err := os.ReadFile(log.Name())
		if err != nil || !bytes.Contains(printed, []byte(`"Serving"`)) {
			return false, err
		}
		if s.config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(s.dir, "kubeconfig")); err != nil {
			return false, nil
		}
		s.config.QPS = -1
		if s.api, err = versioned.NewForConfig(s.config); err != nil {
			return false, err
		}
		status := 0
		err = s.api.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status).Error()
		return err == nil && status == http.StatusOK, nil
	})
	if err != nil {
		printed, _ := os.ReadFile(log.Name())
		t.Fatalf("%v:\n%s", err, printed)
	}
	return s
}

func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// fill makes the Images, of 100 namespaces.
func (s *server) fill(t *testing.T) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for n := range images {
		group.Go(func() error {
			api := s.api.TaggerV1beta1().Images(fmt.Sprintf("team-%d", n%100))
			image, err := api.Create(ctx, &v1beta1.Image{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("image-%d", n)},
				Spec:       v1beta1.ImageSpec{From: fmt.Sprintf("registry.example/team/image-%d:latest", n), RefreshInterval: &metav1.Duration{Duration: time.Hour}},
			}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			now := metav1.Now()
			image.Status.LastAttemptTime = &now
			for e := range entries {
				digest := fmt.Sprintf("sha256:%064x", n*entries+e)
				image.Status.HashReferences = append(image.Status.HashReferences, v1beta1.HashReference{
					From: image.Spec.From, ImageReference: "mirror.example/" + image.Namespace + "/" + image.Name + "@" + digest,
					SourceReference: "registry.example/team/" + image.Name + "@" + digest,
					ImportedAt:      now, ResolvedAt: metav1.NewMicroTime(now.Add(-time.Duration(e) * time.Second)),
					MediaType: "application/vnd.oci.image.index.v1+json", Platforms: []string{"linux/amd64", "linux/arm64"},
				})
			}
			_, err = api.UpdateStatus(ctx, image, metav1.UpdateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// measure prints what the server needs for a while.
func (s *server) measure(t *testing.T, images string) {
	t.Helper()
	time.Sleep(10 * time.Second) // what was just done is not what is measured
	before := s.processorTime(t)
	time.Sleep(idle)
	used := s.processorTime(t) - before
	fmt.Printf("%6s %9.1f%% %12.0f MiB %11.0f MiB\n", images, 100*used.Seconds()/idle.Seconds(), float64(s.resident(t))/(1<<20), float64(s.size(t))/(1<<20))
}

// processorTime returns what the process used of processors.
func (s *server) processorTime(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have blanks
	fields := strings.Fields(rest)
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, in hundredths of a second: see proc_pid_stat(5)
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// resident returns the memory of the process, in bytes.
func (s *server) resident(t *testing.T) int64 {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// size returns that of the data directory, in bytes.
func (s *server) size(t *testing.T) (size int64) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
