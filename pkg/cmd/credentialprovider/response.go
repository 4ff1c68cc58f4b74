// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package credentialprovider

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

const (
	apiVersion = "credentialprovider.kubelet.k8s.io/v1" // tokens are in no earlier one

	// username stands beside the token, where the registry endpoint takes any.
	username = "serviceaccount"

	// expiryMargin is for how long a token is not given any more before it ends: a pull may take a while.
	expiryMargin = time.Minute
	// maxCached is how long the kubelet keeps an answer at most. It is by the token, so that it serves the containers of one Pod.
	maxCached = 10 * time.Minute
)

// A request is what the kubelet asks: CredentialProviderRequest of k8s.io/kubelet/pkg/apis/credentialprovider/v1. What a later
// kubelet adds to it is left alone.
type request struct {
	APIVersion          string `json:"apiVersion"`
	Kind                string `json:"kind"`
	Image               string `json:"image"`
	ServiceAccountToken string `json:"serviceAccountToken"`
}

// A response is what it is answered: CredentialProviderResponse of the same package.
type response struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// CacheKeyType says for which other images the answer is good. Beside that, the kubelet keeps answers apart by service account
	// and, with the cacheType Token that its configuration has to have, by token.
	CacheKeyType  string                `json:"cacheKeyType"`
	CacheDuration string                `json:"cacheDuration"`
	Auth          map[string]credential `json:"auth"`
}

type credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// respond answers a request.
func respond(data []byte, now time.Time) (*response, error) {
	if len(data) > maxRequest {
		return nil, fmt.Errorf("the request on stdin is larger than %d bytes", maxRequest)
	}
	var req request
	if err := json.Unmarshal(data, &req); err != nil {
		// What it says may be a part of the token.
		return nil, errors.New("the request on stdin is no JSON object with the fields of a CredentialProviderRequest; it is the kubelet that starts this program")
	}
	if req.APIVersion != apiVersion {
		return nil, fmt.Errorf("apiVersion is %.100q: set %s as the apiVersion of this provider in the kubelet's CredentialProviderConfig", req.APIVersion, apiVersion)
	}
	if req.Kind != "CredentialProviderRequest" {
		return nil, fmt.Errorf("kind is %.100q: it must be CredentialProviderRequest", req.Kind)
	}
	registry, err := registryOf(req.Image)
	if err != nil {
		return nil, err
	}
	if req.ServiceAccountToken == "" {
		return nil, fmt.Errorf("serviceAccountToken is empty for an image of %s: set tokenAttributes in the kubelet's CredentialProviderConfig, with requireServiceAccount: true", registry)
	}
	return &response{
		APIVersion: apiVersion, Kind: "CredentialProviderResponse",
		// The whole registry takes the token, and nothing else does.
		CacheKeyType: "Registry", CacheDuration: cached(req.ServiceAccountToken, now).String(),
		Auth: map[string]credential{registry: {Username: username, Password: req.ServiceAccountToken}},
	}, nil
}

// host is a registry in the name of an image. It has none of the characters that the kubelet would take for a pattern.
var host = regexp.MustCompile(`^([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?$`)

// registryOf returns the registry, HOST or HOST:PORT, of the name of an image. The kubelet compares paths by their first characters,
// not by their segments, and therefore no path is answered.
func registryOf(image string) (string, error) {
	registry, repository, found := strings.Cut(image, "/")
	if !found || repository == "" || !host.MatchString(registry) || !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		return "", fmt.Errorf("image %.300q does not begin with a registry, HOST or HOST:PORT: name nothing but Tagger's in matchImages of this provider in the kubelet's CredentialProviderConfig", image)
	}
	return registry, nil
}

// cached returns how long the kubelet may keep a token: not to its very end, and not at all where that is not known. The signature is
// not looked at: whoever could forge a token would gain that it is kept here.
func cached(token string, now time.Time) time.Duration {
	_, rest, _ := strings.Cut(token, ".")
	claims, _, found := strings.Cut(rest, ".")
	if !found {
		return 0 // it is no JSON Web Token, RFC 7519
	}
	data, err := base64.RawURLEncoding.DecodeString(claims)
	if err != nil {
		return 0
	}
	var of struct {
		Expiry float64 `json:"exp"` // seconds since 1970, which may have a fraction
	}
	if err := json.Unmarshal(data, &of); err != nil {
		return 0
	}
	left := of.Expiry - float64(now.Unix()) - expiryMargin.Seconds()
	return time.Duration(max(0, min(left, maxCached.Seconds()))) * time.Second
}
