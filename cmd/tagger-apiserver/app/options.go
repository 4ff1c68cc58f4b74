// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
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
	// MaxBlobSize and MaxNamespaceSize bound what is pushed, and what one namespace has in the image store; 0 for no bound.
	MaxBlobSize, MaxNamespaceSize resource.QuantityValue

	Sources SourceOptions

	ConcurrentImports        int
	ConcurrentImportsPerHost int
	ImportAttemptTimeout     time.Duration
	DrainTimeout             time.Duration
	MirrorReleaseDelay       time.Duration

	// Namespace and ServiceName are where the server runs in a cluster, and by which Service kube-apiserver reaches it.
	Namespace   string
	ServiceName string
	// RegistryAudiences are those of tokens that the registry endpoint takes, beside those of the API and the endpoint's own name.
	RegistryAudiences []string
	// AllowNamespaceMirrors lets each namespace say where its images are mirrored to.
	AllowNamespaceMirrors bool

	Etcd     *options.EtcdOptions
	Serving  *options.SecureServingOptionsWithLoopback
	Run      *options.ServerRunOptions
	Audit    *options.AuditOptions
	Features *options.FeatureOptions
	Traces   *options.TracingOptions
	Logs     *logs.Options

	// These are of servers in a cluster.
	Core           *options.CoreAPIOptions
	Authentication *options.DelegatingAuthenticationOptions
	Authorization  *options.DelegatingAuthorizationOptions
	Admission      *options.AdmissionOptions
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	o := &Options{
		SecurePort:               8443,
		RegistryPort:             5000,
		StoreReserve:             resource.QuantityValue{Quantity: resource.MustParse("256Mi")},
		Sources:                  newSourceOptions(),
		ConcurrentImports:        32,
		ConcurrentImportsPerHost: 16,
		ImportAttemptTimeout:     time.Hour,
		DrainTimeout:             10 * time.Second,
		MirrorReleaseDelay:       7 * 24 * time.Hour,

		Etcd: options.NewEtcdOptions(storagebackend.NewDefaultConfig(etcdPrefix,
			apiserver.Codecs.LegacyCodec(v1beta1.SchemeGroupVersion))),
		Serving:  options.NewSecureServingOptions().WithLoopback(),
		Run:      options.NewServerRunOptions(),
		Audit:    options.NewAuditOptions(),
		Features: options.NewFeatureOptions(),
		Traces:   options.NewTracingOptions(),
		Logs:     logs.NewOptions(),

		Namespace:         "tagger",
		ServiceName:       "tagger",
		RegistryAudiences: []string{v1beta1.SchemeGroupVersion.Group},
		Core:              options.NewCoreAPIOptions(),
		Authentication:    options.NewDelegatingAuthenticationOptions(),
		Authorization:     options.NewDelegatingAuthorizationOptions(),
		Admission:         newAdmissionOptions(),
	}
	// kube-apiserver sends many requests over one connection.
	o.Serving.HTTP2MaxStreamsPerConnection = 1000
	return o
}

// Complete sets what depends on whether there is a cluster, where the flag was not given.
func (o *Options) Complete(given func(flag string) bool) {
	if !given("bind-address") {
		o.BindAddress = net.IPv4zero
		if o.Standalone {
			o.BindAddress = net.IPv4(127, 0, 0, 1)
		}
	}
	if !given("allow-loopback-sources") {
		o.Sources.AllowLoopback = o.Standalone
	}
	if o.Standalone {
		// There is no core API to keep flow schemas in: requests in flight are limited instead.
		o.Features.EnablePriorityAndFairness = false
		// There is no garbage collector to finish a foreground or orphaning delete.
		o.Etcd.EnableGarbageCollection = false
	}
}

