// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

const (
	// refreshJitter is the part of its interval by which a refresh comes later at most. How much it is depends on the Image alone.
	refreshJitter = 0.1
	// firstRefresh bounds how long an Image waits for its first import, of which nothing has been tried yet.
	firstRefresh = time.Minute
	// missedRefresh bounds how long after its start a server refreshes what became due before: one that is often restarted does too.
	missedRefresh = 10 * time.Minute
	// lookAgain bounds how long a schedule is not looked at, by a timer that knows of no change of the clock, nor whether the Image is
	// there.
	lookAgain = 30 * time.Minute
	// refreshTaken is after which time a refresh is created whose name is taken, unless it goes on or has ended then.
	refreshTaken = time.Minute
	// refreshTTL bounds how long a finished refresh is kept.
	refreshTTL = 5 * time.Minute
)

// errUnwanted is why a refresh ends that the Image does not ask for any more; it is deleted.
var errUnwanted = errors.New("the Image does not ask for this refresh any more")

// refreshes reports whether an Image is imported on a schedule.
func refreshes(image *v1beta1.Image) bool {
	return image.Spec.RefreshInterval != nil && !image.Spec.Suspend && image.Spec.From != "" && image.DeletionTimestamp == nil
}

// reschedules reports whether a change of an Image has its schedule looked at. What it says of a refused refresh does not, which
// would be tried again at once.
func reschedules(old, image *v1beta1.Image) bool {
	return old.UID != image.UID || !apiequality.Semantic.DeepEqual(old.Spec, image.Spec) || (old.DeletionTimestamp == nil) != (image.DeletionTimestamp == nil) ||
		!lastAttempt(&old.Status).Equal(lastAttempt(&image.Status))
}

// isRefresh reports whether a schedule asked for an import.
func isRefresh(imp *v1beta1.ImageImport) bool {
	_, ok := imp.Labels[v1beta1.LabelRefresh]
	return ok
}

// wanted reports whether an Image still asks for an import. It always does where somebody else than the schedule did.
func wanted(imp *v1beta1.ImageImport, image *v1beta1.Image) bool {
	return !isRefresh(imp) || refreshes(image) && imp.Spec.From == image.Spec.From
}

// lastAttempt returns when an Image was last imported, or that was tried; the zero time for never.
func lastAttempt(status *v1beta1.ImageStatus) time.Time {
	last := ptr.Deref(status.LastAttemptTime, metav1.Time{}).Time
	if len(status.HashReferences) > 0 && status.HashReferences[0].ResolvedAt.After(last) {
		last = status.HashReferences[0].ResolvedAt.Time
	}
	return last
}

// syncRefresh imports an Image whose refresh is due, and returns after which time to look at it again; 0 for not before it or one
// of its imports changes.
func (c *Controller) syncRefresh(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	obj, exists, err := c.images.GetIndexer().GetByKey(key.String())
	if err != nil || !exists {
		return 0, err
	}
	image := obj.(*v1beta1.Image)
	imports, err := c.imports.GetIndexer().ByIndex(byImage, key.String())
	if err != nil {
		return 0, err
	}
	busy, again := false, time.Duration(0)
	for _, obj := range imports {
		imp := obj.(*v1beta1.ImageImport)
		finished := imp.Status.CompletionTime != nil
		if !finished && !wanted(imp, image) {
			if err := c.deleteUnwanted(ctx, imp); err != nil {
				return 0, err
			}
		}
		// One refresh at a time, and that one is seen for a while, whatever the clocks say. Anybody's import may bear the label, and
		// stay for as long as it says.
		seen := time.Duration(0)
		if finished && isRefresh(imp) {
			seen = refreshTTL - c.Clock.Since(imp.Status.CompletionTime.Time)
		}
		busy, again = busy || !finished || seen > 0, max(again, seen)
	}
	if busy || !refreshes(image) {
		return min(again, refreshTTL), nil
	}
	if wait := c.refreshDue(image).Sub(c.Clock.Now()); wait > 0 {
		return min(wait, lookAgain), nil
	}
	// The cache may lag: an Image is refreshed on the word of what is stored.
	if image, err = c.Client.TaggerV1beta1().Images(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{}); err != nil {
		return 0, client(err)
	}
	if !refreshes(image) {
		return 0, nil
	}
	if wait := c.refreshDue(image).Sub(c.Clock.Now()); wait > 0 {
		return min(wait, lookAgain), nil
	}
	return c.refresh(ctx, image)
}

