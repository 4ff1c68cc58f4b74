// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

const (
	// claimDuration is how long the claim of another holder is respected while its object does not change.
	claimDuration = 30 * time.Second
	// heartbeatInterval is how often the holder of a claim writes to its object at least.
	heartbeatInterval = 10 * time.Second
	// maxTakeovers is how often an attempt is taken over: an import that ends every server that works at it must not go on for ever.
	maxTakeovers = 10
	// releaseTimeout bounds how long a claim is tried to be released when its attempt was cut off.
	releaseTimeout = 5 * time.Second
	// releasePause is how long an import waits whose attempt could not be made or recorded here. The claim and the release are
	// writes of their own, whose events would bring it back at once.
	releasePause = 10 * time.Second
)

var (
	// errClaimLost is why an attempt ends, and records nothing, whose import another holder has taken over.
	errClaimLost = errors.New("another server has taken the import over")
	// errTakenOver is why an import ends that was taken over too often.
	errTakenOver error = &importer.Error{Kind: importer.Invalid, Err: fmt.Errorf(
		"%d servers ended without notice while they worked at it; look at their logs and memory, then import again", maxTakeovers)}
)

// claim makes an import this process's own, for one attempt: of all who try, the storage lets one write to the object as they
// know it. It fails with a conflict where that has changed; the event of the change brings the import here again.
func (c *Controller) claim(ctx context.Context, imp *v1beta1.ImageImport) (*v1beta1.ImageImport, error) {
	obj := imp.DeepCopy()
	status := &obj.Status
	claim := ptr.Deref(status.Claim, v1beta1.ImportClaim{Holder: c.Identity})
	from := claim.Holder
	if from != c.Identity {
		claim.Holder = c.Identity
		claim.Transitions++
	}
	status.Claim = &claim
	c.renew(status, obj.Generation)
	status.Progress = nil
	if status.StartTime == nil {
		status.StartTime = ptr.To(metav1.NewTime(c.Clock.Now()))
	}
	updated, err := c.Client.TaggerV1beta1().ImageImports(obj.Namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{})
	if err == nil && from != c.Identity {
		klog.FromContext(ctx).Info("Took over an import", "from", from)
		takeoversTotal.Inc()
	}
	return updated, err
}

// renew says in the status of an import that its attempt runs.
func (c *Controller) renew(status *v1beta1.ImageImportStatus, generation int64) {
	status.Claim.RenewTime = ptr.To(metav1.NewMicroTime(c.Clock.Now()))
	status.NextAttemptTime = nil
	c.setCondition(&status.Conditions, generation, metav1.ConditionUnknown, v1beta1.ReasonInProgress,
		fmt.Sprintf("attempt %d of %d runs", len(status.ImportAttempts)+1, maxAttempts))
}

// holds reports whether the claim of an import is this process's.
func (c *Controller) holds(imp *v1beta1.ImageImport) bool {
	return imp.Status.Claim != nil && imp.Status.Claim.Holder == c.Identity
}

// confirm returns nil when the claim of an import is this process's, as stored now, and the Image still asks for it; else
// errClaimLost, errImportGone or errUnwanted. What is read of the Image before it and written after it, if nobody else wrote that
// meanwhile, is written with the claim held: who takes an import over does so before it writes anything else.
func (c *Controller) confirm(ctx context.Context, imp *v1beta1.ImageImport, image *v1beta1.Image) error {
	if !wanted(imp, image) {
		return errUnwanted
	}
	stored, err := c.Client.TaggerV1beta1().ImageImports(imp.Namespace).Get(ctx, imp.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && stored.UID != imp.UID:
		return errImportGone
	case err != nil:
		return err
	case !c.holds(stored):
		return errClaimLost
	}
	return nil
}

// release gives up the claim of an import whose attempt was cut off, so that any replica may begin it again: at once where this
// one stops, else after releasePause. It was no attempt. Where the release fails the others wait for claimDuration.
func (c *Controller) release(ctx context.Context, imp *v1beta1.ImageImport) {
	stopping := context.Cause(ctx) != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if _, err := c.updateImport(ctx, imp, func(status *v1beta1.ImageImportStatus) {
		status.Claim, status.Progress = nil, nil
		if !stopping {
			status.NextAttemptTime = ptr.To(nextAttempt(c.Clock.Now(), releasePause))
		}
		c.setCondition(&status.Conditions, imp.Generation, metav1.ConditionUnknown, v1beta1.ReasonPending,
			fmt.Sprintf("attempt %d of %d was cut off and begins again", len(status.ImportAttempts)+1, maxAttempts))
	}); err != nil && !errors.Is(err, errClaimLost) && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "Could not release the claim of an import")
	}
}

// untilFree returns how long the claim of another holder is to be respected yet; 0 when the import may be claimed.
func (c *Controller) untilFree(key cache.ObjectName, imp *v1beta1.ImageImport) time.Duration {
	if imp.Status.Claim == nil || c.holds(imp) || c.SoleReplica {
		c.claimed.forget(key)
		return 0
	}
	return claimDuration - c.claimed.unchanged(key, imp.ResourceVersion, c.Clock)
}

// sightings are the imports that others hold, each as it was last seen: the time that counts is that of this process, whatever
// the clocks of others say. The zero value is ready for use.
type sightings struct {
	mu   sync.Mutex
	seen map[cache.ObjectName]sighting
}

// sighting is since when an object has a resourceVersion, as far as this process knows.
type sighting struct {
	resourceVersion string
	since           time.Time
}

// unchanged returns for how long an object is known to have a resourceVersion; 0 when that is new.
func (s *sightings) unchanged(key cache.ObjectName, resourceVersion string, now clock.PassiveClock) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen, ok := s.seen[key]; ok && seen.resourceVersion == resourceVersion {
		return now.Since(seen.since)
	}
	if s.seen == nil {
		s.seen = map[cache.ObjectName]sighting{}
	}
	s.seen[key] = sighting{resourceVersion: resourceVersion, since: now.Now()}
	return 0
}

func (s *sightings) forget(key cache.ObjectName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, key)
}
