// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"

	"tagger.dev/tagger/pkg/distribution"
)

// slowReviews answers when it is told to.
type slowReviews struct {
	authenticationv1client.TokenReviewInterface
	begun  atomic.Int32
	answer chan struct{}
}

func (s *slowReviews) Create(ctx context.Context, review *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	s.begun.Add(1)
	select {
	case <-s.answer:
		return review, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestFloodOfTokens sends more tokens than may be reviewed at once.
func TestFloodOfTokens(t *testing.T) {
	t.Parallel()
	const sent = maxReviews + maxWaiting + 10
	for _, tt := range []struct {
		name   string
		answer bool // before those that wait have waited for long
		want   map[string]int
	}{
		{name: "answered", answer: true, want: map[string]int{"reviewed": maxReviews + maxWaiting, "too many": 10}},
		{name: "not answered", want: map[string]int{"failed": maxReviews, "too many": maxWaiting + 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reviews := &slowReviews{answer: make(chan struct{})}
				tokens := Tokens(reviews, nil, time.Minute)
				outcomes := make(chan string, sent)
				for n := range sent {
					go func() {
						switch _, _, err := tokens.AuthenticateToken(t.Context(), fmt.Sprintf("garbage%d", n)); {
						case err == nil:
							outcomes <- "reviewed"
						case errors.Is(err, distribution.ErrTooMany):
							outcomes <- "too many"
						default:
							outcomes <- "failed"
						}
					}()
				}
				synctest.Wait()
				if got := reviews.begun.Load(); got != maxReviews {
					t.Errorf("%d reviews at once, want %d", got, maxReviews)
				}
				if tt.answer {
					close(reviews.answer)
				}
				got := map[string]int{}
				for range sent {
					got[<-outcomes]++
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("outcomes (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestNoTokens: what can be no token costs no review.
func TestNoTokens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, token string
		want        int32 // reviews
	}{
		{name: "as long as may be", token: strings.Repeat("a", maxTokenBytes), want: 1},
		{name: "a byte more", token: strings.Repeat("a", maxTokenBytes+1)},
		{name: "every visible character", token: "!~", want: 1},
		{name: "a blank", token: "a b"},
		{name: "a control character", token: "a\x7f"},
		{name: "no ASCII", token: "pässword"},
		{name: "no UTF-8", token: "a\xff"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reviews := &slowReviews{answer: make(chan struct{})}
			close(reviews.answer)
			if _, known, err := Tokens(reviews, nil, time.Minute).AuthenticateToken(t.Context(), tt.token); known || err != nil {
				t.Errorf("known %t, %v", known, err)
			}
			if got := reviews.begun.Load(); got != tt.want {
				t.Errorf("%d reviews, want %d", got, tt.want)
			}
		})
	}
}
