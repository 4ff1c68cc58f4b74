// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
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
// generic server's own client does not tell apart, or says that too many tokens
// that are not kept come at once.
//
// A token is good that was made for one of the audiences, or for the API itself,
// as tokens are where nothing else was asked for. One for anybody else is not,
// who could use it here otherwise.
func Tokens(reviews authenticationv1client.TokenReviewInterface, audiences []string, ttl time.Duration) authenticator.Token {
	return cache.New(bounded(authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
		defer cancel()
		// Without audiences it is reviewed for those of the API, which only kube-apiserver knows.
		meant := intersect(audiences, claimedAudiences(token))
		review, err := reviews.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: meant}}, metav1.CreateOptions{})
		if err != nil || !review.Status.Authenticated {
			return nil, false, err
		}
		// Who reviews and knows no audiences says so by naming none.
		if len(meant) > 0 && len(intersect(meant, review.Status.Audiences)) == 0 {
			return nil, false, nil
		}
		who := review.Status.User
		info := &user.DefaultInfo{Name: who.Username, UID: who.UID, Groups: who.Groups, Extra: map[string][]string{}}
		for key, values := range who.Extra {
			info.Extra[key] = values
		}
		return &authenticator.Response{User: info}, true, nil
	})), false, ttl, ttl)
}

// claimedAudiences returns for whom a JSON Web Token says that it was made, RFC 7519, section 4.1.3; nobody where it is none. It
// decides what is asked, not what is believed: the signature is for kube-apiserver.
func claimedAudiences(token string) []string {
	_, rest, _ := strings.Cut(token, ".")
	encoded, _, signed := strings.Cut(rest, ".")
	if !signed {
		return nil
	}
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil
	}
	var claims struct {
		Audience json.RawMessage `json:"aud"`
	}
	if err := json.Unmarshal(data, &claims); err != nil {
		return nil
	}
	var one string
	if err := json.Unmarshal(claims.Audience, &one); err == nil {
		return []string{one}
	}
	var several []string
	if err := json.Unmarshal(claims.Audience, &several); err != nil {
		return nil
	}
	return several
}

// intersect returns what is in both.
func intersect(a, b []string) []string {
	var both []string
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}