// deleteUnwanted deletes a refresh that its Image does not ask for any more, as stored now: one of the caches may lag. That ends
// its attempt, at whichever replica it runs.
func (c *Controller) deleteUnwanted(ctx context.Context, imp *v1beta1.ImageImport) error {
	image, err := c.imageOf(ctx, imp)
	if errors.Is(err, errImageGone) {
		return nil // it ends by itself
	}
	if err != nil || wanted(imp, image) {
		return err
	}
	return c.delete(ctx, imp)
}

// refreshDue returns when an Image on a schedule is to be imported next. Of several replicas all find the same time, but for what
// became due before they were started.
func (c *Controller) refreshDue(image *v1beta1.Image) time.Time {
	interval := image.Spec.RefreshInterval.Duration
	// Each Image has its own part of the time within which those come that would come at once.
	later := func(within time.Duration) time.Duration {
		return time.Duration(min(float64(interval)*refreshJitter, float64(within)) * fraction(image.UID))
	}
	last, started, now := lastAttempt(&image.Status), c.started, c.Clock.Now()
	if started.After(now) { // by a clock that was ahead
		started = time.Time{}
	}
	if last.IsZero() {
		from := image.CreationTimestamp.Time
		if from.Before(started) {
			from = started
		}
		return from.Add(later(firstRefresh))
	}
	due := last.Add(interval).Add(later(interval))
	switch {
	case last.After(now.Add(interval)): // by a clock that was ahead
		return now
	case due.Before(started): // missed while nothing ran: once is enough, and not all at once
		return started.Add(later(missedRefresh))
	}
	return due
}

// fraction returns a number from 0 to 1 that a UID has for ever.
func fraction(uid types.UID) float64 {
	sum := sha256.Sum256([]byte(uid))
	return float64(binary.BigEndian.Uint64(sum[:])) / math.MaxUint64
}

// refresh creates the import that follows the last attempt of an Image. Its name says which that was: of several replicas one
// creates it. What else it asks for is filled in from the Image as it is stored. It returns after which time to look at the Image
// again.
func (c *Controller) refresh(ctx context.Context, image *v1beta1.Image) (time.Duration, error) {
	last := lastAttempt(&image.Status)
	if last.IsZero() {
		last = image.CreationTimestamp.Time
	}
	imp := &v1beta1.ImageImport{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: image.Namespace,
			Name:      fmt.Sprintf("%s-refresh-%08x", image.Name, last.Unix()),
			Labels:    map[string]string{v1beta1.LabelRefresh: "true"},
		},
		Spec: v1beta1.ImageImportSpec{
			TargetImage:             image.Name,
			TTLSecondsAfterFinished: ptr.To(int32(min(image.Spec.RefreshInterval.Duration, refreshTTL).Seconds())),
		},
	}
	_, err := c.Client.TaggerV1beta1().ImageImports(image.Namespace).Create(ctx, imp, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // by another replica, whose import will be seen, or by somebody for something else
		return refreshTaken, nil
	}
	if err != nil { // also where a policy calls it invalid; where the Image is gone it is not tried again
		return 0, errors.Join(fmt.Errorf("creating %s: %w", imp.Name, err), c.sayRefused(ctx, image, err))
	}
	klog.FromContext(ctx).V(2).Info("Created a refresh", "imageImport", klog.KObj(imp))
	refreshesTotal.Inc()
	return 0, nil
}

// sayRefused has an Image say that its refresh is refused by a quota, a policy or a webhook, which its owner may mend.
func (c *Controller) sayRefused(ctx context.Context, image *v1beta1.Image, refusal error) error {
	var status apierrors.APIStatus
	if !errors.As(refusal, &status) {
		return nil
	}
	switch code := status.Status().Code; {
	case code < http.StatusBadRequest, code >= http.StatusInternalServerError,
		code == http.StatusNotFound, code == http.StatusConflict, code == http.StatusTooManyRequests:
		return nil
	}
	image = image.DeepCopy()
	before := image.DeepCopy()
	c.setCondition(&image.Status.Conditions, image.Generation, metav1.ConditionFalse, v1beta1.ReasonBlocked,
		"the cluster refuses the refresh: "+status.Status().Message)
	if apiequality.Semantic.DeepEqual(before.Status.Conditions, image.Status.Conditions) {
		return nil
	}
	_, err := c.Client.TaggerV1beta1().Images(image.Namespace).UpdateStatus(ctx, image, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) { // said the next time
		return nil
	}
	return client(err)
}
