// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestThread: a thread that enters namespaces ends, which the first one of a process does not, and /proc/self tells of the first.
func TestThread(t *testing.T) {
	t.Parallel()
	for range 1000 {
		thread := newThread()
		err := thread.do(func() error {
			if unix.Gettid() == os.Getpid() {
				t.Error("it is the first one of the process")
			}
			return nil
		})
		thread.close()
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			return
		}
	}
}
