// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

const (
	// period is how long a key signs.
	period = 24 * time.Hour
	// lead is how long before that it is made, so that every server knows it when the first one signs.
	lead = time.Hour
	// idBytes is how much of a public key's hash tells keys apart.
	idBytes = 12
)

// ErrExists is what a Store refuses a key with whose name is taken.
var ErrExists = errors.New("there is a key of that name")

// Key is a key as it is stored.
type Key struct {
	// Name is the day on which the key signs, 2006-01-02 by UTC.
	Name string
	// Private is a secret: PKCS #8 in DER.
	Private []byte
	// From and Until say when it signs.
	From, Until time.Time
}

// String keeps the key out of whatever prints it.
func (k Key) String() string { return "key " + k.Name }

// GoString is String, for %#v.
func (k Key) GoString() string { return k.String() }

// Store is where servers share keys. All methods are called concurrently.
type Store interface {
	// List returns all keys.
	List(ctx context.Context) ([]Key, error)
	// Create stores a key; its error wraps ErrExists where there is one of that name.
	Create(ctx context.Context, key Key) error
	// Delete removes a key. One that is gone is no error.
	Delete(ctx context.Context, name string) error
}

// newKey makes the key of the day of some time.
func newKey(at time.Time) (Key, error) {
	from := at.UTC().Truncate(period)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	return Key{Name: keyName(at), Private: der, From: from, Until: from.Add(period)}, nil
}

func keyName(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// over says whether nothing that the key has signed, or that a secret of it is for, can be good any more.
func (k Key) over(now time.Time) bool {
	return now.After(k.Until.Add(max(MaxLifetime, SecretLifetime) + 2*clockSkew))
}

// signer is a key that was read.
type signer struct {
	Key
	id      string // of the public key, since a name may be given again
	private *ecdsa.PrivateKey
}

// read reads a key. An error says nothing of it.
func (k Key) read() (*signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, errors.New("it is no private key, PKCS #8 in DER")
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("it is no ECDSA key on P-256")
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(public)
	return &signer{Key: k, id: hex.EncodeToString(sum[:idBytes]), private: private}, nil
}
