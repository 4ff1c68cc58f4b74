// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// A right is what somebody needs to push or to pull, as RBAC names it.
type right struct{ doing, verb string }

var (
	toPush = right{doing: "push to", verb: "update"}
	toPull = right{doing: "pull", verb: "get"}
)

// maxSaid is how much is shown of what somebody else said, in bytes.
const maxSaid = 1 << 10

// transferError says why an image could not be moved.
func transferError(ctx context.Context, session *session, name remoteName, need right, err error) error {
	var copying *oras.CopyError
	var known *failure
	var interrupted interruption
	local := errors.As(err, &copying) && copying.Origin == oras.CopyErrorOriginSource && need == toPush
	rights := fmt.Sprintf("that needs the right to %s images/layers in the namespace %s", need.verb, name.namespace)
	ask := fmt.Sprintf("See: kubectl auth can-i %s images.tagger.dev/%s --subresource=layers --namespace %s", need.verb, name.name, name.namespace)
	switch code := statusOf(err); {
	case errors.As(err, &interrupted):
		return interrupted
	case ctx.Err() != nil:
		return interruption("what was moved already is not moved again by the same command")
	case errors.As(err, &known):
		return known
	case local && errors.Is(err, errdef.ErrNotFound):
		return &failure{
			err:  fmt.Errorf("the source names what it does not have: %w", copying.Err),
			hint: "Where it has only some of its platforms, choose one: --platform=OS/ARCHITECTURE",
		}
	case local:
		return fmt.Errorf("reading the source: %w", copying.Err)
	case need == toPull && (code == http.StatusNotFound || errors.Is(err, errdef.ErrNotFound)):
		return &failure{
			err:  fmt.Errorf("there is no %s, or you may not pull it: %s", name, rights),
			hint: fmt.Sprintf("See: kubectl image history %s --namespace %s\nIn a cluster also: %s", name.name, name.namespace, strings.TrimPrefix(ask, "See: ")),
		}
	case mayLackRight(err) && session.lacks(ctx, need, name):
		return &failure{err: fmt.Errorf("you may not %s %s: %s%s", need.doing, name.repository(), rights, inBrackets(said(err))), hint: ask}
	default:
		return fmt.Errorf("could not %s %s: %s", need.doing, name, why(err))
	}
}

// mayLackRight says whether an image was refused as it is to who has not the right, which a registry also does for other reasons.
// What one may not see is answered as what is not there.
func mayLackRight(err error) bool {
	switch statusOf(err) {
	case http.StatusUnauthorized, http.StatusForbidden:
		return true
	}
	return saysCode(err, errcode.ErrorCodeNameUnknown)
}

// lacks asks the cluster whether the user has not the right to do something with an image. No answer is none.
func (s *session) lacks(ctx context.Context, need right, name remoteName) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	review := authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: need.verb, Namespace: name.namespace, Name: name.name,
			Group: v1beta1.GroupName, Resource: "images", Subresource: "layers",
		},
	}}
	review.SetGroupVersionKind(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"))
	question, err := json.Marshal(review)
	if err != nil {
		return false
	}
	answer, err := s.RESTClient().Post().AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").
		SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(question).DoRaw(ctx)
	return err == nil && json.Unmarshal(answer, &review) == nil && !review.Status.Allowed
}

// saysCode says whether a registry refused by one of the codes of the specification.
func saysCode(err error, code string) bool {
	var answer *errcode.ErrorResponse
	return errors.As(err, &answer) && len(answer.Errors) > 0 && answer.Errors[0].Code == code
}

// statusOf returns the code by which a registry or Kubernetes refused, 0 where none did.
func statusOf(err error) int {
	var answer *errcode.ErrorResponse
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &answer):
		return answer.StatusCode
	case errors.As(err, &status):
		return int(status.Status().Code)
	}
	return 0
}

// said returns what a registry or Kubernetes said, empty where that was nothing but a number.
func said(err error) string {
	var answer *errcode.ErrorResponse
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &answer) && len(answer.Errors) > 0:
		return shown(answer.Errors[0].Message)
	case errors.As(err, &status):
		return shown(status.Status().Message)
	}
	return ""
}

// shown returns what somebody else said as a part of a line: in any language, of bounded length, and without what controls a
// terminal or the direction of writing.
func shown(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid-len("…")], "") + "…"
	}
	return text
}

func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// why says in a few words why something failed, without the address that was asked.
func why(err error) string {
	if text := said(err); text != "" {
		return text
	}
	var answer *errcode.ErrorResponse
	var unreached *url.Error
	var copying *oras.CopyError
	switch {
	case errors.As(err, &answer):
		return fmt.Sprintf("the registry answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	case errors.As(err, &unreached) && silent(err):
		return strings.Replace(host(unreached), throughHost, "kube-apiserver", 1) + " does not answer"
	case errors.As(err, &unreached):
		return unreached.Err.Error()
	case errors.As(err, &copying):
		return copying.Err.Error()
	}
	return err.Error()
}
