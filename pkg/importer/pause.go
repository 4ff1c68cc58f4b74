// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
)

// client is who a registry sees: it may limit addresses as well as accounts, and
// what it asks of one account is not to keep those of other people out.
type client struct {
	registry   string     // as of Reference.Registry
	credential Credential // the anonymous one is shared by all
}

// pauses remembers which registries asked whom to leave them alone, and until
// when. What a token service or another host that serves for a registry asks for
// counts as the registry's own. A client that is forgotten because of many others
// asks, and is told so again.
type pauses struct {
	clock clock.PassiveClock

	mu    sync.Mutex            // of note
	until *cache.LRUExpireCache // client → time.Time
}

func newPauses(clock clock.PassiveClock) *pauses {
	return &pauses{clock: clock, until: cache.NewLRUExpireCacheWithClock(keptRoutes, clock)}
}

// note keeps what err says of a pause, if it does. A pause that was asked for
// earlier is never made shorter.
func (p *pauses) note(asked client, err error) {
	var e *Error
	if !errors.As(err, &e) || e.RetryAfter <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.RetryAfter > p.left(asked) {
		p.until.Add(asked, p.clock.Now().Add(e.RetryAfter), e.RetryAfter)
	}
}

// left returns how much is left of a pause.
func (p *pauses) left(asking client) time.Duration {
	until, ok := p.until.Get(asking)
	if !ok {
		return 0
	}
	return max(until.(time.Time).Sub(p.clock.Now()), 0)
}

// err is what becomes of a request to a host within a pause; nil without one.
func (p *pauses) err(asking client, host string) *Error {
	left := p.left(asking)
	if left == 0 {
		return nil
	}
	e := failure(RateLimited, nil, "%s asked to be left alone for another %s", host, max(left.Round(time.Second), time.Second))
	e.RetryAfter = left
	return e
}
