// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"tagger.dev/tagger/pkg/distribution"
)

const (
	// KeyBytes is how long a key is.
	KeyBytes = 32
	// maxID is how long the endpoint takes the ID of an upload to be at most.
	maxID = 8 << 10
	// sealPurpose keeps what is sealed here from being taken for anything else.
	sealPurpose = "tagger.dev/upload "
)

// Keys returns the secrets that seal uploads, of KeyBytes random bytes each, the
// same in all servers of an endpoint. The first one seals; those that were the first
// one less than a day ago are among the others. It is called concurrently.
type Keys func(ctx context.Context) ([][]byte, error)

// state is what the ID of an upload says.
type state struct {
	Endpoint string `json:"e"`
	Location string `json:"l"`
	Size     int64  `json:"s"`
	Begun    int64  `json:"b"` // seconds since 1970
}

// seal makes an ID, good for one repository, that tells its holder nothing.
func (k Keys) seal(ctx context.Context, repo distribution.Repository, s state) (string, error) {
	keys, err := k(ctx)
	if err != nil {
		return "", fmt.Errorf("sealing an upload: %w", err)
	}
	if len(keys) == 0 {
		return "", errors.New("sealing an upload: there is no key")
	}
	aead, err := newAEAD(keys[0])
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	id := base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, plain, []byte(sealPurpose+repo.String()))) //nolint:gosec // it makes a nonce for each
	if len(id) > maxID {
		return "", distribution.Explain(distribution.ErrUnavailable, "the mirror has an upload go on at a path that is too long")
	}
	return id, nil
}

// open reads an ID. One that is none of that repository is ErrUploadUnknown.
func (k Keys) open(ctx context.Context, repo distribution.Repository, id string) (state, error) {
	keys, err := k(ctx)
	if err != nil {
		return state{}, fmt.Errorf("opening an upload: %w", err)
	}
	sealed, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		return state{}, fmt.Errorf("not sealed: %w", distribution.ErrUploadUnknown)
	}
	for _, key := range keys {
		aead, err := newAEAD(key)
		if err != nil {
			return state{}, err
		}
		plain, err := aead.Open(nil, nil, sealed, []byte(sealPurpose+repo.String()))
		if err != nil {
			continue
		}
		var s state
		if err := json.Unmarshal(plain, &s); err != nil {
			return state{}, fmt.Errorf("sealed by another version: %w", distribution.ErrUploadUnknown)
		}
		return s, nil
	}
	return state{}, fmt.Errorf("sealed by no key that is known: %w", distribution.ErrUploadUnknown)
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, errors.New("sealing an upload: the key is not usable")
	}
	return cipher.NewGCMWithRandomNonce(block)
}
