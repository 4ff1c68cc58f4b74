// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	pollInterval = 50 * time.Millisecond
	// tail is how many bytes of a log are shown.
	tail = 4 << 10
)

// A thread runs functions one after another on an operating system thread of its own that lives until close. The kernel signals
// a child when the thread that started it ends, not the process, and namespaces are entered by threads. It is never the first thread
// of the process, which does not end before that, and whose namespaces are what /proc/self tells of.
type thread struct{ calls chan func() }

func newThread() *thread {
	t := &thread{calls: make(chan func())}
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			t.serve()
			return
		}
		begun := make(chan struct{})
		go func() { // on another one, as long as this one is held
			runtime.LockOSThread()
			close(begun)
			t.serve()
		}()
		<-begun
		runtime.UnlockOSThread()
	}()
	return t
}

// serve runs what it is told to until close. The thread is locked and not unlocked: it ends with the goroutine.
func (t *thread) serve() {
	for call := range t.calls {
		call()
	}
}

func (t *thread) do(f func() error) error {
	done := make(chan error)
	t.calls <- func() { done <- f() }
	return <-done
}

func (t *thread) close() { close(t.calls) }

// A component is a program of the cluster.
type component struct {
	name string
	args []string
	// ready is a URL, or a path of a Unix socket, that answers when the program does its work.
	ready string

	mu     sync.Mutex // held while it is started or stopped
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how it ended, once exited is closed
}

// launch starts a program for the first time and does not wait for it.
func (c *Cluster) launch(name, ready string, args ...string) (*component, error) {
	p := &component{name: name, ready: ready, args: args}
	c.started = append(c.started, p)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p, c.spawn(p)
}

func (c *Cluster) spawn(p *component) error {
	log, err := os.OpenFile(c.logPath(p.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer closeQuietly(log)                // the process has its own
	cmd := exec.Command(p.name, p.args...) //nolint:gosec,noctx // one of ours, which Close ends
	cmd.Dir, cmd.Env = c.dir, environment()
	cmd.Stdout, cmd.Stderr = log, log
	if err := c.Spawn(cmd); err != nil {
		return err
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		defer close(exited)
		p.err = cmd.Wait()
	}()
	return nil
}

// Spawn starts a command where the programs of the cluster run. It ends with the cluster, or with this process if that is the
// control plane alone.
func (c *Cluster) Spawn(cmd *exec.Cmd) error {
	if c.init == nil { // or it ends with the first process, and package syscall finds its parent missing in the namespace
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	return c.thread.do(cmd.Start)
}

// await waits until a program is ready.
func (c *Cluster) await(ctx context.Context, p *component) error {
	return c.until(ctx, p, func(ctx context.Context) bool {
		if !strings.Contains(p.ready, "://") {
			conn, err := dialer.DialContext(ctx, "unix", p.ready)
			if err == nil {
				closeQuietly(conn)
			}
			return err == nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.ready, nil)
		if err != nil {
			return false
		}
		resp, err := c.probe.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// until waits until something is so, as long as the program lives on which it depends.
func (c *Cluster) until(ctx context.Context, p *component, so func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("it ended: %w", p.err)
		default:
			return so(ctx), nil
		}
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w; its log ends:\n%s", p.name, err, c.logTail(p.name))
	}
	return nil
}

// Stop ends one of the programs: it is asked to, and killed after some seconds. One that is stopped already stays so.
func (c *Cluster) Stop(name string) error {
	p, err := c.component(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	return nil
}

// Restart stops one of the programs if it runs, starts it again, and waits until it is ready. They are called etcd,
// kube-apiserver and kube-controller-manager, and with a node kube-scheduler, containerd, kubelet, kube-proxy and coredns.
func (c *Cluster) Restart(ctx context.Context, name string) error {
	p, err := c.component(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	if err := c.spawn(p); err != nil {
		return err
	}
	return c.await(ctx, p)
}

// grace is how long a program may take to end. kube-apiserver would wait for a minute for watches to end.
const grace = 5 * time.Second

func (p *component) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.exited:
	case <-time.NewTimer(grace).C:
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func (c *Cluster) component(name string) (*component, error) {
	for _, p := range c.started {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no %s runs in this cluster", name)
}

// Logs returns the end of the log of each program, for a test that failed.
func (c *Cluster) Logs() string {
	var logs strings.Builder
	for _, p := range c.started {
		fmt.Fprintf(&logs, "==> %s <==\n%s\n", c.logPath(p.name), c.logTail(p.name))
	}
	return logs.String()
}

func (c *Cluster) logPath(name string) string { return c.path("log", name+".log") }

func (c *Cluster) logTail(name string) string {
	log, err := os.Open(c.logPath(name))
	if err != nil {
		return err.Error()
	}
	defer closeQuietly(log)
	if _, err := log.Seek(-tail, io.SeekEnd); err != nil && !errors.Is(err, syscall.EINVAL) { // it is shorter
		return err.Error()
	}
	end, err := io.ReadAll(log)
	if err != nil {
		return err.Error()
	}
	if _, lines, found := bytes.Cut(end, []byte("\n")); found && len(end) == tail {
		end = lines // the first is not whole
	}
	return string(end)
}

// environment is that of the programs: ours, without proxies, which know nothing of the addresses inside.
func environment() []string {
	var env []string
	for _, variable := range (&exec.Cmd{}).Environ() {
		name, _, _ := strings.Cut(variable, "=")
		switch strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "KUBECONFIG":
		default:
			env = append(env, variable)
		}
	}
	return env
}

// folderOf is where a program lies.
func folderOf(program string) (string, error) {
	path, err := exec.LookPath(program)
	return filepath.Dir(path), err
}
