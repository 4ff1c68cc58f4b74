// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/pager"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	taggerserver "tagger.dev/tagger/pkg/apiserver"
	"tagger.dev/tagger/pkg/apiserver/certificate"
	"tagger.dev/tagger/pkg/apiserver/incluster"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/pkg/front"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/keychain"
	"tagger.dev/tagger/pkg/importer/mirror"
)

// apiService is the name of the APIService that has kube-apiserver send requests here.
var apiService = v1beta1.SchemeGroupVersion.Version + "." + v1beta1.SchemeGroupVersion.Group

// newInCluster builds a server that extends the Kubernetes API which --kubeconfig or the Pod's service account leads to.
func newInCluster(ctx context.Context, o *Options, p *process) (*taggerserver.Server, error) {
	kube, objects, err := o.connect()
	if err != nil {
		return nil, err
	}
	if err := incluster.WaitForAPIServer(ctx, kube); err != nil {
		return nil, err
	}
	api, err := p.listen(o.BindAddress, o.SecurePort, "--secure-port")
	if err != nil {
		return nil, err
	}
	registry, err := p.listen(o.BindAddress, o.RegistryPort, "--registry-port")
	if err != nil {
		return nil, err
	}
	config, registryHost := &taggerserver.Config{}, o.registryHost(registry)
	namespaces := &namespaces{kube: kube}
	var store *embedded.Store
	var etcd *embedded.Etcd
	if o.DataDir != "" {
		if _, store, etcd, err = o.openDataDir(ctx, p, namespaces); err != nil {
			return nil, err
		}
	}
	config.Generic, err = o.clusterConfig(api, etcd, kube, objects)
	if err != nil {
		return nil, err
	}
	namespaces.lister = config.Generic.SharedInformerFactory.Core().V1().Namespaces().Lister()
	serving, authority, err := o.servingCertificate(ctx, p, config.Generic, kube, objects, registryHost)
	if err != nil {
		return nil, err
	}
	mirrors := o.clusterMirrors(kube, store, registryHost)
	imports, err := o.clusterImporter(registryHost, mirrors)
	if err != nil {
		return nil, err
	}
	pullSecrets := keychain.NewNamespaces(func(ctx context.Context, namespace string, options metav1.ListOptions) (*corev1.SecretList, error) {
		return kube.CoreV1().Secrets(namespace).List(ctx, options)
	}, clock.RealClock{})
	config.Extra = o.extraConfig(taggerserver.ExtraConfig{
		Importer: imports, Keychains: pullSecrets.Keychain, Mirrors: mirrors, Running: pods{kube}.running,
		Registry: taggerserver.RegistryConfig{
			Listener:             registry,
			TLS:                  &tls.Config{GetCertificate: serving, MinVersion: tls.VersionTLS12},
			Host:                 registryHost,
			CertificateAuthority: authority,
			Backend:              o.clusterBackend(mirrors, store),
			Deleted:              newEvents(ctx, p, kube).deleted,
			Tokens:               incluster.Tokens(kube.AuthenticationV1().TokenReviews(), append(slices.Clone(o.RegistryAudiences), registryHost), o.Authentication.CacheTTL),
		},
	}, etcd)
	server, err := config.Complete().New(ctx)
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).Info("Serving", "apiService", apiService, "port", port(api), "registry", registryHost)
	return server, nil
}

// connect returns clients of the Kubernetes that is extended, the second of which knows no types.
func (o *Options) connect() (kubernetes.Interface, dynamic.Interface, error) {
	config, err := o.kubeConfig()
	if err != nil {
		return nil, nil, err
	}
	config.QPS = -1 // what is too much kube-apiserver knows better, by priority and fairness
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	return kube, objects, err
}

// kubeConfig returns how that Kubernetes is reached: as --kubeconfig says, or else as the Pod does that this runs in.
func (o *Options) kubeConfig() (*rest.Config, error) {
	if o.Core.CoreAPIKubeconfigPath == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("this is no Pod of a cluster; give --kubeconfig, or --standalone: %w", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.Core.CoreAPIKubeconfigPath)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return config, nil
}

// clusterConfig configures the generic API server with the authentication, the authorisation, the admission, and the priority and
// fairness of the cluster.
func (o *Options) clusterConfig(listener net.Listener, etcd *embedded.Etcd, kube kubernetes.Interface, objects dynamic.Interface) (
	*genericapiserver.RecommendedConfig, error) {
	config, err := o.genericConfig(listener, etcd)
	if err != nil {
		return nil, err
	}
	o.Authentication.RemoteKubeConfigFile = o.Core.CoreAPIKubeconfigPath
	o.Authorization.RemoteKubeConfigFile = o.Core.CoreAPIKubeconfigPath
	if err := o.Authentication.ApplyTo(&config.Authentication, config.SecureServing, config.OpenAPIConfig); err != nil {
		return nil, err
	}
	if err := o.Authorization.ApplyTo(&config.Authorization); err != nil {
		return nil, err
	}
	if err := o.Core.ApplyTo(config); err != nil {
		return nil, err
	}
	if err := o.Features.ApplyTo(&config.Config, kube, config.SharedInformerFactory); err != nil {
		return nil, err
	}
	if err := disableUnserved(o.Admission, kube.Discovery()); err != nil {
		return nil, err
	}
	// The server is not ready before all informers of its own factory are. That of admission is another: it watches whatever
	// parameters policies have, which Tagger may have no right to.
	watched := informers.NewSharedInformerFactory(kube, 0)
	if err := config.AddPostStartHook("start-admission-informers", func(hook genericapiserver.PostStartHookContext) error {
		watched.Start(hook.Done())
		return nil
	}); err != nil {
		return nil, err
	}
	return config, o.Admission.ApplyTo(&config.Config, watched, kube, objects, utilfeature.DefaultFeatureGate,
		config.EffectiveVersion, quotaInitializer{})
}