// Flags returns the flags by subject.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var sections cliflag.NamedFlagSets
	server := sections.FlagSet("tagger")
	server.BoolVar(&o.Standalone, "standalone", o.Standalone,
		"Run without Kubernetes, with everything that is stored under --data-dir.")
	server.StringVar(&o.DataDir, "data-dir", o.DataDir,
		"Directory of the embedded etcd, unless --etcd-servers name another one, and of the image store; with --standalone of the certificate authority, the token and the kubeconfig, too. Created with mode 0700. In a cluster, without it, there is no image store, and the registry endpoint stands in front of the registry that images are mirrored to.")
	server.IPVar(&o.BindAddress, "bind-address", o.BindAddress,
		"Address that both ports listen on; 0.0.0.0 or :: for all. Default: all in a cluster, 127.0.0.1 with --standalone.")
	server.IntVar(&o.SecurePort, "secure-port", o.SecurePort, "Port of the API, TLS. 0 takes a free one; the kubeconfig names it.")
	server.IntVar(&o.RegistryPort, "registry-port", o.RegistryPort, "Port of the registry endpoint, TLS. 0 takes a free one.")
	server.StringVar(&o.RegistryExternalHost, "registry-external-host", o.RegistryExternalHost,
		"HOST[:PORT] of the registry endpoint as its clients reach it: what references to mirrored images begin with. Default: --bind-address and --registry-port; in a cluster the name of the Service, which Pods can resolve and nodes cannot.")
	server.Var(&o.StoreReserve, "store-reserve",
		"How much space of the disk of --data-dir mirroring and pushes leave free, so that what else is written there, etcd's data for one, has room.")
	server.Var(&o.MaxBlobSize, "max-blob-size", "Largest layer, or other blob, that is pushed. 0: no limit.")
	server.Var(&o.MaxNamespaceSize, "max-namespace-size",
		"How much one namespace may have in the image store: what is mirrored and what is pushed, each layer once. What would be more is refused. 0: no limit.")
	cluster := sections.FlagSet("cluster")
	cluster.StringVar(&o.Core.CoreAPIKubeconfigPath, "kubeconfig", o.Core.CoreAPIKubeconfigPath,
		"Kubeconfig of the Kubernetes API that is extended. Default: the service account of the Pod.")
	cluster.StringVar(&o.Namespace, "namespace", o.Namespace, "Namespace that this server runs in, where its Secrets are.")
	cluster.StringVar(&o.ServiceName, "service-name", o.ServiceName, "Name of the Service by which kube-apiserver reaches this server.")
	cluster.StringSliceVar(&o.RegistryAudiences, "registry-audiences", o.RegistryAudiences,
		"Audiences of service account tokens that the registry endpoint takes, beside the one that --registry-external-host is and those of the Kubernetes API, which tokens have by default. A token for any other audience is refused. Credential providers of nodes ask for one of them.")
	cluster.BoolVar(&o.AllowNamespaceMirrors, "allow-namespace-mirrors", o.AllowNamespaceMirrors,
		"Whether a Secret mirror-registry-config in the namespace of an Image says where it is mirrored to, before the one in --namespace. Needs the right to get Secrets of that name in all namespaces.")
	cluster.StringVar(&o.Serving.ServerCert.CertKey.CertFile, "tls-cert-file", o.Serving.ServerCert.CertKey.CertFile,
		"File with the certificate of both ports, read again when it changes. Default: one of an authority that all replicas share in the Secret tagger-ca, whose certificate is written to the APIService.")
	cluster.StringVar(&o.Serving.ServerCert.CertKey.KeyFile, "tls-private-key-file", o.Serving.ServerCert.CertKey.KeyFile,
		"File with the private key for --tls-cert-file.")
	o.addDelegationFlags(cluster)
	imports := sections.FlagSet("imports")
	imports.IntVar(&o.ConcurrentImports, "concurrent-imports", o.ConcurrentImports, "How many imports run at once, half of them at most of one namespace.")
	imports.IntVar(&o.ConcurrentImportsPerHost, "concurrent-imports-per-host", o.ConcurrentImportsPerHost,
		"How many imports run at once from one registry.")
	imports.DurationVar(&o.ImportAttemptTimeout, "import-attempt-timeout", o.ImportAttemptTimeout,
		"How long one attempt of an import may take, mirroring included.")
	imports.DurationVar(&o.DrainTimeout, "drain-timeout", o.DrainTimeout,
		"How long imports that run may go on when the server is asked to stop. What is cut off is taken up again by the next start.")
	imports.DurationVar(&o.MirrorReleaseDelay, "mirror-release-delay", o.MirrorReleaseDelay,
		"How long the mirror keeps what an Image does not mean any more: what left its history, or all of it when it was deleted. What a Pod of the namespace runs is kept longer. The content of the image store of namespaces that are gone is kept as long. 0: no longer than it takes to let go of it.")
	o.Sources.addFlags(sections.FlagSet("sources"))
	o.addStorageFlags(sections.FlagSet("storage"))
	o.Run.AddUniversalFlags(sections.FlagSet("generic"))
	o.Audit.AddFlags(sections.FlagSet("auditing"))
	o.Features.AddFlags(sections.FlagSet("features"))
	o.Traces.AddFlags(sections.FlagSet("traces"))
	logsapi.AddFlags(o.Logs, sections.FlagSet("logs"))
	return sections
}

