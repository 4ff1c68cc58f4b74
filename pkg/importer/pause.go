// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"errors"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
)

// pauses remembers which registries asked to be left alone, and until when.
// What a token service or another host that serves for a registry asks for
// counts as the registry's own. A host that is forgotten because of many others
// is asked, and says so again.
type pauses struct {
	clock clock.PassiveClock

	mu    sync.Mutex
	until *lru.Cache // endpoint → time.Time
}

func newPauses(clock clock.PassiveClock) *pauses {
	return &pauses{clock: clock, until: lru.New(keptRoutes)}
}

// note keeps what err says of a pause, if it does. A pause that was asked for
// earlier is never made shorter.
func (p *pauses) note(endpoint string, err error) {
	var e *Error
	if !errors.As(err, &e) || e.RetryAfter <= 0 {
		return
	}
	until := p.clock.Now().Add(e.RetryAfter)
	p.mu.Lock()
	defer p.mu.Unlock()
	if earlier, ok := p.until.Get(endpoint); !ok || until.After(earlier.(time.Time)) {
		p.until.Add(endpoint, until)
	}
}

// left returns how much is left of the pause of a registry.
func (p *pauses) left(endpoint string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.until.Get(endpoint)
	if !ok {
		return 0
	}
	left := until.(time.Time).Sub(p.clock.Now())
	if left <= 0 {
		p.until.Remove(endpoint)
	}
	return max(left, 0)
}

// Pause returns how long the registry of ref is still to be left alone because
// it said so to whoever asked it last, by Retry-After; at most an hour, and 0
// where it did not. Until then Resolve and Mirror fail with RateLimited and
// this time without asking it: a caller that can wait should not call them.
func (i *Importer) Pause(ref Reference) time.Duration { return i.pauses.left(ref.endpoint()) }

// paused is the failure of whoever asks all the same.
func (i *Importer) paused(ref Reference) error {
	left := i.Pause(ref)
	if left == 0 {
		return nil
	}
	e := failure(RateLimited, nil, "%s asked to be left alone for another %s", ref.endpoint(), max(left.Round(time.Second), time.Second))
	e.RetryAfter = left
	return e
}
