// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"

	"k8s.io/klog/v2"
)

// process is what a server opens at its start, to be closed after its end, the last first.
type process struct {
	closers []func()
}

// atEnd has a function called when the process closes.
func (p *process) atEnd(closer func()) { p.closers = append(p.closers, closer) }

// closing is atEnd for what may fail to close, which is logged.
func (p *process) closing(ctx context.Context, what string, closer func() error) {
	p.atEnd(func() {
		if err := closer(); err != nil {
			klog.FromContext(ctx).Error(err, "Could not close", "what", what)
		}
	})
}

func (p *process) close() {
	for _, closer := range slices.Backward(p.closers) {
		closer()
	}
}

// listen opens a port before anything is started, so that one that is taken is found at once.
func (p *process) listen(address net.IP, port int, flag string) (net.Listener, error) {
	hostPort := net.JoinHostPort(address.String(), strconv.Itoa(port))
	listener, err := net.Listen("tcp", hostPort)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is taken by another program: stop that, or choose another port with %s", hostPort, flag)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s needs more rights than this process has: choose a port above 1023 with %s", hostPort, flag)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	p.atEnd(func() { _ = listener.Close() }) // closed by the server that ran
	return listener, nil
}

func port(listener net.Listener) int {
	return listener.Addr().(*net.TCPAddr).Port
}
