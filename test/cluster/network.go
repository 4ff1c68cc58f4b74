// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var dialer = &net.Dialer{Timeout: 30 * time.Second}

// A network is where sockets are opened: a namespace, or this process's own, which is the zero value.
type network struct {
	path string
	file *os.File // holds the namespace
}

func openNetwork(path string) (network, error) {
	file, err := os.Open(path)
	return network{path: path, file: file}, err
}

func (n network) close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// do runs a function on a thread in the namespace. A socket that it opens stays there. The function must not hand the opening
// to another goroutine; for addresses, package net does not.
func (n network) do(f func() error) error {
	if n.file == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks it: no other goroutine may get this thread
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Dial connects to an address inside: an IP address and a port. It can be the DialContext of an http.Transport.
func (c *Cluster) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = c.inside.do(func() error {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens at an address inside, so that this process can be a server there.
func (c *Cluster) Listen(ctx context.Context, network, address string) (listener net.Listener, err error) {
	err = c.inside.do(func() error {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// Forward listens on a free port of loopback outside and relays what comes there to an address inside, until the cluster is
// closed. It returns the address that it listens on.
func (c *Cluster) Forward(ctx context.Context, address string) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	c.relays.serve(listener, func(ctx context.Context) (net.Conn, error) { return c.Dial(ctx, "tcp", address) })
	return listener.Addr().String(), nil
}

// relays are what listens outside for somebody inside. The zero value is ready for use.
type relays struct {
	mu        sync.Mutex
	listeners []net.Listener
	open      map[net.Conn]struct{}
	running   sync.WaitGroup
	closed    bool
}

// serve relays each connection to one that dial opens, and returns at once.
func (r *relays) serve(listener net.Listener, dial func(context.Context) (net.Conn, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listeners = append(r.listeners, listener)
	r.running.Go(func() {
		for {
			outer, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			r.running.Go(func() {
				defer closeQuietly(outer)
				inner, err := dial(context.Background())
				if err != nil {
					return // nobody listens, which the client is told by the end of its connection
				}
				defer closeQuietly(inner)
				if r.hold(outer, inner) {
					relay(outer.(*net.TCPConn), inner.(*net.TCPConn))
					r.release(outer, inner)
				}
			})
		}
	})
}

// hold remembers connections that close must end, unless it has come already.
func (r *relays) hold(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[net.Conn]struct{})
	}
	for _, conn := range conns {
		r.open[conn] = struct{}{}
	}
	return !r.closed
}

func (r *relays) release(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range conns {
		delete(r.open, conn)
	}
}

func (r *relays) close() {
	r.mu.Lock()
	r.closed = true
	for _, listener := range r.listeners {
		closeQuietly(listener)
	}
	for conn := range r.open {
		closeQuietly(conn)
	}
	r.mu.Unlock()
	r.running.Wait()
}

// relay copies both ways until both have ended. An end is passed on.
func relay(a, b *net.TCPConn) {
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		both.Go(func() {
			_, err := io.Copy(way[0], way[1])
			if err != nil && !errors.Is(err, net.ErrClosed) {
				closeQuietly(way[1]) // its sender shall not wait for what cannot be passed on
			}
			_ = way[0].CloseWrite() // nobody may listen any more
		})
	}
	both.Wait()
}

// closeQuietly closes what nobody waits for any more.
func closeQuietly(c io.Closer) { _ = c.Close() }

// ports of the control plane.
type ports struct{ etcd, etcdPeer, apiserver, controllerManager string }

// choosePorts returns the usual ports, or free ones where the network is shared.
func choosePorts(free bool) (ports, error) {
	p := ports{etcd: "2379", etcdPeer: "2380", apiserver: "6443", controllerManager: "10257"}
	if !free {
		return p, nil
	}
	chosen, err := FreePorts(4)
	if err != nil {
		return ports{}, err
	}
	p.etcd, p.etcdPeer, p.apiserver, p.controllerManager = chosen[0], chosen[1], chosen[2], chosen[3]
	return p, nil
}

// FreePorts returns so many ports of loopback on which nothing listens, for programs that are to be told theirs.
func FreePorts(n int) ([]string, error) {
	chosen := make([]string, n)
	for i := range chosen {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer closeQuietly(listener) //nolint:revive // held until all are chosen, so that they differ
		if _, chosen[i], err = net.SplitHostPort(listener.Addr().String()); err != nil {
			return nil, err
		}
	}
	return chosen, nil
}
