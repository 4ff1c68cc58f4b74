// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package tagger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/install"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	registrykeystorage "tagger.dev/tagger/pkg/registry/tagger/registrykey/storage"
	registrytokenstorage "tagger.dev/tagger/pkg/registry/tagger/registrytoken/storage"
	"tagger.dev/tagger/pkg/token"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// newKeys returns the storage of keys below a prefix, as one replica of a server has it.
func newKeys(t *testing.T, prefix string) *registrykeystorage.Keys {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	keys, err := registrykeystorage.New(scheme, options{prefix: prefix, codec: serializer.NewCodecFactory(scheme).LegacyCodec(v1beta1.SchemeGroupVersion)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Destroy)
	return keys
}

// TestRegistryKeys has two servers on one etcd share their keys, and give them up.
func TestRegistryKeys(t *testing.T) {
	t.Parallel()
	prefix := fmt.Sprintf("/test-%d", prefixes.Add(1))
	clock := clocktesting.NewFakePassiveClock(noon)
	first, second := newKeys(t, prefix), newKeys(t, prefix)
	rings := []*token.Ring{token.NewRing(first, "registry.example", clock), token.NewRing(second, "registry.example", clock)}
	issue := func(r *token.Ring) string {
		t.Helper()
		value, _, err := r.Issue(t.Context(), token.Identity{Name: alice}, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	values := []string{issue(rings[0]), issue(rings[1])}
	for i, ring := range rings {
		if _, err := ring.Verify(t.Context(), values[1-i]); err != nil {
			t.Errorf("server %d: %v", i, err)
		}
	}
	keys, err := second.List(t.Context())
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	want := token.Key{Name: "2026-11-27", From: noon.Truncate(24 * time.Hour), Until: noon.Truncate(24 * time.Hour).Add(24 * time.Hour)}
	got := keys[0]
	got.Private = nil
	if diff := cmp.Diff(want, got, cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if err := first.Create(t.Context(), keys[0]); !errors.Is(err, token.ErrExists) {
		t.Errorf("creating it again: %v", err)
	}
	clock.SetTime(noon.Add(48 * time.Hour))
	issue(rings[0])
	if keys, err = second.List(t.Context()); err != nil || len(keys) != 1 || keys[0].Name != "2026-11-29" {
		t.Errorf("two days later: %v, %v", keys, err)
	}
	for range 2 {
		if err := first.Delete(t.Context(), "2026-11-29"); err != nil {
			t.Error(err)
		}
	}
}

// TestRegistryTokens asks for tokens.
func TestRegistryTokens(t *testing.T) {
	t.Parallel()
	ring := token.NewRing(newKeys(t, fmt.Sprintf("/test-%d", prefixes.Add(1))), "registry.example:5000", clocktesting.NewFakePassiveClock(noon))
	endpoint := tagger.RegistryEndpoint{Host: "registry.example:5000", CABundle: []byte("pem")}
	someone := &user.DefaultInfo{Name: alice, UID: "7", Groups: []string{"developers", user.AllAuthenticated}, Extra: map[string][]string{"scopes": {"a"}}}
	crowd := &user.DefaultInfo{Name: alice}
	for i := range 1000 {
		crowd.Groups = append(crowd.Groups, fmt.Sprintf("group-of-people-%d", i))
	}
	for _, tt := range []struct {
		name     string
		endpoint tagger.RegistryEndpoint
		who      user.Info
		seconds  *int64
		dryRun   bool
		admit    rest.ValidateObjectFunc
		want     time.Duration
		status   int
		message  string
	}{
		{name: "an hour", endpoint: endpoint, who: someone, seconds: ptr.To[int64](3600), want: time.Hour},
		{name: "a minute", endpoint: endpoint, who: someone, seconds: ptr.To[int64](60), want: time.Minute},
		{name: "without an authority", endpoint: tagger.RegistryEndpoint{Host: "registry.example"}, who: someone, seconds: ptr.To[int64](60), want: time.Minute},
		{name: "a dry run", endpoint: endpoint, who: someone, seconds: ptr.To[int64](60), dryRun: true, want: time.Minute},
		{name: "too short", endpoint: endpoint, who: someone, seconds: ptr.To[int64](1), status: 422, message: "spec.expirationSeconds"},
		{name: "of nobody", endpoint: endpoint, seconds: ptr.To[int64](60), status: 403, message: "anonymous"},
		{name: "of an anonymous caller", endpoint: endpoint, who: &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}},
			seconds: ptr.To[int64](60), status: 403, message: "anonymous"},
		{name: "of who is said not to be authenticated", endpoint: endpoint, who: &user.DefaultInfo{Name: alice, Groups: []string{user.AllUnauthenticated}},
			seconds: ptr.To[int64](60), status: 403, message: "anonymous"},
		{name: "of too many groups", endpoint: endpoint, who: crowd, seconds: ptr.To[int64](60), status: 403, message: "1000 groups"},
		{name: "of too many groups, as a dry run", endpoint: endpoint, who: crowd, seconds: ptr.To[int64](60), dryRun: true, status: 403, message: "1000 groups"},
		{name: "what a webhook refuses", endpoint: endpoint, who: someone, seconds: ptr.To[int64](60), status: 403, message: "not on a Friday",
			admit: func(context.Context, runtime.Object) error {
				return apierrors.NewForbidden(tagger.Resource("registrytokens"), "", errors.New("not on a Friday"))
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			if tt.who != nil {
				ctx = request.WithUser(ctx, tt.who)
			}
			asked := &tagger.RegistryToken{
				ObjectMeta: metav1.ObjectMeta{Name: "mine", UID: "1", Labels: map[string]string{"a": "b"}},
				Spec:       tagger.RegistryTokenSpec{ExpirationSeconds: tt.seconds}, Status: tagger.RegistryTokenStatus{Token: "forged"},
			}
			options := &metav1.CreateOptions{}
			if tt.dryRun {
				options.DryRun = []string{metav1.DryRunAll}
			}
			obj, err := registrytokenstorage.NewREST(ring, tt.endpoint).Create(ctx, asked, tt.admit, options)
			if tt.status != 0 {
				status := apierrors.APIStatus(nil)
				if !errors.As(err, &status) || status.Status().Code != int32(tt.status) || !strings.Contains(err.Error(), tt.message) {
					t.Fatalf("%v, want %d %q", err, tt.status, tt.message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := obj.(*tagger.RegistryToken)
			want := &tagger.RegistryToken{
				ObjectMeta: metav1.ObjectMeta{CreationTimestamp: got.CreationTimestamp},
				Spec:       tagger.RegistryTokenSpec{ExpirationSeconds: tt.seconds},
				Status:     tagger.RegistryTokenStatus{Token: got.Status.Token, ExpirationTimestamp: metav1.NewTime(noon.Add(tt.want)), Registry: tt.endpoint},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answered (-want +got):\n%s", diff)
			}
			if tt.dryRun {
				if got.Status.Token != "" {
					t.Error("a dry run has a token")
				}
				return
			}
			claims, err := ring.Verify(t.Context(), got.Status.Token)
			if err != nil {
				t.Fatal(err)
			}
			who := token.Identity{Name: alice, UID: "7", Groups: someone.Groups, Extra: someone.Extra}
			if diff := cmp.Diff(who, claims.Identity); diff != "" || claims.Access != nil {
				t.Errorf("is for (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRegistryTokenTable is of what is shown, where the token is not.
func TestRegistryTokenTable(t *testing.T) {
	t.Parallel()
	ring := token.NewRing(newKeys(t, "/unused"), "registry.example", clocktesting.NewFakePassiveClock(noon))
	answer := &tagger.RegistryToken{Status: tagger.RegistryTokenStatus{
		Token: "secret", ExpirationTimestamp: metav1.NewTime(noon), Registry: tagger.RegistryEndpoint{Host: "registry.example"},
	}}
	store := registrytokenstorage.NewREST(ring, answer.Status.Registry)
	table, err := store.ConvertToTable(t.Context(), answer, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{"registry.example", "2026-11-27T12:00:00Z"}, table.Rows[0].Cells); diff != "" || len(table.ColumnDefinitions) != 2 {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if table, err = store.ConvertToTable(t.Context(), answer, &metav1.TableOptions{NoHeaders: true}); err != nil || table.ColumnDefinitions != nil {
		t.Errorf("%v, %v", table, err)
	}
	if _, err := store.ConvertToTable(t.Context(), &tagger.Image{}, nil); err == nil {
		t.Error("an Image is shown as a RegistryToken")
	}
}
