// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/importer"
)

// SecretName is the name of the Secret that says where the mirror is.
const SecretName = "mirror-registry-config"

// Keys of that Secret.
const (
	addressKey    = "address"
	usernameKey   = "username"
	passwordKey   = "password"
	tokenKey      = "token"
	insecureKey   = "insecure"
	repositoryKey = "repository"
	caKey         = "ca"
)

// The ConfigMap of KEP-1755, by which clusters for development say that they have
// a registry beside them.
const (
	hostingNamespace = "kube-public"
	hostingName      = "local-registry-hosting"
	hostingKey       = "localRegistryHosting.v1"
)

// place is where a mirror is, as far as one object says.
type place struct {
	// config is nil where the object says nothing, or is not there.
	config *Config
	// hosts are the names of the registry that the object has, also where it is
	// broken.
	hosts []string
	// apart is what keeps the mirror apart from other content of these hosts; empty
	// where nothing does.
	apart string
	// err is what is wrong with the object.
	err error
}

// secretPlace reads a Secret, which says nothing without an address. What is wrong
// with it is told by key, and never by what the key has.
func secretPlace(secret *corev1.Secret) place {
	value := func(key string) string { return trimNewline(secret.Data[key]) }
	if value(addressKey) == "" {
		return place{}
	}
	config := &Config{
		Name: fmt.Sprintf("the Secret %s/%s", secret.Namespace, secret.Name), Repository: value(repositoryKey),
		Username: value(usernameKey), Password: value(passwordKey), Token: value(tokenKey), CA: value(caKey),
		Insecure: value(insecureKey) == "true",
	}
	host, err := hostOf(value(addressKey))
	if err != nil {
		return place{err: config.broken(addressKey, "is not HOST or HOST:PORT; a host without a dot needs its port, and a path belongs into the key repository")}
	}
	config.Host = host
	p := place{config: config, hosts: []string{host}}
	if config.Repository == "" {
		p.apart = fmt.Sprintf("the key %s of %s", repositoryKey, config.Name)
	}
	switch insecure := value(insecureKey); {
	case insecure != "" && insecure != "true" && insecure != "false":
		p.err = config.broken(insecureKey, `is neither "true" nor "false"`)
	case strings.HasPrefix(value(addressKey), "http://") && !config.Insecure:
		p.err = config.broken(addressKey, `starts with http://; set the key insecure to "true" if plain HTTP is meant`)
	case config.Repository != "" && !isRepository(config.Repository):
		p.err = config.broken(repositoryKey, "is not a repository; use lower-case letters and digits, separated by one of . _ __ - or /")
	case config.Username != "" && config.Password == "" && config.Token == "":
		p.err = config.broken(passwordKey, "is empty, as the key token is, and username is not")
	case config.Username == "" && config.Password != "":
		p.err = config.broken(usernameKey, "is empty, and password is not")
	case strings.Contains(config.Username, ":"):
		p.err = config.broken(usernameKey, "has a colon, which no user name can have")
	case config.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(config.CA)):
		p.err = config.broken(caKey, "has no certificate in PEM")
	}
	return p
}

// broken makes an error of what is wrong with a key. It is tried again: somebody
// may mend it meanwhile.
func (c *Config) broken(key, remedy string) error {
	return importer.NewError(importer.MirrorUnavailable, nil, "the mirror cannot be used: the key %s of %s %s", key, c.Name, remedy)
}

// trimNewline takes one newline off the end, which most ways to write a Secret by
// hand add.
func trimNewline(value []byte) string {
	value, trimmed := bytes.CutSuffix(value, []byte("\n"))
	if trimmed {
		value = bytes.TrimSuffix(value, []byte("\r"))
	}
	return string(value)
}

// hostOf returns the host of an address, which may be written as a URL.
func hostOf(address string) (string, error) {
	for _, scheme := range []string{"https://", "http://"} {
		address = strings.TrimPrefix(address, scheme)
	}
	return importer.CanonicalHost(strings.TrimSuffix(address, "/"))
}

