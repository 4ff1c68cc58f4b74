// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
)

// layersAuthorizer lets whoever has a token of the cluster, or one of Tagger's own, do at the registry endpoint what they may do with
// images/layers, the name that RBAC has for it.
type layersAuthorizer struct {
	callers    *callers
	authorizer authorizer.Authorizer
}

// verbs are those of images/layers.
var verbs = map[distribution.Action]string{
	distribution.ActionPull: "get", distribution.ActionPush: "update", distribution.ActionDelete: "delete",
}

// Authorize implements distribution.Authorizer. The context that it returns has the user.
func (l *layersAuthorizer) Authorize(ctx context.Context, creds distribution.Credentials, repo distribution.Repository,
	action distribution.Action) (context.Context, error) {
	caller, err := l.callers.of(ctx, creds)
	if err != nil {
		return nil, err
	}
	ctx = request.WithUser(ctx, caller.user)
	if repo == (distribution.Repository{}) {
		return ctx, nil
	}
	if err := authorizeLayers(ctx, l.authorizer, caller.user, repo, action); err != nil {
		return nil, err
	}
	if !caller.boundTo(repo, action) {
		return nil, distribution.ErrInsufficientScope
	}
	return ctx, nil
}

// authorizeLayers returns nil where somebody may do something with a repository; what it returns else is for a
// distribution.Authorizer to return.
func authorizeLayers(ctx context.Context, authz authorizer.Authorizer, caller user.Info, repo distribution.Repository,
	action distribution.Action) error {
	verb, known := verbs[action]
	if !known {
		return distribution.ErrDenied
	}
	decision, _, err := authz.Authorize(ctx, authorizer.AttributesRecord{
		User: caller, Verb: verb, Namespace: repo.Namespace, Name: repo.Name, ResourceRequest: true,
		APIGroup: v1beta1.SchemeGroupVersion.Group, APIVersion: v1beta1.SchemeGroupVersion.Version, Resource: "images", Subresource: "layers",
	})
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return undecided("authorising "+verb+" of images/layers", err)
	}
	return distribution.ErrDenied
}
