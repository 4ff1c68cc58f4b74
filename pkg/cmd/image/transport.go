// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// throughHost stands for the registry in requests that go through kube-apiserver. Nothing is sent to it.
const throughHost = "registry.invalid"

// maxStatus is how much is read of a refusal, in bytes.
const maxStatus = 64 << 10

// directTransport sends requests to a registry port with a token, which goes to that port alone, wherever a redirect leads.
type directTransport struct {
	host     string
	insecure bool
	tokens   *tokens
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *directTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Del("Authorization")
	if request.URL.Host == t.host && (request.URL.Scheme == "https" || t.insecure) {
		token, err := t.tokens.get(request.Context())
		if err != nil {
			return nil, err
		}
		request.SetBasicAuth(tokenUser, token)
	}
	return t.next.RoundTrip(request)
}

// throughTransport sends the requests for one repository through kube-apiserver, as the user of the kubeconfig.
type throughTransport struct {
	base *url.URL // of the proxy of the Image, which /v2/ follows
	next http.RoundTripper
}

func newThroughTransport(config *rest.Config, name remoteName) (*throughTransport, error) {
	config = rest.CopyConfig(config)
	config.Timeout = 0 // it would be for the whole of a blob
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	next, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	if base.Path == "" {
		base.Path = "/"
	}
	base = base.JoinPath("apis", v1beta1.GroupName, v1beta1.SchemeGroupVersion.Version, "namespaces", name.namespace, "images", name.name, "proxy")
	return &throughTransport{base: base, next: next}, nil
}

// RoundTrip implements http.RoundTripper. Paths of Location headers become those of the registry again.
func (t *throughTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	original := request
	request = request.Clone(request.Context())
	request.Header.Del("Authorization")
	at := *t.base
	at.Path += original.URL.Path
	at.RawQuery = original.URL.RawQuery
	request.URL, request.Host = &at, ""
	answer, err := t.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if err := refusal(answer); err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	answer.Request = original
	if location, err := url.Parse(answer.Header.Get("Location")); err == nil {
		if _, path, found := strings.Cut(location.Path, t.base.Path+"/v2/"); found {
			location = &url.URL{Path: "/v2/" + path, RawQuery: location.RawQuery}
			answer.Header.Set("Location", location.String())
		}
	}
	return answer, nil
}

// refusal returns what Kubernetes says that it refuses, where a registry would have said it otherwise.
func refusal(answer *http.Response) error {
	if answer.StatusCode < http.StatusBadRequest || answer.Request.Method == http.MethodHead {
		return nil
	}
	if kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")); kind != "application/json" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxStatus))
	if err != nil {
		return err
	}
	answer.Body = &replayed{Reader: strings.NewReader(string(body)), Closer: answer.Body}
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil || status.Kind != "Status" {
		return nil //nolint:nilerr // it is the registry's, and read elsewhere
	}
	return apierrors.FromObject(&status)
}

// replayed is a body of which the beginning was read.
type replayed struct {
	io.Reader
	io.Closer
}
