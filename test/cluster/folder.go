// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// prefix is how the names of all folders of clusters begin, and those of their control groups.
const prefix = "tagger-cluster-"

// newFolder makes the folder of a cluster. It is in use as long as the file is open. Those that are not any more, since their
// process was killed, are removed.
func newFolder() (dir string, lock *os.File, err error) {
	if err := sweep(); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp("", prefix); err != nil {
		return "", nil, err
	}
	next := filepath.Join(dir, "lock.next")
	if lock, err = os.Create(next); err != nil {
		return "", nil, err
	}
	if err := tryLock(lock); err != nil {
		return "", nil, err
	}
	return dir, lock, os.Rename(next, filepath.Join(dir, "lock")) // nobody sees it before it is locked
}

func sweep() error {
	locks, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*", "lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		lock, err := os.Open(path)
		if err != nil {
			continue // another user's, or just removed
		}
		if tryLock(lock) == nil {
			dir := filepath.Dir(path)
			err = errors.Join(removeCgroup("/"+filepath.Base(dir)), os.RemoveAll(dir))
		}
		if err := errors.Join(err, lock.Close()); err != nil {
			return err
		}
	}
	return nil
}

func tryLock(file *os.File) error {
	return os.NewSyscallError("flock", unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}
