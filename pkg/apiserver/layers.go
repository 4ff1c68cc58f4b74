// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
)

// layersAuthorizer lets whoever has a token of the cluster do at the registry endpoint what they may do with images/layers, the
// name that RBAC has for it.
type layersAuthorizer struct {
	tokens     authenticator.Token
	authorizer authorizer.Authorizer
}

// verbs are those of images/layers.
var verbs = map[distribution.Action]string{
	distribution.ActionPull: "get", distribution.ActionPush: "update", distribution.ActionDelete: "delete",
}

// Authorize implements distribution.Authorizer. The context that it returns has the user.
func (l *layersAuthorizer) Authorize(ctx context.Context, creds distribution.Credentials, repo distribution.Repository,
	action distribution.Action) (context.Context, error) {
	if creds.Token == "" {
		return nil, distribution.ErrUnauthenticated
	}
	caller, known, err := l.tokens.AuthenticateToken(ctx, creds.Token)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reviewing a token: %w", err)
	case !known:
		return nil, distribution.ErrUnauthenticated
	}
	ctx = request.WithUser(ctx, caller.User)
	if repo == (distribution.Repository{}) {
		return ctx, nil
	}
	verb, known := verbs[action]
	if !known {
		return nil, distribution.ErrDenied
	}
	decision, _, err := l.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: caller.User, Verb: verb, Namespace: repo.Namespace, Name: repo.Name, ResourceRequest: true,
		APIGroup: v1beta1.SchemeGroupVersion.Group, APIVersion: v1beta1.SchemeGroupVersion.Version, Resource: "images", Subresource: "layers",
	})
	switch {
	case decision == authorizer.DecisionAllow:
		return ctx, nil
	case err != nil:
		return nil, fmt.Errorf("authorising %s of images/layers: %w", verb, err)
	}
	return nil, distribution.ErrDenied
}
