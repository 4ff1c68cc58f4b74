// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// underWay are the attempts that run now, so that they can be ended. The zero value is ready for use.
type underWay struct {
	mu      sync.Mutex
	cancels map[types.UID]context.CancelCauseFunc
}

// begin returns the context of an attempt of an import, and what to call when it has ended.
func (u *underWay) begin(ctx context.Context, imp types.UID) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cancels == nil {
		u.cancels = map[types.UID]context.CancelCauseFunc{}
	}
	u.cancels[imp] = cancel
	return ctx, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.cancels, imp)
		cancel(nil)
	}
}

// cancel ends the attempt of an import, if one runs, and says why.
func (u *underWay) cancel(imp types.UID, cause error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if cancel, ok := u.cancels[imp]; ok {
		cancel(cause)
	}
}
