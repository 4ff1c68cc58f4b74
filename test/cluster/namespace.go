// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

//go:embed node/enter.sh
var enterScript string

// enter makes the namespaces, and has the thread that starts all programs enter them.
func (c *Cluster) enter(ctx context.Context) error {
	if err := createCgroup(c.cgroup()); err != nil {
		return err
	}
	// The first process of a namespace inherits orphans. Who ignores that children end need not wait for them.
	first := exec.Command("/bin/sh", "-c", "trap '' CHLD; exec sleep infinity") //nolint:noctx // Close ends it
	first.Dir, first.Env = c.dir, environment()
	first.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	if err := c.thread.do(first.Start); err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	c.init = first
	namespaces := fmt.Sprintf("/proc/%d/ns/", first.Process.Pid)
	var err error
	if c.inside, err = openNetwork(namespaces + "net"); err != nil {
		return err
	}
	return c.thread.do(func() error {
		if err := enterNamespaces(namespaces); err != nil {
			return err
		}
		setUp := exec.CommandContext(ctx, "/bin/sh", "-c", enterScript, "enter.sh", c.dir, Address+"/24") //nolint:gosec // ours
		setUp.Env = environment()
		if out, err := setUp.CombinedOutput(); err != nil {
			return fmt.Errorf("setting up namespaces: %w: %s", err, out)
		}
		return nil
	})
}

// enterNamespaces has this thread enter the namespaces that the files of a folder stand for.
func enterNamespaces(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // or the mounts would have to be those of all threads
		return os.NewSyscallError("unshare", err)
	}
	kinds := []struct {
		name string
		flag int
	}{{"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} // the files are not found after the last
	for _, kind := range kinds {
		file, err := os.Open(filepath.Join(dir, kind.name))
		if err != nil {
			return err
		}
		err = unix.Setns(int(file.Fd()), kind.flag)
		if err := errors.Join(os.NewSyscallError("setns", err), file.Close()); err != nil {
			return fmt.Errorf("entering %s: %w", file.Name(), err)
		}
	}
	return nil
}

// leave ends all processes of the cluster. With the last one the namespaces go.
func (c *Cluster) leave() error {
	if c.init != nil {
		_ = c.init.Process.Kill() // and with it all that live in its namespace
		_ = c.init.Wait()         // which says that it was killed
	}
	for _, p := range slices.Backward(c.started) {
		p.mu.Lock()
		if p.cmd != nil {
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		p.mu.Unlock()
	}
	c.thread.close()
	if c.config.ControlPlaneOnly {
		return nil
	}
	return errors.Join(c.inside.close(), removeCgroup(c.cgroup()))
}
