// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/log"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	utilversion "k8s.io/apimachinery/pkg/version"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	taggerserver "tagger.dev/tagger/pkg/apiserver"
	"tagger.dev/tagger/pkg/apiserver/standalone"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/pkg/version"
)

// openDataDir opens what lies in the data directory: the image store, and etcd where no other one is named; nil where it is.
// Namespaces is nil where they are mere names.
func (o *Options) openDataDir(ctx context.Context, p *process, namespaces *namespaces) (*standalone.DataDir, *embedded.Store, *embedded.Etcd, error) {
	// The store's library logs to a logger of its own, and warns of what is ordinary.
	if err := log.SetLevel(log.ErrorLevel.String()); err != nil {
		return nil, nil, nil, err
	}
	dir, err := standalone.OpenDataDir(o.DataDir)
	if err != nil {
		return nil, nil, nil, err
	}
	p.closing(ctx, "data directory", dir.Close)
	// The store comes first: what it gives free etcd may need.
	config := embedded.StoreConfig{Dir: dir.StorePath(), Reserve: o.StoreReserve.Value(), NamespaceBytes: o.MaxNamespaceSize.Value()}
	if namespaces != nil {
		config.NamespaceUID, config.Namespaces, config.NamespaceDelay = namespaces.uid, namespaces.all, o.MirrorReleaseDelay
	}
	store, err := embedded.OpenStore(ctx, config)
	if err != nil {
		return nil, nil, nil, err
	}
	p.closing(ctx, "image store", store.Close)
	if err := store.Collect(ctx); err != nil { // what a process that was killed has left
		return nil, nil, nil, err
	}
	p.atEnd(hourly(ctx, "Could not collect garbage in the image store", store.Collect))
	if len(o.Etcd.StorageConfig.Transport.ServerList) > 0 {
		return dir, store, nil, nil
	}
	etcd, err := embedded.StartEtcd(ctx, embedded.EtcdConfig{Dir: dir.EtcdPath()})
	if err != nil {
		return nil, nil, nil, err
	}
	p.atEnd(etcd.Close)
	p.atEnd(hourly(ctx, "Could not shrink the database", func(ctx context.Context) error {
		freed, err := etcd.Defragment()
		if freed > 0 {
			klog.FromContext(ctx).Info("The database was defragmented", "freedBytes", freed)
		}
		return err
	}))
	return dir, store, etcd, nil
}

// hourly does something about every hour until stop is called, and logs an error as failure.
func hourly(ctx context.Context, failure string, do func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	group.Go(func() {
		wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
			if err := do(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, failure)
			}
		}, time.Hour, 0.1, true)
	})
	return func() {
		cancel()
		group.Wait()
	}
}

// registryHost returns what references to mirrored images begin with.
func (o *Options) registryHost(listener net.Listener) string {
	switch {
	case o.RegistryExternalHost != "":
		return o.RegistryExternalHost
	case !o.Standalone:
		return net.JoinHostPort(o.ServiceName+"."+o.Namespace+".svc", strconv.Itoa(port(listener)))
	}
	return net.JoinHostPort(reachable(o.BindAddress).String(), strconv.Itoa(port(listener)))
}

// extraConfig fills in what is the same in a cluster and without. Who has etcd in the process has it alone.
func (o *Options) extraConfig(extra taggerserver.ExtraConfig, etcd *embedded.Etcd) taggerserver.ExtraConfig {
	extra.Clock = clock.RealClock{}
	extra.Identity, extra.SoleReplica = identity(), etcd != nil
	extra.ConcurrentImports, extra.ConcurrentImportsPerHost = o.ConcurrentImports, o.ConcurrentImportsPerHost
	extra.AttemptTimeout, extra.DrainTimeout = o.ImportAttemptTimeout, o.DrainTimeout
	extra.ReleaseDelay = o.MirrorReleaseDelay
	extra.Registry.Limits = distribution.Options{MaxBlobBytes: o.MaxBlobSize.Value(), MaxManifestBytes: o.Sources.MaxManifestSize.Value()}
	return extra
}

// identity returns a name for this process that no other has, nor has had.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "_" + string(uuid.NewUUID())
}

// genericConfig configures the generic API server as far as it is the same in a cluster and without. Etcd is nil where that is
// not in this process.
func (o *Options) genericConfig(listener net.Listener, etcd *embedded.Etcd) (*genericapiserver.RecommendedConfig, error) {
	config := genericapiserver.NewRecommendedConfig(taggerserver.Codecs)
	if etcd != nil {
		o.Etcd.StorageConfig.Transport.ServerList = []string{etcd.Endpoint()}
		config.AddReadyzChecks(healthz.NamedCheck("etcd-alarms", func(r *http.Request) error { return etcd.Check(r.Context()) }))
	}
	o.Serving.Listener = listener
	for _, apply := range []func(*genericapiserver.Config) error{
		o.Run.ApplyTo,
		func(c *genericapiserver.Config) error { return o.Traces.ApplyTo(nil, c) },
		o.Serving.ApplyToConfig,
		o.Etcd.ApplyTo,
		o.Audit.ApplyTo,
	} {
		if err := apply(&config.Config); err != nil {
			return nil, err
		}
	}
	config.EffectiveVersion = effectiveVersion{config.EffectiveVersion}
	config.PublicAddress = reachable(o.BindAddress)
	return config, nil
}

// effectiveVersion answers Tagger's version where clients ask for it, and Kubernetes' where the API machinery decides which
// features are on.
type effectiveVersion struct {
	basecompatibility.EffectiveVersion
}

func (effectiveVersion) Info() *utilversion.Info {
	info := version.Info()
	return &info
}
