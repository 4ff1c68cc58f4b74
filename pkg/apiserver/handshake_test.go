// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/token"
)

// oneKey is a store that keeps the keys it is given.
type oneKey struct{ keys *[]token.Key }

func (s oneKey) List(context.Context) ([]token.Key, error) { return *s.keys, nil }
func (s oneKey) Create(_ context.Context, key token.Key) error {
	*s.keys = append(*s.keys, key)
	return nil
}
func (oneKey) Delete(context.Context, string) error { return nil }

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func newRing() *token.Ring {
	return token.NewRing(oneKey{&[]token.Key{}}, "registry.example:5000", clocktesting.NewFakePassiveClock(noon))
}

// rights are what may be done, "USER VERB NAMESPACE/NAME"; who "down" is nobody knows.
type rights map[string]bool

func (r rights) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetNamespace() == "down" {
		return authorizer.DecisionNoOpinion, "", errors.New("kube-apiserver is down")
	}
	if a.GetResource()+"/"+a.GetSubresource() == "images/layers" && r[fmt.Sprintf("%s %s %s/%s", a.GetUser().GetName(), a.GetVerb(), a.GetNamespace(), a.GetName())] {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

var (
	repoApp   = distribution.Repository{Namespace: "a", Name: "app"}
	repoOther = distribution.Repository{Namespace: "b", Name: "other"}
	repoDown  = distribution.Repository{Namespace: "down", Name: "app"}
)

const (
	pull, push, del = distribution.ActionPull, distribution.ActionPush, distribution.ActionDelete
)

func everything(repo distribution.Repository) distribution.Scope {
	return distribution.Scope{Repository: repo, Actions: []distribution.Action{pull, push, del}}
}

// TestHandshake gets tokens and uses them.
func TestHandshake(t *testing.T) {
	t.Parallel()
	alice := &user.DefaultInfo{Name: "alice", UID: "7", Groups: []string{"developers"}, Extra: map[string][]string{"a": {"b"}}}
	clock := clocktesting.NewFakePassiveClock(noon)
	ring := token.NewRing(oneKey{&[]token.Key{}}, "registry.example:5000", clock)
	who := &callers{own: ring, others: authenticator.TokenFunc(func(_ context.Context, value string) (*authenticator.Response, bool, error) {
		switch value {
		case "alice":
			return &authenticator.Response{User: alice}, true, nil
		case "many":
			info := &user.DefaultInfo{Name: "many"}
			for i := range 2000 {
				info.Groups = append(info.Groups, fmt.Sprintf("group-%d", i))
			}
			return &authenticator.Response{User: info}, true, nil
		case "flood":
			return nil, false, distribution.ErrTooMany
		}
		return nil, false, nil
	})}
	allowed := rights{"alice get a/app": true, "alice update a/app": true, "alice get b/other": false}
	may := authorizer.AuthorizerFunc(allowed.authorize)
	shake, authorize := &handshake{who, may}, &layersAuthorizer{who, may}
	issue := func(access *[]token.Access, lifetime time.Duration) string {
		value, _, err := ring.Issue(t.Context(), token.Identity{Name: "alice", UID: "7", Groups: alice.Groups, Extra: alice.Extra}, access, lifetime)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	get := func(value string, scopes ...distribution.Scope) (distribution.Token, error) {
		return shake.Token(t.Context(), distribution.Credentials{Username: "any", Token: value}, scopes)
	}

	both := []distribution.Scope{{Repository: repoApp, Actions: []distribution.Action{pull, push}}}
	for _, tt := range []struct {
		name    string
		value   string
		scopes  []distribution.Scope
		want    []distribution.Scope
		expires time.Duration
		err     error
	}{
		{name: "what may be done", value: "alice", scopes: []distribution.Scope{everything(repoApp), everything(repoOther)}, want: both, expires: 5 * time.Minute},
		{name: "for nothing", value: "alice", expires: 5 * time.Minute},
		{name: "of what may not be done", value: "alice", scopes: []distribution.Scope{everything(repoOther)}, expires: 5 * time.Minute},
		{name: "by a registry token", value: issue(nil, time.Hour), scopes: both, want: both, expires: 5 * time.Minute},
		{name: "by one that is about to end", value: issue(nil, time.Minute), scopes: both, want: both, expires: time.Minute},
		{name: "by one of the handshake", value: issue(&[]token.Access{}, time.Minute), scopes: both, err: distribution.ErrUnauthenticated},
		{name: "by nothing", err: distribution.ErrUnauthenticated},
		{name: "by a password", value: "secret", err: distribution.ErrUnauthenticated},
		{name: "by one that was changed", value: issue(nil, time.Hour) + "A", err: distribution.ErrUnauthenticated},
		{name: "among many others", value: "flood", err: distribution.ErrTooMany},
		{name: "of somebody in many groups", value: "many", err: distribution.ErrTokenTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) { // before the clock goes on
			got, err := get(tt.value, tt.scopes...)
			if !errors.Is(err, tt.err) || err == nil != (tt.err == nil) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, got.Scopes); diff != "" || !got.Expires.Equal(noon.Add(tt.expires)) || !got.IssuedAt.Equal(noon) {
				t.Errorf("from %s to %s, scopes (-want +got):\n%s", got.IssuedAt, got.Expires, diff)
			}
			ctx, err := authorize.Authorize(t.Context(), distribution.Credentials{Token: got.Value}, distribution.Repository{}, pull)
			if err != nil {
				t.Fatal(err)
			}
			caller, _ := request.UserFrom(ctx)
			if diff := cmp.Diff(user.Info(alice), caller); diff != "" {
				t.Errorf("is for (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := get("alice", everything(repoApp), everything(repoDown)); err == nil || errors.Is(err, distribution.ErrDenied) {
		t.Errorf("where nobody says who may: %v", err)
	}

	bound, err := get("alice", distribution.Scope{Repository: repoApp, Actions: []distribution.Action{pull}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		value  string
		repo   distribution.Repository
		action distribution.Action
		want   error
	}{
		"what it is bound to":                       {bound.Value, repoApp, pull, nil},
		"what its owner may do":                     {bound.Value, repoApp, push, distribution.ErrInsufficientScope},
		"what its owner may not do":                 {bound.Value, repoApp, del, distribution.ErrDenied},
		"another repository":                        {bound.Value, repoOther, pull, distribution.ErrDenied},
		"one that is bound to nothing":              {issue(nil, time.Hour), repoApp, push, nil},
		"one that is bound to nothing, by no right": {issue(nil, time.Hour), repoOther, pull, distribution.ErrDenied},
		"one that claims what its owner may not do": {issue(&[]token.Access{{Type: "repository", Name: "b/other", Actions: []string{"pull"}}}, time.Hour), repoOther, pull, distribution.ErrDenied},
		"one that is bound to something else of it": {issue(&[]token.Access{{Type: "registry", Name: "a/app", Actions: []string{"pull"}}}, time.Hour), repoApp, pull, distribution.ErrInsufficientScope},
		"a token of the cluster":                    {"alice", repoApp, push, nil},
		"one of another ring":                       {mustIssue(t, newRing()), repoApp, pull, distribution.ErrUnauthenticated},
	} {
		if _, err := authorize.Authorize(t.Context(), distribution.Credentials{Token: tt.value}, tt.repo, tt.action); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	allowed["alice get a/app"] = false
	if _, err := authorize.Authorize(t.Context(), distribution.Credentials{Token: bound.Value}, repoApp, pull); !errors.Is(err, distribution.ErrDenied) {
		t.Errorf("after the right was taken away: %v", err)
	}
	allowed["alice get a/app"] = true
	clock.SetTime(noon.Add(7 * time.Minute))
	if _, err := authorize.Authorize(t.Context(), distribution.Credentials{Token: bound.Value}, repoApp, pull); !errors.Is(err, distribution.ErrUnauthenticated) ||
		!strings.Contains(err.Error(), "the token has expired: get another one") {
		t.Errorf("after its end: %v", err)
	}
}

func mustIssue(t *testing.T, ring *token.Ring) string {
	t.Helper()
	value, _, err := ring.Issue(t.Context(), token.Identity{Name: "alice"}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return value
}
