// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apiserver/certificate"
)

// AuthoritySecret is the name of the Secret that the replicas share their
// certificate authority in. It lies in Tagger's namespace, with the keys of the
// type kubernetes.io/tls.
const AuthoritySecret = "tagger-ca"

// Authority returns the authority that the Secret holds. Whoever comes first
// makes it, in the Secret that the installation left empty or, where that is
// missing, in a new one. An authority whose time is over is replaced.
func Authority(ctx context.Context, secrets corev1client.SecretInterface, clk clock.PassiveClock) (*certificate.Authority, error) {
	var authority *certificate.Authority
	err := retry.OnError(retry.DefaultBackoff, func(err error) bool {
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) // another replica was faster
	}, func() (err error) {
		authority, err = authorityOf(ctx, secrets, clk)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the certificate authority in the Secret %s: %w", AuthoritySecret, err)
	}
	return authority, nil
}

func authorityOf(ctx context.Context, secrets corev1client.SecretInterface, clk clock.PassiveClock) (*certificate.Authority, error) {
	secret, err := secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return nil, err
	}
	if !missing && len(secret.Data[corev1.TLSCertKey]) > 0 {
		authority, err := certificate.ReadAuthority(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], clk)
		if !errors.Is(err, certificate.ErrExpired) {
			return authority, err
		}
	}
	authority, err := certificate.NewAuthority(clk)
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{corev1.TLSCertKey: authority.CertificatePEM(), corev1.TLSPrivateKeyKey: authority.KeyPEM()}
	if missing {
		_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: AuthoritySecret}, Data: data}, metav1.CreateOptions{})
		return authority, err
	}
	secret.Data = data
	_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	return authority, err
}

// apiServices is what an APIService is, for a client that does not know its type.
var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// trustInterval is how often the APIService is looked at.
const trustInterval = time.Minute

// KeepTrust lets kube-apiserver verify this server by the authority's certificate,
// until ctx ends: it is the caBundle of the APIService of that name, and becomes
// it again when somebody changes that. While there is no APIService nothing is
// done.
func KeepTrust(ctx context.Context, client dynamic.Interface, name string, authority *certificate.Authority) {
	wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		switch changed, err := trust(ctx, client, name, authority.CertificatePEM()); {
		case ctx.Err() != nil:
		case err != nil:
			klog.FromContext(ctx).Error(err, "Could not write the CA bundle of the APIService", "apiService", name)
		case changed:
			klog.FromContext(ctx).Info("Wrote the CA bundle of the APIService", "apiService", name)
		}
	}, trustInterval, 0.2, true)
}

func trust(ctx context.Context, client dynamic.Interface, name string, bundle []byte) (changed bool, err error) {
	service, err := client.Resource(apiServices).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var current struct {
		Spec struct {
			CABundle              []byte `json:"caBundle"`
			InsecureSkipTLSVerify bool   `json:"insecureSkipTLSVerify"`
		} `json:"spec"`
	}
	if err := decode(service, &current); err != nil {
		return false, err
	}
	if bytes.Equal(current.Spec.CABundle, bundle) && !current.Spec.InsecureSkipTLSVerify {
		return false, nil
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": bundle, "insecureSkipTLSVerify": nil}})
	if err != nil {
		return false, err
	}
	_, err = client.Resource(apiServices).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "tagger-apiserver"})
	return err == nil, err
}

func decode(obj *unstructured.Unstructured, into any) error {
	raw, err := obj.MarshalJSON()
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