// addDelegationFlags adds what may be set of how the cluster is asked who may do what. Where it is reached --kubeconfig says.
func (o *Options) addDelegationFlags(flags *pflag.FlagSet) {
	all := pflag.NewFlagSet("delegation", pflag.ContinueOnError)
	o.Authentication.AddFlags(all)
	o.Authorization.AddFlags(all)
	o.Admission.AddFlags(all)
	for _, name := range []string{
		"authentication-token-webhook-cache-ttl", "authorization-webhook-cache-authorized-ttl", "authorization-webhook-cache-unauthorized-ttl",
		"client-ca-file", "requestheader-client-ca-file", "requestheader-allowed-names", "requestheader-username-headers",
		"requestheader-group-headers", "requestheader-extra-headers-prefix", "requestheader-uid-headers",
		"admission-control-config-file", "disable-admission-plugins", "enable-admission-plugins",
	} {
		flags.AddFlag(all.Lookup(name))
	}
}

// addStorageFlags adds those flags of the storage that have an effect.
func (o *Options) addStorageFlags(flags *pflag.FlagSet) {
	all := pflag.NewFlagSet("etcd", pflag.ContinueOnError)
	o.Etcd.AddFlags(all)
	for _, name := range []string{
		"encryption-provider-config", "encryption-provider-config-automatic-reload", "etcd-compaction-interval",
		"etcd-count-metric-poll-period", "etcd-db-metric-poll-interval", "watch-cache",
		"etcd-servers", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "etcd-healthcheck-timeout", "etcd-readycheck-timeout",
	} {
		flags.AddFlag(all.Lookup(name))
	}
}

// Validate returns what is wrong with the flags, each by its name and with the remedy.
func (o *Options) Validate() []error {
	var errs []error
	etcd := len(o.Etcd.StorageConfig.Transport.ServerList) > 0
	switch {
	case o.Standalone && etcd:
		errs = append(errs, errors.New("--etcd-servers: a standalone server has its own etcd in --data-dir; leave out one of the flags"))
	case o.Standalone && o.DataDir == "":
		errs = append(errs, errors.New("--data-dir is required: name a directory that the server may create and keep its data in"))
	case !etcd && o.DataDir == "":
		errs = append(errs, errors.New("--etcd-servers or --data-dir is required: name an etcd, or a directory that the server may create and keep its own in; without a cluster add --standalone"))
	}
	if tls := o.Serving.ServerCert.CertKey; (tls.CertFile == "") != (tls.KeyFile == "") {
		errs = append(errs, errors.New("--tls-cert-file and --tls-private-key-file belong together: give both, or none"))
	} else if o.Standalone && tls.CertFile != "" {
		errs = append(errs, errors.New("--tls-cert-file: a standalone server has an authority of its own, ca.crt in --data-dir"))
	}
	for flag, name := range map[string]string{"--namespace": o.Namespace, "--service-name": o.ServiceName} {
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			errs = append(errs, fmt.Errorf("%s %q: %s", flag, name, problems[0]))
		}
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
	if slices.ContainsFunc(o.RegistryAudiences, func(audience string) bool { return audience == "" || strings.TrimSpace(audience) != audience }) {
		errs = append(errs, fmt.Errorf("--registry-audiences %q: write audiences with a comma and no space between them", strings.Join(o.RegistryAudiences, ",")))
	}
	for flag, size := range map[string]*resource.QuantityValue{
		"--store-reserve": &o.StoreReserve, "--max-blob-size": &o.MaxBlobSize, "--max-namespace-size": &o.MaxNamespaceSize,
	} {
		if size.Value() < 0 {
			errs = append(errs, fmt.Errorf("%s %s: must not be negative", flag, size))
		}
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
	if o.MirrorReleaseDelay < 0 {
		errs = append(errs, fmt.Errorf("--mirror-release-delay %s: must not be negative", o.MirrorReleaseDelay))
	}
	errs = append(errs, o.Sources.validate()...)
	if etcd {
		errs = append(errs, o.Etcd.Validate()...)
	}
	errs = append(errs, o.Authentication.Validate()...)
	errs = append(errs, o.Authorization.Validate()...)
	errs = append(errs, o.Admission.Validate()...)
	errs = append(errs, o.Run.Validate()...)
	errs = append(errs, o.Audit.Validate()...)
	errs = append(errs, o.Features.Validate()...)
	return append(errs, o.Traces.Validate()...)
}
