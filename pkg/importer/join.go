// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// question is what a call of Resolve asks. Equal questions have one answer.
type question struct {
	scope     string
	reference Reference
	insecure  bool
	known     digest.Digest
}

// joins lets equal questions that wait for one another be asked once. A call never
// gets the answer to a request that was sent before it came: that may be older
// than what made somebody call. It joins the next one, with all who come meanwhile.
type joins struct {
	mu sync.Mutex
	// running are the questions that are being asked, next those that are to be
	// asked after that.
	running map[question]bool
	next    map[question]*joined
}

// joined is one asking, for all who wait for it.
type joined struct {
	ctx     context.Context //nolint:containedctx // of the asking, which outlives whoever came first
	cancel  context.CancelFunc
	waiting int
	done    chan struct{}
	res     *Resolved
	err     error
}

func newJoins() *joins {
	return &joins{running: map[question]bool{}, next: map[question]*joined{}}
}

// do answers q by ask. It returns early when ctx ends; ask goes on as long as
// anybody waits for it.
func (j *joins) do(ctx context.Context, q question, ask func(context.Context) (*Resolved, error)) (*Resolved, error) {
	j.mu.Lock()
	a := j.next[q]
	if a == nil {
		a = &joined{done: make(chan struct{})}
		a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
		if j.running[q] {
			j.next[q] = a
		} else {
			j.running[q] = true
			go j.run(q, a, ask)
		}
	}
	a.waiting++
	j.mu.Unlock()
	select {
	case <-a.done:
		return a.res, a.err
	case <-ctx.Done():
		j.mu.Lock()
		defer j.mu.Unlock()
		if a.waiting--; a.waiting == 0 {
			a.cancel()
			if j.next[q] == a { // so that nobody joins what was given up
				delete(j.next, q)
			}
		}
		return nil, ctx.Err()
	}
}

// run asks for a, and for those who came meanwhile, until there are none.
func (j *joins) run(q question, a *joined, ask func(context.Context) (*Resolved, error)) {
	for a != nil {
		if a.ctx.Err() == nil {
			a.res, a.err = ask(a.ctx)
		} else {
			a.err = a.ctx.Err() // nobody waits
		}
		a.cancel()
		close(a.done)
		j.mu.Lock()
		a = j.next[q]
		delete(j.next, q)
		if a == nil {
			delete(j.running, q)
		}
		j.mu.Unlock()
	}
}