func isRepository(s string) bool {
	ref, err := importer.ParseReference("h.invalid/" + s)
	return err == nil && ref.Repository() == s
}

// hosting is the document of KEP-1755, as far as it counts.
type hosting struct {
	Host                     string `json:"host"`
	HostFromContainerRuntime string `json:"hostFromContainerRuntime"`
	HostFromClusterNetwork   string `json:"hostFromClusterNetwork"`
}

// hostingPlace reads the ConfigMap of KEP-1755, which says nothing where the
// registry cannot be reached from inside the cluster. That KEP knows neither
// credentials nor certificates; registries of that kind rarely have any.
func hostingPlace(configMap *corev1.ConfigMap) place {
	config := &Config{Name: fmt.Sprintf("the ConfigMap %s/%s", hostingNamespace, hostingName), Insecure: true}
	var document hosting
	if err := yaml.Unmarshal([]byte(configMap.Data[hostingKey]), &document); err != nil {
		return place{err: config.broken(hostingKey, "is not YAML of the format of KEP-1755")}
	}
	if document.HostFromClusterNetwork == "" {
		return place{}
	}
	p := place{config: config}
	known := func(address string) string {
		host, err := hostOf(address)
		if err != nil {
			return ""
		}
		p.hosts = append(p.hosts, host)
		return host
	}
	host, fromRuntime := known(document.Host), known(document.HostFromContainerRuntime)
	config.Host = known(document.HostFromClusterNetwork)
	if config.PullHost = fromRuntime; document.HostFromContainerRuntime == "" {
		config.PullHost = host
	}
	switch {
	case config.Host == "":
		p.err = config.broken(hostingKey, "has a hostFromClusterNetwork that is not HOST or HOST:PORT")
	case config.PullHost == "":
		p.err = config.broken(hostingKey, "has neither a hostFromContainerRuntime nor a host by which nodes could pull, as HOST or HOST:PORT")
	}
	return p
}

// foreign reports whether a repository may have what was mirrored for another
// namespace.
func (p place) foreign(repository, namespace string) bool {
	if p.config == nil {
		return false
	}
	below, own := "", namespace+"/"
	if p.config.Repository != "" {
		below, own = p.config.Repository+"/", p.config.Repository+"/"+namespace+"_"
	}
	return strings.HasPrefix(repository, below) && !strings.HasPrefix(repository, own)
}

// named reports whether a host is the mirror by one of its names.
func (p place) named(host string) bool {
	return haveCommon(registriesAt(host), p.registries())
}

// reached reports whether a host leads to an address of the mirror, as far as
// names can be resolved now.
func (p place) reached(ctx context.Context, host string) bool {
	return haveCommon(resolved(ctx, registriesAt(host)), resolved(ctx, p.registries()))
}

func (p place) registries() []string {
	var all []string
	for _, host := range p.hosts {
		all = append(all, registriesAt(host)...)
	}
	return all
}

// registriesAt returns which registries a host may mean, as Reference.Registry
// writes them: without a port that of https, and that of http.
func registriesAt(host string) []string {
	hosts := []string{host}
	if _, _, err := net.SplitHostPort(host); err != nil {
		hosts = []string{host + ":443", host + ":80"}
	}
	var registries []string
	for _, host := range hosts {
		if ref, err := importer.ParseReference(host + "/x"); err == nil {
			registries = append(registries, ref.Registry())
		}
	}
	return registries
}

// resolved returns the addresses of registries, with their ports.
func resolved(ctx context.Context, registries []string) []string {
	var addresses []string
	for _, registry := range registries {
		host, port, _ := net.SplitHostPort(registry)
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		for _, ip := range found {
			addresses = append(addresses, net.JoinHostPort(ip.Unmap().String(), port))
		}
	}
	return addresses
}

func haveCommon(a, b []string) bool {
	return slices.ContainsFunc(a, func(one string) bool { return slices.Contains(b, one) })
}
