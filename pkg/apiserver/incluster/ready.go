// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package incluster

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	// readyInterval is how often kube-apiserver is asked whether it is there.
	readyInterval = time.Second
	// maxRefusals is how often it may refuse, one time after another: while it
	// starts it does not know all of its accounts and roles yet.
	maxRefusals = 60
	// sayInterval is how often the log says that it is not.
	sayInterval = 15 * time.Second
)

// WaitForAPIServer returns when kube-apiserver answers what a delegating server
// reads there first: how it authenticates clients and itself. A server that is
// started before kube-apiserver waits in place of failing. What waiting does not
// mend is an error: refusals that go on for a minute, or the end of ctx.
func WaitForAPIServer(ctx context.Context, client kubernetes.Interface) error {
	return waitForAPIServer(ctx, client, readyInterval)
}

func waitForAPIServer(ctx context.Context, client kubernetes.Interface, interval time.Duration) error {
	const name = "extension-apiserver-authentication"
	said, refusals := time.Time{}, 0
	var last error
	err := wait.PollUntilContextCancel(ctx, interval, true, func(ctx context.Context) (bool, error) {
		_, last = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
		switch {
		case last == nil:
			return true, nil
		case !apierrors.IsForbidden(last) && !apierrors.IsUnauthorized(last):
			refusals = 0
		default:
			refusals++
		}
		if refusals >= maxRefusals {
			return false, fmt.Errorf("reading ConfigMap %s in %s, which needs the Role extension-apiserver-authentication-reader there: %w",
				name, metav1.NamespaceSystem, last)
		}
		if now := time.Now(); now.Sub(said) >= sayInterval {
			said = now
			klog.FromContext(ctx).Info("Waiting for kube-apiserver", "err", last)
		}
		return false, nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("waiting for kube-apiserver: %w", ctx.Err())
	}
	return err
}
