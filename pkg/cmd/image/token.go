// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"oras.land/oras-go/v2/registry"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// tokenSpare is how long before its end a token is replaced.
const tokenSpare = time.Minute

// registryToken asks the cluster for a token for its registry endpoint, in the name of who asks. Files and folders are called by the
// host that comes with it: whatever the cluster says, it is one.
func (s *session) registryToken(ctx context.Context) (*v1beta1.RegistryToken, error) {
	token, err := s.RegistryTokens().Create(ctx, &v1beta1.RegistryToken{}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	if host := token.Status.Registry.Host; host != "" && (registry.Reference{Registry: host}).ValidateRegistry() != nil {
		return nil, fmt.Errorf("the cluster says that its registry port is at %q, which is no HOST:PORT", host)
	}
	return token, nil
}

// lifetime returns how long a token that was asked for at a time is good, by the server's own clock where it says when it made it.
func lifetime(token *v1beta1.RegistryToken, asked time.Time) time.Duration {
	if !token.CreationTimestamp.IsZero() {
		asked = token.CreationTimestamp.Time
	}
	return max(token.Status.ExpirationTimestamp.Sub(asked), 2*tokenSpare)
}

// tokens are tokens for the registry endpoint, one after the other. They may be used by several goroutines.
type tokens struct {
	ask   func(context.Context) (*v1beta1.RegistryToken, error)
	clock clock.PassiveClock

	lock    sync.Mutex
	current *v1beta1.RegistryToken
	asked   time.Time
}

// get returns a token that is good for a while.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.lock.Lock()
	defer t.lock.Unlock()
	if t.current == nil || t.clock.Since(t.asked) > lifetime(t.current, t.asked)-tokenSpare {
		token, err := t.ask(ctx)
		if err != nil {
			return "", err
		}
		t.current, t.asked = token, t.clock.Now()
	}
	return t.current.Status.Token, nil
}
