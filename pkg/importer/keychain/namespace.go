// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/importer"
)

const (
	// keptFor is how long the Secrets of a namespace are kept: one import looks for
	// credentials several times, and a person needs longer to change one.
	keptFor = time.Second
	// keptNamespaces bounds of how many.
	keptNamespaces = 16
	// secretsPerPage is how many Secrets one request answers: each may be of 1 MiB, so
	// that a page is no larger than what may be held.
	secretsPerPage = maxSecretBytes >> 20
	// maxSecretBytes bounds what is held of the Secrets of one namespace.
	maxSecretBytes = 8 << 20
	// secretOverhead is what one takes beside its data, its name for one.
	secretOverhead = 1 << 10
)

// ListSecrets lists the Secrets of a namespace, as the List of client-go's
// SecretInterface does. It needs the right to list secrets there, and no other.
type ListSecrets func(ctx context.Context, namespace string, options metav1.ListOptions) (*corev1.SecretList, error)

// Namespaces reads the pull Secrets of the namespaces of a cluster, one namespace
// at a time and when they are needed: those of the cluster together are never
// held, nor watched. Its methods may be called concurrently.
type Namespaces struct {
	list ListSecrets
	kept *cache.LRUExpireCache // namespace → []*corev1.Secret
}

// NewNamespaces returns a Namespaces that keeps what it read for a second by the
// clock.
func NewNamespaces(list ListSecrets, clock clock.PassiveClock) *Namespaces {
	return &Namespaces{list: list, kept: cache.NewLRUExpireCacheWithClock(keptNamespaces, clock)}
}

// Keychain returns the credentials of the pull Secrets of a namespace, see
// Secrets. Where the right to list them is missing there are none, with an
// *importer.Error that names it; so there are with one for those that are too
// large to be held. Any other failure is an *importer.Error of Kind Unavailable.
func (n *Namespaces) Keychain(namespace string) importer.Keychain {
	return Secrets(func(ctx context.Context) ([]*corev1.Secret, error) { return n.secrets(ctx, namespace) })
}

// secrets returns the pull Secrets of a namespace.
func (n *Namespaces) secrets(ctx context.Context, namespace string) ([]*corev1.Secret, error) {
	if kept, ok := n.kept.Get(namespace); ok {
		return kept.([]*corev1.Secret), nil
	}
	found := []*corev1.Secret{}
	var err error
	for _, kind := range []corev1.SecretType{corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg} {
		if found, err = n.ofType(ctx, namespace, kind, found); err != nil {
			break
		}
	}
	switch {
	case err == nil:
		n.kept.Add(namespace, found, keptFor)
		return found, nil
	case apierrors.IsForbidden(err):
		return []*corev1.Secret{}, broken(fmt.Sprintf("the pull Secrets of the namespace %s cannot be read: Tagger needs the right to list secrets there", namespace), err)
	case errors.Is(err, errTooLarge):
		return found, broken(fmt.Sprintf("the pull Secrets of the namespace %s are larger than %d bytes together, and were not all read", namespace, maxSecretBytes), err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, &importer.Error{Kind: importer.Unavailable,
		Err: &invisible{text: fmt.Sprintf("the pull Secrets of the namespace %s cannot be read now", namespace), err: err}}
}

var errTooLarge = errors.New("too large")

// ofType adds the Secrets of a type to what was found, page by page.
func (n *Namespaces) ofType(ctx context.Context, namespace string, kind corev1.SecretType, found []*corev1.Secret) ([]*corev1.Secret, error) {
	options := metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(kind)).String(),
		Limit:         secretsPerPage,
	}
	size := sizeOf(found)
	for {
		page, err := n.list(ctx, namespace, options)
		if err != nil {
			return found, err
		}
		for i := range page.Items {
			secret := needed(&page.Items[i])
			if size += sizeOf([]*corev1.Secret{secret}); size > maxSecretBytes {
				return found, errTooLarge
			}
			found = append(found, secret)
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return found, nil
		}
	}
}

// needed returns a Secret with nothing but what the function Secrets looks at:
// annotations may be as large as the data.
func needed(secret *corev1.Secret) *corev1.Secret {
	kept := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret.Name}, Type: secret.Type, Data: map[string][]byte{}}
	if value, ok := secret.Annotations[InsecureTransportAnnotation]; ok {
		kept.Annotations = map[string]string{InsecureTransportAnnotation: value}
	}
	for _, key := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
		if value, ok := secret.Data[key]; ok {
			kept.Data[key] = value
		}
	}
	return kept
}

// sizeOf returns the bytes that Secrets take.
func sizeOf(secrets []*corev1.Secret) int {
	size := 0
	for _, secret := range secrets {
		size += secretOverhead
		for _, value := range secret.Data {
			size += len(value)
		}
	}
	return size
}
