// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"
)

// SecretLifetime is how long a secret is known, at least, since it was last the first one of Secrets.
const SecretLifetime = 24 * time.Hour

// Secrets returns secrets of so many bytes for a purpose, which all servers on one store derive alike: of the key that signs now, and
// behind it those of all others that are known: for SecretLifetime at least after they did. What is told of one purpose says nothing of another, nor of the key.
func (r *Ring) Secrets(ctx context.Context, purpose string, bytes int) ([][]byte, error) {
	current, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	keys := []*signer{current}
	for _, key := range slices.Collect(maps.Values(r.known.Load().byName)) {
		if key.Name != current.Name {
			keys = append(keys, key)
		}
	}
	secrets := make([][]byte, len(keys))
	for i, key := range keys {
		if secrets[i], err = hkdf.Key(sha256.New, key.Private, nil, purpose, bytes); err != nil {
			return nil, fmt.Errorf("deriving a secret of %s: %w", key.Key, err)
		}
	}
	return secrets, nil
}
