// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"context"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"
)

// reviewTimeout bounds a review.
const reviewTimeout = 10 * time.Second

// Tokens has kube-apiserver review tokens, and keeps the answers for ttl. A token
// that it does not accept is not known; an error is of kube-apiserver, which the
// generic server's own client does not tell apart.
func Tokens(reviews authenticationv1client.TokenReviewInterface, ttl time.Duration) authenticator.Token {
	return cache.New(authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
		defer cancel()
		review, err := reviews.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil || !review.Status.Authenticated {
			return nil, false, err
		}
		who := review.Status.User
		info := &user.DefaultInfo{Name: who.Username, UID: who.UID, Groups: who.Groups, Extra: map[string][]string{}}
		for key, values := range who.Extra {
			info.Extra[key] = values
		}
		return &authenticator.Response{User: info}, true, nil
	}), false, ttl, ttl)
}
