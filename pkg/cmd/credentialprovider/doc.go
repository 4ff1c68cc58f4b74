// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package credentialprovider is the kubelet's credential provider for the registry endpoint: the kubelet hands over the name of an
// image and a token of the service account that the Pod has which wants it (KEP-4412), and gets the token back as the password for the
// registry of that image, and for no other. Whether the token is good, and for what, the registry endpoint decides.
//
// It starts once for each pull, on every node: it has the types of the kubelet's protocol of its own, is made of the standard library,
// uses no network and keeps nothing. No error says the token.
package credentialprovider
