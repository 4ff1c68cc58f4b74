// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"tagger.dev/tagger/pkg/distribution"
)

// TestLayersAuthorizer asks as the registry endpoint does, and looks at what RBAC is asked.
func TestLayersAuthorizer(t *testing.T) {
	t.Parallel()
	down := errors.New("kube-apiserver is down")
	alice := &user.DefaultInfo{Name: "alice"}
	app := distribution.Repository{Namespace: "a", Name: "app"}
	asksTo := func(verb string) *authorizer.AttributesRecord {
		return &authorizer.AttributesRecord{User: alice, Verb: verb, Namespace: "a", Name: "app", ResourceRequest: true,
			APIGroup: "tagger.dev", APIVersion: "v1beta1", Resource: "images", Subresource: "layers"}
	}
	asks := asksTo("get")
	tests := []struct {
		name     string
		token    string
		repo     distribution.Repository
		action   distribution.Action
		decision authorizer.Decision
		err      error // of the decision
		want     error
		asked    *authorizer.AttributesRecord
	}{
		{name: "anonymous", repo: app, action: distribution.ActionPull, want: distribution.ErrUnauthenticated},
		{name: "a token of nobody", token: "bad", repo: app, action: distribution.ActionPull, want: distribution.ErrUnauthenticated},
		{name: "nobody knows", token: "down", repo: app, action: distribution.ActionPull, want: down},
		{name: "the endpoint itself", token: "alice"},
		{name: "allowed", token: "alice", repo: app, action: distribution.ActionPull, decision: authorizer.DecisionAllow, asked: asks},
		{name: "a push", token: "alice", repo: app, action: distribution.ActionPush, decision: authorizer.DecisionAllow, asked: asksTo("update")},
		{name: "a deletion", token: "alice", repo: app, action: distribution.ActionDelete, decision: authorizer.DecisionAllow, asked: asksTo("delete")},
		{name: "denied", token: "alice", repo: app, action: distribution.ActionPull, decision: authorizer.DecisionDeny, want: distribution.ErrDenied, asked: asks},
		{name: "no opinion", token: "alice", repo: app, action: distribution.ActionPull, decision: authorizer.DecisionNoOpinion, want: distribution.ErrDenied, asked: asks},
		{name: "no decision", token: "alice", repo: app, action: distribution.ActionPull, decision: authorizer.DecisionNoOpinion, err: down, want: down, asked: asks},
		{name: "what RBAC has no verb for", token: "alice", repo: app, action: "paint", want: distribution.ErrDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked *authorizer.AttributesRecord
			l := &layersAuthorizer{
				callers: &callers{own: newRing(), others: authenticator.TokenFunc(func(_ context.Context, token string) (*authenticator.Response, bool, error) {
					switch token {
					case "alice":
						return &authenticator.Response{User: alice}, true, nil
					case "down":
						return nil, false, down
					}
					return nil, false, nil
				})},
				authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
					record := a.(authorizer.AttributesRecord)
					asked = &record
					return tt.decision, "", tt.err
				}),
			}
			ctx, err := l.Authorize(t.Context(), distribution.Credentials{Token: tt.token}, tt.repo, tt.action)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err == nil {
				if caller, _ := request.UserFrom(ctx); caller != user.Info(alice) {
					t.Errorf("goes on for %v, want alice", caller)
				}
			}
			if diff := cmp.Diff(tt.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}
