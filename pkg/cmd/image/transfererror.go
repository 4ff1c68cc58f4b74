// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// A right is what somebody needs to push or to pull, as RBAC names it.
type right struct{ doing, verb string }

var (
	toPush = right{doing: "push to", verb: "update"}
	toPull = right{doing: "pull", verb: "get"}
)

// transferError says why an image could not be moved.
func transferError(ctx context.Context, name remoteName, need right, err error) error {
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
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return &failure{err: fmt.Errorf("you may not %s %s: %s%s", need.doing, name.repository(), rights, inBrackets(said(err))), hint: ask}
	case code == http.StatusNotFound || errors.Is(err, errdef.ErrNotFound):
		if need == toPull {
			return &failure{
				err:  fmt.Errorf("there is no %s, or you may not pull it: %s", name, rights),
				hint: fmt.Sprintf("See: kubectl image history %s --namespace %s\nIn a cluster also: %s", name.name, name.namespace, strings.TrimPrefix(ask, "See: ")),
			}
		}
		return &failure{err: fmt.Errorf("you may not push to %s, or there is no such namespace: %s", name.repository(), rights), hint: ask}
	default:
		return fmt.Errorf("could not %s %s: %s", need.doing, name, why(err))
	}
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
		return answer.Errors[0].Message
	case errors.As(err, &status):
		return status.Status().Message
	}
	return ""
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