// servingCertificate has both ports serve the certificate of --tls-cert-file, or one of an authority that the replicas share in a
// Secret, and that kube-apiserver is told to trust. It returns what the registry port serves, and the authority of that, in PEM; nil
// where it is of files.
func (o *Options) servingCertificate(ctx context.Context, p *process, config *genericapiserver.RecommendedConfig, kube kubernetes.Interface,
	objects dynamic.Interface, registryHost string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), []byte, error) {
	if o.Serving.ServerCert.CertKey.CertFile != "" {
		return certificate.Of(config.SecureServing.Cert), nil, nil
	}
	authority, err := incluster.Authority(ctx, kube.CoreV1().Secrets(o.Namespace), clock.RealClock{})
	if err != nil {
		return nil, nil, err
	}
	hosts := []string{"localhost", o.ServiceName, o.ServiceName + "." + o.Namespace, o.ServiceName + "." + o.Namespace + ".svc"}
	hosts = append(hosts, hostOf(registryHost))
	serving, err := certificate.NewServing(authority, hosts...)
	if err != nil {
		return nil, nil, err
	}
	config.SecureServing.Cert = serving
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		incluster.KeepTrust(keeping, objects, apiService, authority)
	}()
	p.atEnd(func() { stop(); <-ended })
	return serving.GetCertificate, authority.CertificatePEM(), nil
}

// clusterMirrors finds where images are mirrored to: where the cluster says, or else in the store, which may be nil.
func (o *Options) clusterMirrors(kube kubernetes.Interface, store *embedded.Store, registryHost string) *mirror.Locator {
	config := mirror.LocatorConfig{
		Secret: func(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
			return kube.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		ConfigMap: func(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
			return kube.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		Namespace:        o.Namespace,
		NamespaceSecrets: o.AllowNamespaceMirrors,
		OwnHosts:         []string{registryHost},
		Options:          o.Sources.mirrorOptions(),
	}
	if store != nil {
		config.Embedded = embeddedMirror{store: store, host: registryHost}
	}
	return mirror.NewLocator(config)
}

// clusterBackend returns what makes what the registry endpoint serves: what the mirrors have, and the store, which may be nil.
func (o *Options) clusterBackend(mirrors *mirror.Locator, store *embedded.Store) func(front.Keys) distribution.Backend {
	config := front.Config{
		Mirrors: mirrors,
		Remedy:  fmt.Sprintf("have the administrator put the address of one into the Secret %s/%s", o.Namespace, mirror.SecretName),
		Clock:   clock.RealClock{},
	}
	if store != nil {
		config.Store = store
	}
	return func(keys front.Keys) distribution.Backend {
		config.Keys = keys
		return front.New(config)
	}
}

// clusterImporter returns what imports, within the guard rails.
func (o *Options) clusterImporter(registryHost string, mirrors *mirror.Locator) (*importer.Importer, error) {
	options, errs := o.Sources.importerOptions()
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	options.CredentialsPlace = "Secrets of this namespace"
	options.InsecureRemedy = "annotate the Secret with " + keychain.InsecureTransportAnnotation + ": allow"
	options.Admit = mirrors.Admit
	options.OwnHosts = []string{registryHost}
	return importer.New(options), nil
}

// namespaces knows those of the cluster.
type namespaces struct {
	kube   kubernetes.Interface
	lister corev1listers.NamespaceLister
}

// uid returns the UID of a namespace.
func (n *namespaces) uid(ctx context.Context, name string) (string, error) {
	namespace, err := n.lister.Get(name)
	if apierrors.IsNotFound(err) { // or newer than the cache
		namespace, err = n.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("namespace %s: %w", name, distribution.ErrNameUnknown)
	case err != nil:
		return "", fmt.Errorf("namespace %s: %w", name, err)
	}
	return string(namespace.UID), nil
}

// all returns the UIDs of all namespaces, as they are stored. It fails where it does not get them to the last one.
func (n *namespaces) all(ctx context.Context) ([]string, error) {
	var uids []string
	if err := eachObject(ctx, func(options metav1.ListOptions) (runtime.Object, error) {
		return n.kube.CoreV1().Namespaces().List(ctx, options)
	}, func(obj runtime.Object) error {
		uids = append(uids, string(obj.(*corev1.Namespace).UID))
		return nil
	}); err != nil {
		return nil, err
	}
	return uids, nil
}

// eachObject calls a function with each object of a list, which is read page by page.
func eachObject(ctx context.Context, list func(metav1.ListOptions) (runtime.Object, error), each func(runtime.Object) error) error {
	pages := pager.New(pager.SimplePageFunc(list))
	pages.PageBufferSize = 0 // one page is read while another one is looked at, and none kept
	return pages.EachListItem(ctx, metav1.ListOptions{}, each)
}
