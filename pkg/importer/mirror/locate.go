// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/lru"

	"tagger.dev/tagger/pkg/importer"
)

const (
	// keptFor is how long what was read of the cluster is kept: one import looks
	// several times, and the next attempt is to see what changed. What ends an import
	// is read anew before.
	keptFor = time.Second
	// keptPlaces bounds how much of it is kept.
	keptPlaces = 256
	// keptRegistries bounds the mirrors whose connections are kept.
	keptRegistries = 64
)

// Embedded is the image store of this server.
type Embedded interface {
	// Repository returns the repository of an Image and the name by which nodes pull
	// from it, without tag or digest.
	Repository(ctx context.Context, namespace, image string) (importer.Destination, string, error)
}

// LocatorConfig is what a Locator needs. Its functions read one object, as the Get
// of client-go does, and are called concurrently.
type LocatorConfig struct {
	// Secret needs the right to get the Secret mirror-registry-config in Tagger's
	// namespace, and with NamespaceSecrets in all.
	Secret func(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// ConfigMap needs the right to get local-registry-hosting in kube-public.
	ConfigMap func(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	// Namespace is Tagger's own.
	Namespace string
	// NamespaceSecrets lets each namespace have a mirror of its own, by a Secret
	// there. Options.Guard looks at its address.
	NamespaceSecrets bool
	// OwnHosts are the addresses, as host or host:port, of Tagger's own registry
	// endpoint, which is a front of the mirror and cannot be it. Default none.
	OwnHosts []string
	// Embedded is the mirror where no other is configured; nil: there is none then.
	Embedded Embedded
	// Options of all mirrors.
	Options Options
}

// Locator finds the mirror of an Image: the first of the Secret
// mirror-registry-config in the Image's namespace, where that is allowed, the same
// Secret in Tagger's namespace, the ConfigMap kube-public/local-registry-hosting of
// KEP-1755, and the embedded store. It reads these when they are needed, so that
// what changed holds for the next import, and keeps the connections to mirrors
// that did not change. Its methods may be called concurrently.
type Locator struct {
	config LocatorConfig
	kept   *cache.LRUExpireCache // kind and namespace → place

	mu         sync.Mutex
	registries *lru.Cache // Config → *Registry
}

// NewLocator returns a Locator that has read nothing yet.
func NewLocator(config LocatorConfig) *Locator {
	config.Options = config.Options.withDefaults()
	return &Locator{
		config: config,
		kept:   cache.NewLRUExpireCacheWithClock(keptPlaces, config.Options.Clock),
		registries: lru.NewWithEvictionFunc(keptRegistries, func(_ lru.Key, registry any) {
			registry.(*Registry).Close()
		}),
	}
}

// Repository returns the repository of an Image at the mirror, and the name by
// which nodes pull from it, without tag or digest. Errors are *importer.Error: of
// Kind Invalid where no mirror is configured; of Kind MirrorUnavailable where its
// configuration cannot be read, or has to be mended.
func (l *Locator) Repository(ctx context.Context, namespace, image string) (importer.Destination, string, error) {
	config, err := l.find(ctx, namespace)
	if config == nil && err == nil && l.config.Embedded == nil { // which ends the import
		l.forget(namespace)
		config, err = l.find(ctx, namespace)
	}
	switch {
	case err != nil:
		return nil, "", err
	case config == nil && l.config.Embedded != nil:
		return l.config.Embedded.Repository(ctx, namespace, image)
	case config == nil:
		return nil, "", importer.NewError(importer.Invalid, nil,
			"no mirror is configured; have the administrator put its address into the Secret %s/%s, or import without mirror", l.config.Namespace, SecretName)
	}
	registry, err := l.registry(*config)
	if err != nil {
		return nil, "", err
	}
	repository, name, err := registry.Repository(namespace, image)
	if err != nil {
		return nil, "", err
	}
	return repository, name, nil
}

// Registry returns the mirror of a namespace, nil where none is configured, whether
// or not there is the embedded store. Errors are those of Repository.
func (l *Locator) Registry(ctx context.Context, namespace string) (*Registry, error) {
	config, err := l.find(ctx, namespace)
	if err != nil || config == nil {
		return nil, err
	}
	return l.registry(*config)
}

// find returns the configuration of the mirror of a namespace, nil where there is
// none.
func (l *Locator) find(ctx context.Context, namespace string) (*Config, error) {
	if l.config.NamespaceSecrets && namespace != l.config.Namespace {
		own, err := l.secret(ctx, namespace)
		if err != nil {
			return nil, err
		}
		if own.config != nil || own.err != nil {
			return l.usable(own)
		}
	}
	places, err := l.shared(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		if p.config != nil || p.err != nil {
			return l.usable(p)
		}
	}
	return nil, nil
}

// usable returns the configuration of a place that says something.
func (l *Locator) usable(p place) (*Config, error) {
	if p.err != nil {
		return nil, p.err
	}
	for _, host := range l.config.OwnHosts {
		if haveCommon(registriesAt(host), registriesAt(p.config.Host)) {
			return nil, importer.NewError(importer.MirrorUnavailable, nil, "the mirror cannot be used: %s names this cluster's own registry, which is a front of the mirror", p.config.Name)
		}
	}
	return p.config, nil
}

// shared returns the places that all namespaces share, the first one to count first.
func (l *Locator) shared(ctx context.Context) ([]place, error) {
	secret, err := l.secret(ctx, l.config.Namespace)
	if err != nil {
		return nil, err
	}
	configMap, err := l.configMap(ctx)
	if err != nil {
		return nil, err
	}
	return []place{secret, configMap}, nil
}

// secret reads the Secret of a namespace.
func (l *Locator) secret(ctx context.Context, namespace string) (place, error) {
	return l.read(ctx, "secrets", namespace, SecretName, func() (place, error) {
		secret, err := l.config.Secret(ctx, namespace, SecretName)
		if err != nil {
			return place{}, err
		}
		p := secretPlace(secret)
		if p.config != nil {
			p.config.Guarded = namespace != l.config.Namespace
		}
		return p, nil
	})
}

// configMap reads the ConfigMap of KEP-1755.
func (l *Locator) configMap(ctx context.Context) (place, error) {
	return l.read(ctx, "configmaps", hostingNamespace, hostingName, func() (place, error) {
		configMap, err := l.config.ConfigMap(ctx, hostingNamespace, hostingName)
		if err != nil {
			return place{}, err
		}
		return hostingPlace(configMap), nil
	})
}

// read returns what an object says, which may have been read a moment ago.
func (l *Locator) read(ctx context.Context, resource, namespace, name string, get func() (place, error)) (place, error) {
	key := keptKey(resource, namespace)
	if kept, ok := l.kept.Get(key); ok {
		return kept.(place), nil
	}
	p, err := get()
	switch {
	case err == nil, apierrors.IsNotFound(err):
		l.kept.Add(key, p, keptFor)
		return p, nil
	case ctx.Err() != nil:
		return place{}, ctx.Err()
	case apierrors.IsForbidden(err):
		return place{}, importer.NewError(importer.MirrorUnavailable, err, "where the mirror is cannot be read: Tagger needs the right to get %s in the namespace %s", resource, namespace)
	}
	return place{}, importer.NewError(importer.MirrorUnavailable, err, "where the mirror is cannot be read now: the API server did not answer for %s/%s in %s", resource, name, namespace)
}

// forget has all that is said of the mirror of a namespace read anew.
func (l *Locator) forget(namespace string) {
	for _, key := range []string{keptKey("secrets", namespace), keptKey("secrets", l.config.Namespace), keptKey("configmaps", hostingNamespace)} {
		l.kept.Remove(key)
	}
}

func keptKey(resource, namespace string) string { return resource + "/" + namespace }

// registry returns the mirror of a configuration, with the connections that it has.
func (l *Locator) registry(config Config) (*Registry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kept, ok := l.registries.Get(config); ok {
		return kept.(*Registry), nil
	}
	registry, err := NewRegistry(config, l.config.Options)
	if err != nil {
		return nil, err
	}
	l.registries.Add(config, registry)
	return registry, nil
}

// Admit is for importer.Options.Admit: it refuses, with an *importer.Error of Kind
// Blocked, what the mirror holds for other namespaces than that of the import. The
// mirror is known by the names that its configuration has, and where a source is
// insecure, so that any name does, by the addresses of these. Who reaches it
// otherwise reads what it shows to anybody, for no import has its credentials.
// Where the configuration cannot be read it fails as Repository does.
func (l *Locator) Admit(ctx context.Context, src importer.Source) error {
	err := l.admit(ctx, src)
	if importer.KindOf(err) == importer.Blocked { // which ends the import
		l.forget(l.config.Namespace)
		err = l.admit(ctx, src)
	}
	return err
}

func (l *Locator) admit(ctx context.Context, src importer.Source) error {
	places, err := l.shared(ctx)
	if err != nil {
		return err
	}
	host := src.Reference.Host()
	for _, p := range places {
		if !p.foreign(src.Reference.Repository(), src.Scope) || !p.named(host) && !(src.Insecure && p.reached(ctx, host)) {
			continue
		}
		remedy := "import it from where it was mirrored from"
		if p.apart != "" {
			remedy += ", or have the administrator keep the mirror apart by " + p.apart
		}
		return importer.NewError(importer.Blocked, nil, "%s is where images of this cluster are mirrored to, and this one is not of the namespace %s; %s",
			host, src.Scope, remedy)
	}
	return nil
}
