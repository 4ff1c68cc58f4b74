// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	urlpath "path"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"k8s.io/apimachinery/pkg/util/wait"
	utilversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	authnunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	authzunion "k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	taggerserver "tagger.dev/tagger/pkg/apiserver"
	"tagger.dev/tagger/pkg/apiserver/standalone"
	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/version"
)

const (
	// adminName is who the token of a standalone server stands for.
	adminName = "tagger-admin"
	// adminGroup may do everything. It is not system:masters, which no limit of requests in flight holds for.
	adminGroup = "tagger:admins"
)

// healthPaths may be read by anybody.
var healthPaths = []string{"/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*"}

// newStandalone builds a server with everything that it needs in its data directory. The returned function closes that, after
// the server has stopped.
func newStandalone(ctx context.Context, o *Options) (_ *taggerserver.Server, closeAll func(), err error) {
	var closers []func()
	closeOpened := func() {
		for _, closer := range slices.Backward(closers) {
			closer()
		}
	}
	defer func() {
		if err != nil {
			closeOpened()
		}
	}()
	closing := func(what string, closer func() error) {
		closers = append(closers, func() {
			if err := closer(); err != nil {
				klog.FromContext(ctx).Error(err, "Could not close", "what", what)
			}
		})
	}

	// The store's library logs to a logger of its own, and warns of what is ordinary.
	if err := log.SetLevel(log.ErrorLevel.String()); err != nil {
		return nil, nil, err
	}
	dir, err := standalone.OpenDataDir(o.DataDir)
	if err != nil {
		return nil, nil, err
	}
	closing("data directory", dir.Close)
	api, err := listen(o.BindAddress, o.SecurePort, "--secure-port")
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, func() { _ = api.Close() }) // closed by the server that ran
	registry, err := listen(o.BindAddress, o.RegistryPort, "--registry-port")
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, func() { _ = registry.Close() })
	// The store comes first: what it gives free etcd may need.
	store, err := embedded.OpenStore(ctx, dir.StorePath(), o.StoreReserve.Value())
	if err != nil {
		return nil, nil, err
	}
	closing("image store", store.Close)
	if err := store.Collect(ctx); err != nil { // what a process that was killed has left
		return nil, nil, err
	}
	closers = append(closers, collecting(ctx, store))
	etcd, err := embedded.StartEtcd(ctx, embedded.EtcdConfig{Dir: dir.EtcdPath()})
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, etcd.Close)

	token, err := dir.Token()
	if err != nil {
		return nil, nil, err
	}
	authority, err := dir.Authority(clock.RealClock{})
	if err != nil {
		return nil, nil, err
	}
	registryHost := o.RegistryExternalHost
	if registryHost == "" {
		registryHost = net.JoinHostPort(reachable(o.BindAddress).String(), strconv.Itoa(port(registry)))
	}
	certificate, err := standalone.NewServingCertificate(authority, certificateHosts(o.BindAddress, registryHost)...)
	if err != nil {
		return nil, nil, err
	}

	generic, err := o.genericConfig(api, etcd, certificate, token)
	if err != nil {
		return nil, nil, err
	}
	imports, credentials, err := o.Sources.importer(ownHosts(registryHost, port(registry)))
	if err != nil {
		return nil, nil, err
	}
	config := &taggerserver.Config{
		Generic: generic,
		Extra: taggerserver.ExtraConfig{
			Importer:  imports,
			Keychains: func(string) importer.Keychain { return credentials },
			Mirrors:   mirrors{store: store, host: registryHost},
			Registry: taggerserver.RegistryConfig{
				Listener:   registry,
				TLS:        &tls.Config{GetCertificate: certificate.GetCertificate, MinVersion: tls.VersionTLS12},
				Backend:    store,
				Authorizer: tokenAuthorizer(token),
			},
			Clock:                    clock.RealClock{},
			ConcurrentImports:        o.ConcurrentImports,
			ConcurrentImportsPerHost: o.ConcurrentImportsPerHost,
			AttemptTimeout:           o.ImportAttemptTimeout,
			DrainTimeout:             o.DrainTimeout,
			CollectOrphans:           true,
		},
	}
	server, err := config.Complete().New(ctx)
	if err != nil {
		return nil, nil, err
	}
	apiURL := "https://" + net.JoinHostPort(reachable(o.BindAddress).String(), strconv.Itoa(port(api)))
	if err := dir.WriteKubeconfig(apiURL, authority, token); err != nil {
		return nil, nil, err
	}
	klog.FromContext(ctx).Info("Serving", "api", apiURL, "registry", registryHost, "kubeconfig", dir.KubeconfigPath())
	return server, closeOpened, nil
}

