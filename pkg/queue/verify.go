// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/limit"
)

// verifyTimeout bounds a dry run, which answers within one request.
const verifyTimeout = 20 * time.Second

// Verify resolves what an import asks for and says in its status what it found; nothing is copied or recorded. A source that
// fails is no error: the status says so.
func (c *Controller) Verify(ctx context.Context, imp *v1beta1.ImageImport) *v1beta1.ImageImport {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	imp = imp.DeepCopy()
	out, err := c.verify(ctx, imp)
	now := metav1.NewTime(c.Clock.Now())
	out.ref.ImportedAt = now.Rfc3339Copy()
	imp.Status.StartTime, imp.Status.CompletionTime = &now, &now
	if err != nil {
		message := shorten(err.Error())
		imp.Status.ImportAttempts = []v1beta1.ImportAttempt{{When: now, Reason: message}}
		c.setCondition(&imp.Status.Conditions, imp.Generation, metav1.ConditionFalse, string(importer.KindOf(err)), message)
		return imp
	}
	reason, message := words(out)
	imp.Status.ImportAttempts = []v1beta1.ImportAttempt{{When: now, Succeed: true}}
	imp.Status.HashReference = &out.ref
	c.setCondition(&imp.Status.Conditions, imp.Generation, metav1.ConditionTrue, reason, message)
	return imp
}

// verify is an attempt that copies nothing. As many run at once as attempts may, of a namespace and at a host too.
func (c *Controller) verify(ctx context.Context, imp *v1beta1.ImageImport) (outcome, error) {
	ref, err := importer.ParseReference(imp.Spec.From)
	if err != nil {
		return outcome{}, err
	}
	done, err := limit.AcquireAll(ctx, limit.Place{Of: c.dryRunsOf, Key: imp.Namespace}, limit.Place{Of: c.dryRuns})
	if err != nil {
		return outcome{}, &importer.Error{Kind: importer.Timeout, Err: errors.New("the server is busy with other dry runs; try again later")}
	}
	defer done()
	release, err := c.acquire(ctx, ref)
	if err != nil {
		return outcome{}, err
	}
	defer release()
	var history []v1beta1.HashReference
	image, err := c.Client.TaggerV1beta1().Images(imp.Namespace).Get(ctx, imp.Spec.TargetImage, metav1.GetOptions{})
	switch {
	case err == nil:
		history = image.Status.HashReferences
	case !apierrors.IsNotFound(err): // it would be created
		return outcome{}, err
	}
	return c.attempt(ctx, request{
		namespace: imp.Namespace, image: imp.Spec.TargetImage, importUID: imp.UID, from: imp.Spec.From,
		mirror: ptr.Deref(imp.Spec.Mirror, false), insecure: ptr.Deref(imp.Spec.Insecure, false), verify: true,
	}, history, func(importer.Progress) {})
}

// acquire waits for a place at the host of a reference, for something else than an attempt, as long as ctx lives.
func (c *Controller) acquire(ctx context.Context, ref importer.Reference) (release func(), err error) {
	if release, err = c.hosts.Acquire(ctx, ref.Registry()); err != nil {
		return nil, &importer.Error{Kind: importer.Timeout, Err: fmt.Errorf("%s is busy with other imports; try again later", ref.Host())}
	}
	return release, nil
}
