// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"math/rand/v2"
	"time"
)

const (
	// firstPause is the pause after the first failed attempt; each further one doubles it, up to maxPause. Ten attempts take
	// about thirteen minutes when each fails at once.
	firstPause = 2 * time.Second
	maxPause   = 5 * time.Minute
	// jitter is the part of a pause that is drawn, so that imports that failed together are not tried together.
	jitter = 0.2
	// maxRetryAfter bounds what an upstream may ask for.
	maxRetryAfter = time.Hour
	// maxSpread bounds by how much longer than the pause of a host an import may wait that it was not told to.
	maxSpread = 30 * time.Second
)

// spread returns how long to wait for the end of a pause that others wait for too, so that they do not all come at once.
func spread(left time.Duration) time.Duration {
	return left + time.Duration(min(float64(left)*jitter, float64(maxSpread))*rand.Float64()) //nolint:gosec // jitter is no secret
}

// pause returns how long to wait after the failed-th failed attempt, at least as long as the upstream asked for.
func pause(failed int, retryAfter time.Duration) time.Duration {
	wait := maxPause
	if shift := failed - 1; shift < 8 {
		wait = min(firstPause<<shift, maxPause)
	}
	wait += time.Duration(float64(wait) * jitter * rand.Float64()) //nolint:gosec // jitter is no secret
	return max(wait, min(retryAfter, maxRetryAfter))
}
