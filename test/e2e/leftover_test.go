// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// observation is what a cluster could change of the machine for others.
type observation struct {
	// Interfaces are the network devices.
	Interfaces []string
	// Folders are those that programs of a node use by default.
	Folders map[string][]string
	// Settings are those of the kernel that a kubelet sets.
	Settings map[string]string
}

func observe(t *testing.T) observation {
	t.Helper()
	o := observation{Folders: make(map[string][]string), Settings: make(map[string]string)}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		o.Interfaces = append(o.Interfaces, i.Name)
	}
	for _, folder := range []string{
		"/etc/cni", "/etc/containerd", "/opt/cni", "/opt/containerd", "/run/containerd", "/run/netns", "/usr/libexec/kubernetes",
		"/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods",
	} {
		o.Folders[folder] = list(t, folder)
	}
	for _, setting := range []string{
		"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory",
		"vm/panic_on_oom", "net/ipv4/ip_forward",
	} {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		if err != nil {
			t.Fatal(err)
		}
		o.Settings[setting] = string(value)
	}
	return o
}

// list returns the names in a folder, which need not be there.
func list(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// expectUnchanged fails the test where the machine is not as before, or anything is there of a cluster that had this folder.
func (o observation) expectUnchanged(t *testing.T, dir string) {
	t.Helper()
	if diff := cmp.Diff(o, observe(t)); diff != "" {
		t.Errorf("the machine was changed (-before +after):\n%s", diff)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts are left: %s, %v", mounts, err)
	}
	if processes := processesOf(t, dir); len(processes) > 0 {
		t.Errorf("processes are left: %q", processes)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", dir)
	}
	if groups := cgroupsOf(t, dir); len(groups) > 0 {
		t.Errorf("control groups are left: %q", groups)
	}
}

// processesOf returns the command lines of those that name a folder or work in it, or are in the control groups of its Pods.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, process := range processes {
		// A process that ended meanwhile has none of these.
		cmdline, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(process, "cgroup"))
		cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
		if strings.Contains(string(cmdline), dir) || strings.Contains(string(groups), "/"+filepath.Base(dir)) || strings.HasPrefix(cwd, dir) {
			found = append(found, string(cmdline))
		}
	}
	return found
}

// cgroupsOf returns the control groups that are called like a folder.
func cgroupsOf(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // it was another's
		}
		if err == nil && entry.Name() == filepath.Base(dir) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
