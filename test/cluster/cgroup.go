// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

// cgroup is the control group of all Pods.
func (c *Cluster) cgroup() string { return "/" + filepath.Base(c.dir) }

const cgroupRoot = "/sys/fs/cgroup"

// createCgroup makes a control group in the one hierarchy of version 2, or in each of version 1.
func createCgroup(name string) error {
	hierarchies, unified, err := hierarchies()
	if err != nil {
		return err
	}
	if unified {
		// What the kubelet limits Pods by. Some may not be there, or be on already.
		for _, controller := range []string{"cpu", "cpuset", "hugetlb", "memory", "pids"} {
			_ = os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
	}
	for _, hierarchy := range hierarchies {
		group := filepath.Join(hierarchy, name)
		if err := os.Mkdir(group, 0o755); err != nil { //nolint:gosec // as others there
			return err
		}
		if filepath.Base(hierarchy) != "cpuset" {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // nothing runs where these are empty
			value, err := os.ReadFile(filepath.Join(hierarchy, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(group, file), value, 0); err != nil { //nolint:gosec // a group of ours
				return err
			}
		}
	}
	return nil
}

// removeCgroup removes a control group with those in it. Processes that were killed may take a while to leave.
func removeCgroup(name string) error {
	hierarchies, _, err := hierarchies()
	if err != nil {
		return err
	}
	var last error
	err = wait.PollUntilContextTimeout(context.Background(), pollInterval, 10*time.Second, true, func(context.Context) (bool, error) {
		last = nil
		for _, hierarchy := range hierarchies {
			last = errors.Join(last, removeFolders(filepath.Join(hierarchy, name)))
		}
		return last == nil, nil
	})
	if err != nil {
		return last
	}
	return nil
}

// removeFolders removes a folder and those in it, though not files: those of a control group go with it.
func removeFolders(root string) error {
	var folders []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			folders = append(folders, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, folder := range slices.Backward(folders) {
		err = errors.Join(err, syscall.Rmdir(folder))
	}
	return err
}

// hierarchies are the roots of control groups, and whether there is one for all controllers.
func hierarchies() (roots []string, unified bool, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &stat); err != nil {
		return nil, false, os.NewSyscallError("statfs "+cgroupRoot, err)
	}
	if stat.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}, true, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, false, err
	}
	for _, entry := range entries {
		if entry.IsDir() { // the others are links to these
			roots = append(roots, filepath.Join(cgroupRoot, entry.Name()))
		}
	}
	return roots, false, nil
}
