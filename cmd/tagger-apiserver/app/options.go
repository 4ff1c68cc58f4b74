// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/apiserver"
	"tagger.dev/tagger/pkg/importer"
)

// etcdPrefix is where everything is stored in etcd. It is frozen: another one would lose what was stored.
const etcdPrefix = "/tagger"

// Options are the flags of tagger-apiserver.
type Options struct {
	Standalone           bool
	DataDir              string
	BindAddress          net.IP
	SecurePort           int
	RegistryPort         int
	RegistryExternalHost string
	StoreReserve         resource.QuantityValue

	Sources SourceOptions

	ConcurrentImports        int
	ConcurrentImportsPerHost int
	ImportAttemptTimeout     time.Duration
	DrainTimeout             time.Duration

	Etcd     *options.EtcdOptions
	Serving  *options.SecureServingOptionsWithLoopback
	Run      *options.ServerRunOptions
	Audit    *options.AuditOptions
	Features *options.FeatureOptions
	Traces   *options.TracingOptions
	Logs     *logs.Options
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	o := &Options{
		BindAddress:              net.IPv4(127, 0, 0, 1),
		SecurePort:               8443,
		RegistryPort:             5000,
		StoreReserve:             resource.QuantityValue{Quantity: resource.MustParse("256Mi")},
		Sources:                  newSourceOptions(),
		ConcurrentImports:        32,
		ConcurrentImportsPerHost: 16,
		ImportAttemptTimeout:     time.Hour,
		DrainTimeout:             10 * time.Second,

		Etcd: options.NewEtcdOptions(storagebackend.NewDefaultConfig(etcdPrefix,
			apiserver.Codecs.LegacyCodec(v1beta1.SchemeGroupVersion))),
		Serving:  options.NewSecureServingOptions().WithLoopback(),
		Run:      options.NewServerRunOptions(),
		Audit:    options.NewAuditOptions(),
		Features: options.NewFeatureOptions(),
		Traces:   options.NewTracingOptions(),
		Logs:     logs.NewOptions(),
	}
	// There is no core API to keep flow schemas in: requests in flight are limited instead.
	o.Features.EnablePriorityAndFairness = false
	// There is no garbage collector to finish a foreground or orphaning delete.
	o.Etcd.EnableGarbageCollection = false
	o.Etcd.StorageConfig.Transport.ServerList = []string{"embedded"}
	return o
}

// Flags returns the flags by subject.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var sections cliflag.NamedFlagSets
	server := sections.FlagSet("tagger")
	server.BoolVar(&o.Standalone, "standalone", o.Standalone,
		"Run without Kubernetes, with everything that is stored under --data-dir.")
	server.StringVar(&o.DataDir, "data-dir", o.DataDir,
		"Directory of the embedded etcd and image store, the certificate authority, the token and the kubeconfig. Created with mode 0700.")
	server.IPVar(&o.BindAddress, "bind-address", o.BindAddress,
		"Address that both ports listen on; 0.0.0.0 or :: for all.")
	server.IntVar(&o.SecurePort, "secure-port", o.SecurePort, "Port of the API, TLS. 0 takes a free one; the kubeconfig names it.")
	server.IntVar(&o.RegistryPort, "registry-port", o.RegistryPort, "Port of the registry endpoint, TLS. 0 takes a free one.")
	server.StringVar(&o.RegistryExternalHost, "registry-external-host", o.RegistryExternalHost,
		"HOST[:PORT] of the registry endpoint as its clients reach it: what references to mirrored images begin with. Default: --bind-address and --registry-port.")
	server.Var(&o.StoreReserve, "store-reserve",
		"How much space of the disk of --data-dir mirroring leaves free, so that what else is written there, etcd's data for one, has room.")
	imports := sections.FlagSet("imports")
	imports.IntVar(&o.ConcurrentImports, "concurrent-imports", o.ConcurrentImports, "How many imports run at once.")
	imports.IntVar(&o.ConcurrentImportsPerHost, "concurrent-imports-per-host", o.ConcurrentImportsPerHost,
		"How many imports run at once from one registry.")
	imports.DurationVar(&o.ImportAttemptTimeout, "import-attempt-timeout", o.ImportAttemptTimeout,
		"How long one attempt of an import may take, mirroring included.")
	imports.DurationVar(&o.DrainTimeout, "drain-timeout", o.DrainTimeout,
		"How long imports that run may go on when the server is asked to stop. What is cut off is taken up again by the next start.")
	o.Sources.addFlags(sections.FlagSet("sources"))
	o.addStorageFlags(sections.FlagSet("storage"))
	o.Run.AddUniversalFlags(sections.FlagSet("generic"))
	o.Audit.AddFlags(sections.FlagSet("auditing"))
	o.Features.AddFlags(sections.FlagSet("features"))
	o.Traces.AddFlags(sections.FlagSet("traces"))
	logsapi.AddFlags(o.Logs, sections.FlagSet("logs"))
	return sections
}

