// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

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
var verbs = map[distribution.Action]string{distribution.ActionPull: "get"}

// Authorize implements distribution.Authorizer.
func (l *layersAuthorizer) Authorize(ctx context.Context, creds distribution.Credentials, repo distribution.Repository,
	action distribution.Action) error {
	if creds.Token == "" {
		return distribution.ErrUnauthenticated
	}
	caller, known, err := l.tokens.AuthenticateToken(ctx, creds.Token)
	switch {
	case err != nil:
		return fmt.Errorf("reviewing a token: %w", err)
	case !known:
		return distribution.ErrUnauthenticated
	case repo == distribution.Repository{}:
		return nil
	}
	verb, known := verbs[action]
	if !known {
		return distribution.ErrDenied
	}
	decision, _, err := l.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: caller.User, Verb: verb, Namespace: repo.Namespace, Name: repo.Name, ResourceRequest: true,
		APIGroup: v1beta1.SchemeGroupVersion.Group, APIVersion: v1beta1.SchemeGroupVersion.Version, Resource: "images", Subresource: "layers",
	})
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return fmt.Errorf("authorising %s of images/layers: %w", verb, err)
	}
	return distribution.ErrDenied
}
