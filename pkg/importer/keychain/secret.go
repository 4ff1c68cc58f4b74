// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"tagger.dev/tagger/pkg/importer"
)

// InsecureTransportAnnotation on a Secret, with the value InsecureTransportAllow,
// lets its credentials travel over plain HTTP and unverified TLS.
const (
	InsecureTransportAnnotation = "tagger.dev/insecure-transport"
	InsecureTransportAllow      = "allow"
)

// List returns the Secrets of one namespace. With an error it may return some
// that are not nil, which are used.
type List func(ctx context.Context) ([]*corev1.Secret, error)

// Secrets returns the credentials of the Secrets of a namespace that are of the
// types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg; others are
// passed over. They are listed at every use. Over all Secrets, what is most
// specific comes first, and among equals the Secret whose name sorts first.
// Credential helpers do not count: a Secret must not start programs.
//
// A Secret that is broken is an *importer.Error of Kind Unauthorized, which names
// it and quotes nothing; the credentials of the others are returned beside it.
// InsecureTransportAnnotation marks those of a Secret.
func Secrets(list List) importer.Keychain { return secrets{list} }

type secrets struct{ list List }

func (s secrets) Credentials(ctx context.Context, ref importer.Reference) ([]importer.Credential, error) {
	all, err := s.list(ctx)
	if err != nil && all == nil {
		return nil, err
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *corev1.Secret) int { return cmp.Compare(a.Name, b.Name) })
	// Names of keys may repeat in several Secrets, so each is kept with its own.
	errs := []error{err}
	type owned struct {
		authEntry
		secret   string
		insecure bool
	}
	merged := map[string][]owned{}
	for _, secret := range all {
		config, err := configOf(secret)
		if err != nil {
			errs = append(errs, fmt.Errorf("the Secret %s %w", secret.Name, err))
			continue
		}
		insecure := secret.Annotations[InsecureTransportAnnotation] == InsecureTransportAllow
		for name, entry := range config.Auths {
			merged[name] = append(merged[name], owned{entry, secret.Name, insecure})
		}
	}
	found := []importer.Credential{}
	for _, name := range matching(merged, ref.Host(), ref.Repository()) {
		for _, entry := range merged[name] {
			c, err := entry.credential()
			if err != nil {
				errs = append(errs, fmt.Errorf("the entry for %s of the Secret %s %w", ref.Host(), entry.secret, err))
				continue
			}
			c.InsecureTransport = entry.insecure
			found = append(found, c)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return distinct(found), broken(err.Error(), err)
	}
	return distinct(found), nil
}

// configOf reads a Secret; one of another type has nothing.
func configOf(secret *corev1.Secret) (*dockerConfig, error) {
	var data string
	parse := parseConfig
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		data = corev1.DockerConfigJsonKey
	case corev1.SecretTypeDockercfg:
		data, parse = corev1.DockerConfigKey, parseLegacyConfig
	default:
		return &dockerConfig{}, nil
	}
	raw, ok := secret.Data[data]
	if !ok {
		return nil, fmt.Errorf("has no %q", data)
	}
	config, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("has a %q that %w", data, err)
	}
	return config, nil
}
