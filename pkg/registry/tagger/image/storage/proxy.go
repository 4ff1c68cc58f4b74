// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"tagger.dev/tagger/pkg/apis/tagger"
)

// ProxyREST serves images/proxy: the registry endpoint of one image, whose path follows the subresource's. It is a Connecter,
// since stock Kubernetes ends a create after 34 seconds. It does not look the Image up: a push makes one that is absent.
type ProxyREST struct {
	endpoint http.Handler
}

var _ rest.Connecter = &ProxyREST{}

// NewProxyREST returns the storage of images/proxy. The endpoint finds user, namespace and name in the request's context.
func NewProxyREST(endpoint http.Handler) *ProxyREST { return &ProxyREST{endpoint} }

// New returns an empty Image, which is what the subresource belongs to.
func (*ProxyREST) New() runtime.Object { return &tagger.Image{} }

// Destroy has nothing to clean up.
func (*ProxyREST) Destroy() {}

// ConnectMethods are those of the OCI Distribution Specification.
func (*ProxyREST) ConnectMethods() []string {
	return []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
}

// NewConnectOptions says that a path follows. The query is the endpoint's, and nothing is read of it here.
func (*ProxyREST) NewConnectOptions() (options runtime.Object, subpath bool, subpathParameter string) {
	return nil, true, "path"
}

// Connect returns the endpoint.
func (r *ProxyREST) Connect(context.Context, string, runtime.Object, rest.Responder) (http.Handler, error) {
	return r.endpoint, nil
}
