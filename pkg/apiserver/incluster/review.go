// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"context"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/limit"
)

const (
	// maxReviews is how many tokens kube-apiserver reviews at once: anybody can send one that nobody knows.
	maxReviews = 32
	// maxWaiting is how many others wait for that, for waitTimeout at most.
	maxWaiting  = 256
	waitTimeout = 5 * time.Second
	// maxTokenBytes is the length of the longest token that is reviewed: with some hundreds of groups they have a quarter of it.
	maxTokenBytes = 32 << 10
)

// bounded has few tokens be reviewed at once, and none that is none. Where too many are, its error wraps distribution.ErrTooMany.
func bounded(reviewer authenticator.Token) authenticator.Token {
	places, waiting := limit.NewKeyed(maxReviews), limit.NewKeyed(maxReviews+maxWaiting)
	return authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		if !isToken(token) {
			return nil, false, nil
		}
		tooMany := distribution.Explain(distribution.ErrTooMany, "too many tokens are being checked that were not known: try again later")
		leave, ok := waiting.TryAcquire("")
		if !ok {
			return nil, false, tooMany
		}
		defer leave()
		bounded, cancel := context.WithTimeout(ctx, waitTimeout)
		defer cancel()
		release, err := places.Acquire(bounded, "")
		if err != nil {
			return nil, false, tooMany
		}
		defer release()
		return reviewer.AuthenticateToken(ctx, token)
	})
}

// isToken reports whether something may be a token, which is not long and has but visible characters of ASCII.
func isToken(token string) bool {
	return len(token) <= maxTokenBytes && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}
