// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage serves registrytokens, of which nothing is stored: whoever creates one is answered with a token for the registry
// endpoint in their own name, and with where that is.
package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	"tagger.dev/tagger/pkg/token"
)

// Issuer issues tokens. A *token.TooLargeError is of the user; any other error of the server.
type Issuer interface {
	// Issue returns a token for somebody and what it says.
	Issue(ctx context.Context, who token.Identity, access *[]token.Access, lifetime time.Duration) (string, token.Claims, error)
	// Check returns what a token would say, and fails where Issue would because of that.
	Check(who token.Identity, access *[]token.Access, lifetime time.Duration) (token.Claims, error)
}

// REST serves registrytokens.
type REST struct {
	issuer   Issuer
	endpoint tagger.RegistryEndpoint
}

var (
	_ rest.Creater              = &REST{}
	_ rest.Scoper               = &REST{}
	_ rest.SingularNameProvider = &REST{}
	_ rest.TableConvertor       = &REST{}
)

// NewREST returns the storage of registrytokens, tokens for an endpoint.
func NewREST(issuer Issuer, endpoint tagger.RegistryEndpoint) *REST {
	return &REST{issuer: issuer, endpoint: endpoint}
}

// New returns an empty RegistryToken.
func (*REST) New() runtime.Object { return &tagger.RegistryToken{} }

// Destroy does nothing: nothing is owned.
func (*REST) Destroy() {}

// NamespaceScoped is false: a token is good in every namespace in which its user has rights.
func (*REST) NamespaceScoped() bool { return false }

// GetSingularName returns the name of one.
func (*REST) GetSingularName() string { return "registrytoken" }

// Create answers with a token.
func (r *REST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (
	runtime.Object, error) {
	asked := obj.(*tagger.RegistryToken)
	answer := &tagger.RegistryToken{Spec: *asked.Spec.DeepCopy()}
	rest.FillObjectMetaSystemFields(answer)
	answer.UID = "" // there is no such object
	if errs := validation.ValidateRegistryToken(answer); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tagger.Kind("RegistryToken"), "", errs)
	}
	who, err := requester(ctx)
	if err != nil {
		return nil, err
	}
	if createValidation != nil {
		if err := createValidation(ctx, answer.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	lifetime := time.Duration(*answer.Spec.ExpirationSeconds) * time.Second
	var claims token.Claims
	if len(options.DryRun) > 0 {
		claims, err = r.issuer.Check(who, nil, lifetime)
	} else {
		answer.Status.Token, claims, err = r.issuer.Issue(ctx, who, nil, lifetime)
	}
	if tooLarge := (*token.TooLargeError)(nil); errors.As(err, &tooLarge) {
		return nil, apierrors.NewForbidden(tagger.Resource("registrytokens"), "", fmt.Errorf("%w; use the token of a service account", err))
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	answer.Status.ExpirationTimestamp = metav1.NewTime(claims.Expires)
	answer.Status.Registry = *r.endpoint.DeepCopy()
	return answer, nil
}

// requester returns who makes a request: whoever the request impersonates, where it does.
func requester(ctx context.Context) (token.Identity, error) {
	caller, ok := request.UserFrom(ctx)
	if !ok || caller.GetName() == "" || caller.GetName() == user.Anonymous || slices.Contains(caller.GetGroups(), user.AllUnauthenticated) {
		return token.Identity{}, apierrors.NewForbidden(tagger.Resource("registrytokens"), "",
			errors.New("a token is of somebody, and this request is anonymous: authenticate"))
	}
	return token.Identity{Name: caller.GetName(), UID: caller.GetUID(), Groups: caller.GetGroups(), Extra: caller.GetExtra()}, nil
}

var columns = []metav1.TableColumnDefinition{
	{Name: "Registry", Type: "string", Description: "The registry endpoint that the token is for."},
	{Name: "Expires", Type: "string", Format: "date-time", Description: "When the token ends."},
}

// ConvertToTable shows where the token is good and until when, and not the token.
func (*REST) ConvertToTable(_ context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	answer, ok := object.(*tagger.RegistryToken)
	if !ok {
		return nil, fmt.Errorf("%T cannot be shown as a table of RegistryTokens", object)
	}
	table := &metav1.Table{Rows: []metav1.TableRow{{
		Cells:  []any{answer.Status.Registry.Host, answer.Status.ExpirationTimestamp.UTC().Format(time.RFC3339)},
		Object: runtime.RawExtension{Object: answer},
	}}}
	if options, ok := tableOptions.(*metav1.TableOptions); !ok || !options.NoHeaders {
		table.ColumnDefinitions = columns
	}
	return table, nil
}