// collectInterval is how often the image store drops what no tag and no import under way holds.
const collectInterval = time.Hour

// collecting has the image store collect now and then until stop is called.
func collecting(ctx context.Context, store *embedded.Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	group.Go(func() {
		wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
			if err := store.Collect(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Could not collect garbage in the image store")
			}
		}, collectInterval, 0.1, true)
	})
	return func() {
		cancel()
		group.Wait()
	}
}

// genericConfig configures the generic API server without a Kubernetes behind it: one administrator by token, anonymous calls
// on the health paths alone, no admission.
func (o *Options) genericConfig(listener net.Listener, etcd *embedded.Etcd, certificate *standalone.ServingCertificate,
	token string) (*genericapiserver.Config, error) {
	config := genericapiserver.NewConfig(taggerserver.Codecs)
	o.Etcd.StorageConfig.Transport.ServerList = []string{etcd.Endpoint()}
	o.Serving.Listener = listener
	for _, apply := range []func(*genericapiserver.Config) error{
		o.Run.ApplyTo,
		o.Serving.ApplyToConfig,
		o.Etcd.ApplyTo,
		o.Audit.ApplyTo,
		func(c *genericapiserver.Config) error { return o.Features.ApplyTo(c, nil, nil) },
		func(c *genericapiserver.Config) error { return o.Traces.ApplyTo(nil, c) },
	} {
		if err := apply(config); err != nil {
			return nil, err
		}
	}
	config.EffectiveVersion = effectiveVersion{config.EffectiveVersion}
	config.SecureServing.Cert = certificate
	config.PublicAddress = reachable(o.BindAddress)
	config.AddReadyzChecks(healthz.NamedCheck("etcd-alarms", func(r *http.Request) error { return etcd.Check(r.Context()) }))

	admin := &user.DefaultInfo{Name: adminName, UID: adminName, Groups: []string{user.AllAuthenticated, adminGroup}}
	health, err := path.NewAuthorizer(healthPaths)
	if err != nil {
		return nil, err
	}
	config.Authentication.Authenticator = authnunion.New(
		authenticatorfactory.NewFromTokens(map[string]*user.DefaultInfo{token: admin}, nil),
		anonymousWhere(health),
	)
	config.Authorization.Authorizer, err = authzunion.New(
		authzunion.NamedAuthorizer{AuthorizerName: "health", Authorizer: health},
		authzunion.NamedAuthorizer{AuthorizerName: "admin", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup, adminGroup)},
	)
	return config, err
}

// anonymousWhere lets requests be anonymous that anybody may make, and no others: they are asked for a token.
func anonymousWhere(allowed authorizer.Authorizer) authenticator.Request {
	anybody := anonymous.NewAuthenticator(nil)
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		decision, _, err := allowed.Authorize(r.Context(), authorizer.AttributesRecord{Path: r.URL.Path})
		if err != nil || decision != authorizer.DecisionAllow || urlpath.Clean(r.URL.Path) != r.URL.Path {
			return nil, false, err
		}
		return anybody.AuthenticateRequest(r)
	})
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

// listen opens a port before anything is started, so that one that is taken is found at once.
func listen(address net.IP, port int, flag string) (net.Listener, error) {
	hostPort := net.JoinHostPort(address.String(), strconv.Itoa(port))
	listener, err := net.Listen("tcp", hostPort)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is taken by another program: stop that, or choose another port with %s", hostPort, flag)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s needs more rights than this process has: choose a port above 1023 with %s", hostPort, flag)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return listener, nil
}

func port(listener net.Listener) int {
	return listener.Addr().(*net.TCPAddr).Port
}

// reachable returns an address at which a server that listens on address can be reached from this machine.
func reachable(address net.IP) net.IP {
	switch {
	case !address.IsUnspecified():
		return address
	case address.To4() != nil:
		return net.IPv4(127, 0, 0, 1)
	default:
		return net.IPv6loopback
	}
}

// certificateHosts returns the names that clients may reach the server by.
func certificateHosts(address net.IP, registryHost string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1", reachable(address).String(), hostOf(registryHost)}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	return hosts
}

// ownHosts returns the names of the registry endpoint, which is no source to import from.
func ownHosts(registryHost string, port int) []string {
	own := []string{registryHost}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		own = append(own, net.JoinHostPort(host, strconv.Itoa(port)))
	}
	return own
}

func hostOf(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return hostPort
}
