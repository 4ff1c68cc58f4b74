// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +genclient
// +genclient:nonNamespaced
// +genclient:onlyVerbs=create
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// RegistryToken is what is posted to registrytokens: it asks for a token for the registry endpoint in the requester's own name, and
// is answered with the token, the address of the endpoint and the authority of its certificate. It is never stored, and cannot be
// taken back: a token ends by its time. What it may do at the endpoint is asked of the cluster at each use, as what the requester
// may do then. It is no credential of the Kubernetes API.
type RegistryToken struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. Nothing of it has an effect, and nothing is kept.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is asked for.
	// +optional
	Spec RegistryTokenSpec `json:"spec,omitempty"`
	// The token, and where it is good. Written by Tagger alone; what a client sends here is ignored.
	// +optional
	Status RegistryTokenStatus `json:"status,omitempty"`
}

// RegistryTokenSpec says how long the token is to live.
type RegistryTokenSpec struct {
	// How many seconds the token is good for, from 60 to 3600. Default 3600, an hour.
	// +optional
	// +default=ref(DefaultTokenExpirationSeconds)
	ExpirationSeconds *int64 `json:"expirationSeconds,omitempty"`
}

// RegistryTokenStatus is the token, and where it is good.
type RegistryTokenStatus struct {
	// The token: at the registry endpoint the password, with any user name, or a bearer token. Whoever has it is there, until it
	// ends, who asked for it. Absent in the answer to a dry run.
	// +optional
	Token string `json:"token,omitempty"`
	// When the token ends.
	// +optional
	ExpirationTimestamp metav1.Time `json:"expirationTimestamp,omitempty,omitzero"`
	// The registry endpoint that the token is for.
	// +optional
	Registry RegistryEndpoint `json:"registry,omitempty,omitzero"`
}

// RegistryEndpoint is where the registry endpoint is reached, and how its certificate is verified.
type RegistryEndpoint struct {
	// The address, HOST or HOST:PORT, as references to images begin with it: what the server has for --registry-external-host. The
	// endpoint speaks TLS.
	// +optional
	Host string `json:"host,omitempty"`
	// A PEM encoded CA bundle by which the endpoint's certificate verifies. Absent where that is of no authority of Tagger's own, but
	// was given to the server by --tls-cert-file. Clients trust it for this host beside those that they trust anyway: an ingress that
	// ends TLS has another certificate.
	// +optional
	CABundle []byte `json:"caBundle,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// RegistryKey is a key that signs the tokens for the registry endpoint. It is how servers on one etcd share it, and is served by no
// API: who may read it there could sign in anybody's name.
// +k8s:openapi-gen=false
type RegistryKey struct {
	metav1.TypeMeta `json:",inline"`
	// The name is the day, by UTC, on which the key signs.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The key, and when it signs.
	// +optional
	Spec RegistryKeySpec `json:"spec,omitempty"`
}

// RegistryKeySpec is a key, and when it signs.
// +k8s:openapi-gen=false
type RegistryKeySpec struct {
	// The private key, as PKCS #8 in DER: ECDSA on P-256.
	PrivateKey []byte `json:"privateKey"`
	// From when on it signs.
	SignsFrom metav1.Time `json:"signsFrom"`
	// Until when it signs. What it has signed is accepted longer: as long as a token may live.
	SignsUntil metav1.Time `json:"signsUntil"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// RegistryKeyList is a list of RegistryKeys.
// +k8s:openapi-gen=false
type RegistryKeyList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// The RegistryKeys.
	Items []RegistryKey `json:"items"`
}
