// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/apiserver/certificate"
)

const namespace = "tagger"

func secret(t *testing.T) *corev1.Secret {
	t.Helper()
	authority, err := certificate.NewAuthority(clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: AuthoritySecret, Namespace: namespace, Annotations: map[string]string{"kept": "yes"}},
		Data:       map[string][]byte{"tls.crt": authority.CertificatePEM(), "tls.key": authority.KeyPEM()},
	}
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	now := time.Now()
	empty := secret(t)
	empty.Data = nil
	broken := secret(t)
	broken.Data["tls.key"] = []byte("SECRET")
	tests := []struct {
		name   string
		secret *corev1.Secret
		// faster is another replica, whose write comes first.
		faster bool
		same   bool // as in the Secret before
		at     time.Time
		err    bool
	}{
		{name: "none yet"},
		{name: "an empty one of the installation", secret: empty},
		{name: "kept", secret: secret(t), same: true},
		{name: "expired", secret: secret(t), at: now.AddDate(11, 0, 0)},
		{name: "another replica makes it first", faster: true},
		{name: "another replica fills it first", secret: empty, faster: true},
		{name: "broken", secret: broken, err: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.at.IsZero() {
				tt.at = now
			}
			client := fake.NewClientset()
			if tt.secret != nil {
				if err := client.Tracker().Add(tt.secret.DeepCopy()); err != nil {
					t.Fatal(err)
				}
			}
			theirs := secret(t)
			if tt.faster {
				race := func(clienttesting.Action) (bool, runtime.Object, error) {
					if tt.secret != nil {
						if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("secrets"), theirs, namespace); err != nil {
							return true, nil, err
						}
						return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), AuthoritySecret, errors.New("changed"))
					}
					if err := client.Tracker().Add(theirs); err != nil {
						return true, nil, err
					}
					return true, nil, apierrors.NewAlreadyExists(corev1.Resource("secrets"), AuthoritySecret)
				}
				client.PrependReactor("create", "secrets", race)
				client.PrependReactor("update", "secrets", race)
			}
			authority, err := Authority(t.Context(), client.CoreV1().Secrets(namespace), clocktesting.NewFakePassiveClock(tt.at))
			if tt.err {
				if err == nil || bytes.Contains([]byte(err.Error()), []byte("SECRET")) {
					t.Errorf("got %v, want an error that says nothing of the key", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			stored, err := client.CoreV1().Secrets(namespace).Get(t.Context(), AuthoritySecret, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(stored.Data["tls.crt"], authority.CertificatePEM()) || !bytes.Equal(stored.Data["tls.key"], authority.KeyPEM()) {
				t.Error("what is stored is another authority")
			}
			if tt.secret != nil && !tt.faster {
				if got := bytes.Equal(tt.secret.Data["tls.crt"], authority.CertificatePEM()); got != tt.same {
					t.Errorf("the authority of before: %t, want %t", got, tt.same)
				}
				if stored.Annotations["kept"] != "yes" {
					t.Error("the Secret lost what else it had")
				}
			}
			if tt.faster && !bytes.Equal(theirs.Data["tls.crt"], authority.CertificatePEM()) {
				t.Error("the replicas have two authorities")
			}
		})
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	const name = "v1beta1.tagger.dev"
	bundle := []byte("-----BEGIN CERTIFICATE-----")
	service := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": name}, "spec": spec,
		}}
	}
	tests := []struct {
		name    string
		service *unstructured.Unstructured
		want    map[string]any // the spec afterwards
		changed bool
	}{
		{name: "there is none"},
		{name: "empty", service: service(map[string]any{"group": "tagger.dev"}), changed: true,
			want: map[string]any{"group": "tagger.dev", "caBundle": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"}},
		{name: "another one", service: service(map[string]any{"caBundle": "b3RoZXI="}), changed: true,
			want: map[string]any{"caBundle": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"}},
		{name: "none wanted", service: service(map[string]any{"insecureSkipTLSVerify": true}), changed: true,
			want: map[string]any{"caBundle": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"}},
		{name: "as it should be", service: service(map[string]any{"caBundle": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"}),
			want: map[string]any{"caBundle": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
				map[schema.GroupVersionResource]string{apiServices: "APIServiceList"})
			if tt.service != nil {
				if _, err := client.Resource(apiServices).Create(t.Context(), tt.service, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			changed, err := trust(t.Context(), client, name, bundle)
			if err != nil || changed != tt.changed {
				t.Errorf("changed: %t, %v; want %t", changed, err, tt.changed)
			}
			if tt.service == nil {
				return
			}
			got, err := client.Resource(apiServices).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.Object["spec"]); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	// A token for some audiences, in the ways that it may say so.
	of := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmVk"
	}
	tests := []struct {
		name, token string
		reviewer    string   // "old" knows no audiences, "down" fails
		refused     bool     // by kube-apiserver
		audiences   []string // that are asked for
		known       bool
	}{
		{name: "for the API", token: of(`{"aud":["https://kubernetes.default.svc"]}`), known: true},
		{name: "without audience", token: of(`{}`), known: true},
		{name: "no JSON Web Token", token: "good", known: true},
		{name: "claims that cannot be read", token: "a.!.b", known: true},
		{name: "claims that are none", token: of(`[]`), known: true},
		{name: "an audience that is none", token: of(`{"aud":1}`), known: true},
		{name: "not good", token: "bad", refused: true},
		{name: "kube-apiserver fails", token: "good", reviewer: "down"},
		{name: "for us", token: of(`{"aud":["tagger.dev"]}`), audiences: []string{"tagger.dev"}, known: true},
		{name: "for us alone, as a string", token: of(`{"aud":"tagger.dev"}`), audiences: []string{"tagger.dev"}, known: true},
		{name: "for the endpoint by its name", token: of(`{"aud":["registry.example.com:5000"]}`), audiences: []string{"registry.example.com:5000"}, known: true},
		{name: "for us and others", token: of(`{"aud":["vault","tagger.dev","registry.example.com:5000"]}`),
			audiences: []string{"tagger.dev", "registry.example.com:5000"}, known: true},
		{name: "for others", token: of(`{"aud":["vault"]}`), refused: true},
		{name: "for another one that begins alike", token: of(`{"aud":["tagger.dev.example.com"]}`), refused: true},
		{name: "for us, and nobody who reviews knows audiences", token: of(`{"aud":["tagger.dev"]}`), reviewer: "old", audiences: []string{"tagger.dev"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client := fake.NewClientset()
			var reviews atomic.Int32
			client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
				reviews.Add(1)
				review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
				if diff := cmp.Diff(tt.audiences, review.Spec.Audiences); diff != "" {
					t.Errorf("audiences that are asked for (-want +got):\n%s", diff)
				}
				if tt.reviewer == "down" {
					return true, nil, errors.New("down")
				}
				if tt.refused {
					review.Status.Error = "invalid bearer token"
					return true, review, nil
				}
				review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "alice", Groups: []string{"team"}}}
				if tt.reviewer != "old" {
					review.Status.Audiences = review.Spec.Audiences
				}
				return true, review, nil
			})
			tokens := Tokens(client.AuthenticationV1().TokenReviews(), []string{"tagger.dev", "registry.example.com:5000"}, time.Minute)
			want := int32(1) // what was answered is kept
			if tt.reviewer == "down" {
				want = 2
			}
			for range 2 {
				response, known, err := tokens.AuthenticateToken(t.Context(), tt.token)
				if known != tt.known || (err != nil) != (tt.reviewer == "down") {
					t.Errorf("known %t, %v", known, err)
				}
				if known && (response.User.GetName() != "alice" || !cmp.Equal([]string{"team"}, response.User.GetGroups())) {
					t.Errorf("it is of %+v", response.User)
				}
			}
			if got := reviews.Load(); got != want {
				t.Errorf("%d reviews, want %d", got, want)
			}
		})
	}
}

// FuzzClaimedAudiences: a token of any form is read without a panic, and of nothing that is not in it.
func FuzzClaimedAudiences(f *testing.F) {
	for _, claims := range []string{`{"aud":"a"}`, `{"aud":["a","b"]}`, `{"aud":{}}`, `{"aud":null}`, `[]`, ``} {
		f.Add("e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmVk")
	}
	f.Add("..")
	f.Add("abc")
	f.Fuzz(func(t *testing.T, token string) {
		if got := claimedAudiences(token); len(got) > len(token) {
			t.Errorf("%d audiences of %d bytes", len(got), len(token))
		}
	})
}

func TestWaitForAPIServer(t *testing.T) {
	t.Parallel()
	away, refuses := errors.New("connection refused"), apierrors.NewForbidden(corev1.Resource("configmaps"), "x", errors.New("no"))
	tests := []struct {
		name  string
		fails []error // of the attempts before there is an answer
		err   bool
	}{
		{name: "there"},
		{name: "later", fails: []error{away}},
		{name: "roles not known yet", fails: []error{away, refuses, apierrors.NewUnauthorized("who?"), refuses}},
		{name: "refused", fails: slices.Repeat([]error{refuses}, maxRefusals), err: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: "kube-system"}})
			asked := 0
			client.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
				if asked++; asked <= len(tt.fails) {
					return true, nil, tt.fails[asked-1]
				}
				return false, nil, nil
			})
			if err := waitForAPIServer(t.Context(), client, time.Millisecond); (err != nil) != tt.err {
				t.Errorf("got %v, want an error: %t", err, tt.err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WaitForAPIServer(ctx, fake.NewClientset()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}
