// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	urlpath "path"
	"strconv"

	"github.com/opencontainers/go-digest"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	authnunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	authzunion "k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	taggerserver "tagger.dev/tagger/pkg/apiserver"
	"tagger.dev/tagger/pkg/apiserver/certificate"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/embedded"
	"tagger.dev/tagger/pkg/front"
	"tagger.dev/tagger/pkg/importer"
)

const (
	// adminName is who the token of a standalone server stands for.
	adminName = "tagger-admin"
	// adminGroup may do everything. It is not system:masters, which no limit of requests in flight holds for.
	adminGroup = "tagger:admins"
)

// healthPaths may be read by anybody.
var healthPaths = []string{"/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*"}

// newStandalone builds a server with everything that it needs in its data directory.
func newStandalone(ctx context.Context, o *Options, p *process) (*taggerserver.Server, error) {
	dir, store, etcd, err := o.openDataDir(ctx, p, nil)
	if err != nil {
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
	token, err := dir.Token()
	if err != nil {
		return nil, err
	}
	authority, err := dir.Authority(clock.RealClock{})
	if err != nil {
		return nil, err
	}
	registryHost := o.registryHost(registry)
	serving, err := certificate.NewServing(authority, certificateHosts(o.BindAddress, registryHost)...)
	if err != nil {
		return nil, err
	}
	admin := &user.DefaultInfo{Name: adminName, UID: adminName, Groups: []string{user.AllAuthenticated, adminGroup}}
	tokens := tokenfile.New(map[string]*user.DefaultInfo{token: admin})
	generic, err := o.standaloneConfig(api, etcd, serving, tokens)
	if err != nil {
		return nil, err
	}
	imports, credentials, err := o.Sources.importer(ownHosts(registryHost, port(registry)))
	if err != nil {
		return nil, err
	}
	config := &taggerserver.Config{
		Generic: generic,
		Extra: o.extraConfig(taggerserver.ExtraConfig{
			Importer:  imports,
			Keychains: func(string) importer.Keychain { return credentials },
			Mirrors:   embeddedMirror{store: store, host: registryHost},
			Registry: taggerserver.RegistryConfig{
				Listener:             registry,
				TLS:                  &tls.Config{GetCertificate: serving.GetCertificate, MinVersion: tls.VersionTLS12},
				Host:                 registryHost,
				CertificateAuthority: authority.CertificatePEM(),
				Backend:              func(front.Keys) distribution.Backend { return store },
				Tokens:               tokens,
				Deleted:              func(context.Context, *v1beta1.Image, digest.Digest) {}, // there are no Events, and the log has it
			},
			Running:        noPods,
			CollectOrphans: true,
		}, etcd),
	}
	server, err := config.Complete().New(ctx)
	if err != nil {
		return nil, err
	}
	apiURL := "https://" + net.JoinHostPort(reachable(o.BindAddress).String(), strconv.Itoa(port(api)))
	if err := dir.WriteKubeconfig(apiURL, authority, token); err != nil {
		return nil, err
	}
	klog.FromContext(ctx).Info("Serving", "api", apiURL, "registry", registryHost, "kubeconfig", dir.KubeconfigPath())
	return server, nil
}

// standaloneConfig configures the generic API server without a Kubernetes behind it: one administrator by token, anonymous calls
// on the health paths alone, no admission.
func (o *Options) standaloneConfig(listener net.Listener, etcd *embedded.Etcd, serving *certificate.Serving,
	tokens authenticator.Token) (*genericapiserver.RecommendedConfig, error) {
	config, err := o.genericConfig(listener, etcd)
	if err != nil {
		return nil, err
	}
	if err := o.Features.ApplyTo(&config.Config, nil, nil); err != nil {
		return nil, err
	}
	config.SecureServing.Cert = serving
	health, err := path.NewAuthorizer(healthPaths)
	if err != nil {
		return nil, err
	}
	config.Authentication.Authenticator = authnunion.New(bearertoken.New(tokens), anonymousWhere(health))
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