// addStorageFlags adds those flags of the storage that have an effect when etcd is in this process.
func (o *Options) addStorageFlags(flags *pflag.FlagSet) {
	all := pflag.NewFlagSet("etcd", pflag.ContinueOnError)
	o.Etcd.AddFlags(all)
	for _, name := range []string{
		"encryption-provider-config", "encryption-provider-config-automatic-reload", "etcd-compaction-interval",
		"etcd-count-metric-poll-period", "etcd-db-metric-poll-interval", "watch-cache",
	} {
		flags.AddFlag(all.Lookup(name))
	}
}

// Validate returns what is wrong with the flags, each by its name and with the remedy.
func (o *Options) Validate() []error {
	var errs []error
	if !o.Standalone {
		errs = append(errs, errors.New("--standalone is required: this version does not run inside a Kubernetes cluster yet"))
	}
	if o.DataDir == "" {
		errs = append(errs, errors.New("--data-dir is required: name a directory that the server may create and keep its data in"))
	}
	for flag, port := range map[string]int{"--secure-port": o.SecurePort, "--registry-port": o.RegistryPort} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("%s %d: must be between 0 and 65535", flag, port))
		}
	}
	if o.SecurePort != 0 && o.SecurePort == o.RegistryPort {
		errs = append(errs, fmt.Errorf("--secure-port and --registry-port are both %d: choose two ports", o.SecurePort))
	}
	if o.RegistryExternalHost != "" {
		if host, err := importer.CanonicalHost(o.RegistryExternalHost); err != nil || host != o.RegistryExternalHost {
			errs = append(errs, fmt.Errorf("--registry-external-host %q: write HOST or HOST:PORT in lower case, without scheme or path; a host without a dot needs its port", o.RegistryExternalHost))
		}
	}
	if o.StoreReserve.Value() < 0 {
		errs = append(errs, fmt.Errorf("--store-reserve %s: must not be negative", &o.StoreReserve))
	}
	for flag, n := range map[string]int{
		"--concurrent-imports": o.ConcurrentImports, "--concurrent-imports-per-host": o.ConcurrentImportsPerHost,
	} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("%s %d: must be at least 1", flag, n))
		}
	}
	if o.ImportAttemptTimeout <= 0 {
		errs = append(errs, fmt.Errorf("--import-attempt-timeout %s: must be positive", o.ImportAttemptTimeout))
	}
	if o.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("--drain-timeout %s: must not be negative", o.DrainTimeout))
	}
	errs = append(errs, o.Sources.validate()...)
	errs = append(errs, o.Etcd.Validate()...)
	errs = append(errs, o.Run.Validate()...)
	errs = append(errs, o.Audit.Validate()...)
	errs = append(errs, o.Features.Validate()...)
	return append(errs, o.Traces.Validate()...)
}
