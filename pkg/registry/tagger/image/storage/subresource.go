// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
)

const (
	// maxWait is how long a call waits for an outcome at most. Stock Kubernetes ends a create after 34 seconds.
	maxWait = 25 * time.Second
	// answerTime is what is left of the request's own deadline to answer in.
	answerTime = 2 * time.Second
	// maxWaitsPerUser is how many of a user's calls to one subresource wait at once; a further one does not wait, so that
	// waiting never fills the server.
	maxWaitsPerUser = 16
)

// waitUntil returns when a call that began at a time must end what it waits for.
func waitUntil(ctx context.Context, began time.Time) time.Time {
	end := began.Add(maxWait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-answerTime).Before(end) {
		end = deadline.Add(-answerTime)
	}
	return end
}

// userName returns who makes the request.
func userName(ctx context.Context) string {
	if info, ok := request.UserFrom(ctx); ok {
		return info.GetName()
	}
	return ""
}

// matchPath checks that the body of a subresource names nothing else than the path does; hint is added to what is said of its
// name.
func matchPath(body *metav1.ObjectMeta, namespace, name, hint string) field.ErrorList {
	var errs field.ErrorList
	if body.Name != "" && body.Name != name {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), body.Name,
			fmt.Sprintf("must be absent or the name of the Image, %q%s", name, hint)))
	}
	if body.Namespace != "" && body.Namespace != namespace {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "namespace"), body.Namespace,
			fmt.Sprintf("must be absent or the namespace of the request, %q", namespace)))
	}
	return errs
}
