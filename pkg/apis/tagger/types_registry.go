// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// RegistryToken is a token for the registry endpoint in its requester's own name. It is asked for and answered, and never stored.
type RegistryToken struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec   RegistryTokenSpec
	Status RegistryTokenStatus
}

// RegistryTokenSpec says how long the token is to live.
type RegistryTokenSpec struct {
	ExpirationSeconds *int64
}

// RegistryTokenStatus is the token, and where it is good.
type RegistryTokenStatus struct {
	Token               string
	ExpirationTimestamp metav1.Time
	Registry            RegistryEndpoint
}

// RegistryEndpoint is where a registry is reached, and how its certificate is verified.
type RegistryEndpoint struct {
	Host     string
	CABundle []byte
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// RegistryKey is a key that signs tokens for the registry endpoint. It is stored for the servers of one etcd, and never served.
type RegistryKey struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	Spec RegistryKeySpec
}

// RegistryKeySpec is the key, and when it signs.
type RegistryKeySpec struct {
	PrivateKey []byte
	SignsFrom  metav1.Time
	SignsUntil metav1.Time
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// RegistryKeyList is a list of RegistryKeys.
type RegistryKeyList struct {
	metav1.TypeMeta
	metav1.ListMeta

	Items []RegistryKey
}
