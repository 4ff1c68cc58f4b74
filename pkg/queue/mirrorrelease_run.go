// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

const (
	// releaseWorkers is how many releases are tried at once, each of another namespace.
	releaseWorkers = 4
	// releaseAttemptTimeout bounds one attempt of a release, for each reference that it has and for itself.
	releaseAttemptTimeout = 30 * time.Second
	// releaseSettles is for how long after it was asked for a release is not taken back because the Image means the same: what asked
	// for it may not have been written yet.
	releaseSettles = 10 * time.Minute
	// firstReleasePause is the pause after the first failure of a release; each further one doubles it, up to maxReleasePause.
	firstReleasePause = time.Minute
	maxReleasePause   = 6 * time.Hour
	// runningPause is after which time it is looked again whether a Pod runs what is to be released.
	runningPause = 15 * time.Minute
	// releaseSpread is within which time after a release is due the replicas come to it, each at a time of its own. One that comes
	// later finds it done; that two do it at once does no harm.
	releaseSpread = 30 * time.Second
)

// releaseOutcome is how a release that is over ended, as a metric has it.
type releaseOutcome = string

const (
	releaseDone        releaseOutcome = "released"
	releaseKept        releaseOutcome = "kept"        // the Image means it again
	releaseUnsupported releaseOutcome = "unsupported" // the mirror does not let tags be deleted
	releaseLost        releaseOutcome = "lost"        // it could not be written down
)

// watchReleases has the MirrorReleases watched that there are.
func (c *Controller) watchReleases() error {
	if err := c.mirrorReleases.AddIndexers(cache.Indexers{byImage: func(obj any) ([]string, error) {
		spec := &obj.(*v1beta1.MirrorRelease).Spec
		return []string{spec.Namespace + "/" + spec.Image}, nil
	}}); err != nil {
		return err
	}
	_, err := c.mirrorReleases.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			releasesPending.Inc()
			enqueue(c.releases, obj)
		},
		UpdateFunc: func(_, obj any) { enqueue(c.releases, obj) },
		DeleteFunc: func(any) { releasesPending.Dec() },
	})
	return err
}

// syncRelease does a release that is due, and returns after which time to look at it again; 0 for not before it changes.
func (c *Controller) syncRelease(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	defer c.releasing.Settle(key.Name)
	obj, exists, err := c.mirrorReleases.GetIndexer().GetByKey(key.String())
	if err != nil || !exists {
		return 0, err
	}
	if wait := c.untilRelease(obj.(*v1beta1.MirrorRelease)); wait > 0 {
		return min(wait, lookAgain), nil
	}
	done, free := c.releasing.AcquireOrWait(obj.(*v1beta1.MirrorRelease).Spec.Namespace, key.Name, func() { c.releases.Add(key) })
	if !free {
		return 0, nil // it is looked at again when there is a place
	}
	defer done()
	// Another replica may have done it, or tried.
	release, err := c.Client.TaggerV1beta1().MirrorReleases().Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil || release.DeletionTimestamp != nil { // or it was given up, and something else has to be done yet
		return 0, client(err)
	}
	if wait := c.untilRelease(release); wait > 0 {
		return min(wait, lookAgain), nil
	}
	attempt, cancel := context.WithTimeoutCause(ctx, releaseAttemptTimeout*time.Duration(1+len(release.Spec.ImageReferences)), errReleaseSlow)
	defer cancel()
	found, err := c.tryRelease(attempt, release)
	switch {
	case err != nil && context.Cause(ctx) != nil: // stopping: the next start does it
		return 0, err
	case err != nil && errors.Is(context.Cause(attempt), errReleaseSlow):
		return 0, c.failRelease(ctx, release, errReleaseSlow)
	case err != nil:
		return 0, c.failRelease(ctx, release, err)
	case len(found.running) > 0:
		message := fmt.Sprintf("a Pod of the namespace runs %s", found.running[0])
		return 0, c.putReleaseOff(ctx, release, 0, message, runningPause)
	case found.held:
		since := c.Clock.Since(release.Spec.RequestedAt.Time)
		if since < 0 { // by a clock that is ahead
			since = time.Minute
		}
		return max(time.Second, min(since, time.Minute)), nil
	}
	return c.endRelease(ctx, release, found.outcome)
}

// untilRelease returns how long a release is not to be tried yet.
func (c *Controller) untilRelease(release *v1beta1.MirrorRelease) time.Duration {
	due := release.Spec.DueTime.Time
	if next := release.Status.NextAttemptTime; next != nil && next.After(due) {
		due = next.Time
	}
	if !c.SoleReplica {
		due = due.Add(time.Duration(float64(releaseSpread) * fraction(release.UID+types.UID(c.Identity))))
	}
	return due.Sub(c.Clock.Now())
}

// errReleaseSlow is why an attempt of a release ends that took too long.
var errReleaseSlow = errors.New("the mirror did not answer in time")

// failRelease puts a release off whose attempt failed: for ever longer, and at least as long as the mirror asked for.
func (c *Controller) failRelease(ctx context.Context, release *v1beta1.MirrorRelease, cause error) error {
	releaseFailuresTotal.Inc()
	logger := klog.FromContext(ctx)
	logger.Error(cause, "A release at the mirror failed", "image", klog.KRef(release.Spec.Namespace, release.Spec.Image))
	var typed *importer.Error
	pause := releasePauseAfter(release.Status.Failures + 1)
	if errors.As(cause, &typed) {
		pause = max(pause, min(typed.RetryAfter, maxRetryAfter))
		if typed.Cause() != nil {
			logger.Error(typed.Cause(), "The mirror failed")
		}
	}
	return c.putReleaseOff(ctx, release, release.Status.Failures+1, cause.Error(), pause)
}

// releasePauseAfter returns how long to wait after some failures in a row.
func releasePauseAfter(failures int32) time.Duration {
	if shift := failures - 1; shift < 9 {
		return min(firstReleasePause<<shift, maxReleasePause)
	}
	return maxReleasePause
}

// putReleaseOff says why a release is not done and when it is tried again. When it changed meanwhile it is looked at anew anyway.
func (c *Controller) putReleaseOff(ctx context.Context, release *v1beta1.MirrorRelease, failures int32, message string, pause time.Duration) error {
	release = release.DeepCopy()
	release.Status = v1beta1.MirrorReleaseStatus{
		Failures: failures, Message: shorten(message), NextAttemptTime: ptr.To(nextAttempt(c.Clock.Now(), pause)),
	}
	_, err := c.Client.TaggerV1beta1().MirrorReleases().UpdateStatus(ctx, release, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil
	}
	return client(err)
}

// endRelease deletes a release, unless it was asked for again meanwhile.
func (c *Controller) endRelease(ctx context.Context, release *v1beta1.MirrorRelease, outcome releaseOutcome) (time.Duration, error) {
	err := c.deleteRelease(ctx, release)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, err
	}
	klog.FromContext(ctx).Info("A release at the mirror is over", "outcome", outcome,
		"image", klog.KRef(release.Spec.Namespace, release.Spec.Image), "references", release.Spec.ImageReferences)
	releasesTotal.WithLabelValues(outcome).Inc()
	return 0, nil
}

// finding is what came of an attempt to release something.
type finding struct {
	// running is what Pods run, held that something may be written soon that means it; neither: it is over, as outcome says.
	running []digest.Digest
	held    bool
	outcome releaseOutcome
}

// meaning is what is stored of an Image: itself, nil where it is gone, and whether one of its imports may have tagged at the mirror
// what it did not record yet.
type meaning struct {
	image     *v1beta1.Image
	importing bool
}

// tryRelease takes the tags away that keep at the mirror what an Image does not mean any more, and looks again afterwards: an import
// that had tagged the same before may have recorded it since. What the Image does mean gets its tag back: an earlier attempt may
// have been cut off there.
func (c *Controller) tryRelease(ctx context.Context, release *v1beta1.MirrorRelease) (finding, error) {
	spec := &release.Spec
	now, err := c.meaning(ctx, spec)
	if err != nil || now.importing {
		return finding{held: true}, err
	}
	destination, repository, err := c.Mirrors.Repository(ctx, spec.Namespace, spec.Image)
	if err != nil {
		return finding{}, importer.DestinationFailure(err)
	}
	var let []digest.Digest
	found := finding{outcome: releaseKept}
	for _, dgst := range c.released(release) {
		if now.image == nil || !keeps(now.image.Status.HashReferences, dgst, repository) {
			let = append(let, dgst)
			continue
		}
		found.held = found.held || now.image.DeletionTimestamp != nil || c.Clock.Since(spec.RequestedAt.Time) < releaseSettles
		if err := c.anchor(ctx, destination, dgst); err != nil {
			return finding{}, err
		}
	}
	if len(let) == 0 {
		return found, nil
	}
	if found.running, err = c.Running(ctx, spec.Namespace, let); err != nil {
		return finding{}, fmt.Errorf("looking for Pods that run it: %w", err)
	}
	let = slices.DeleteFunc(let, func(dgst digest.Digest) bool { return slices.Contains(found.running, dgst) })
	var tags []string
	for _, dgst := range let {
		tags = append(tags, anchor(dgst))
	}
	if now.image == nil && len(found.running) == 0 {
		tags = append(tags, "latest")
	}
	found.outcome = releaseDone
	untag := func(tags []string) error {
		err := destination.Untag(ctx, tags...)
		if errdefs.IsNotImplemented(err) {
			klog.FromContext(ctx).Info("The mirror does not let tags be deleted, and keeps what no Image means any more",
				"repository", repository, "digests", let)
			found.outcome = releaseUnsupported
			return nil
		}
		return importer.DestinationFailure(err)
	}
	if err := untag(tags); err != nil {
		return finding{}, err
	}
	again, err := c.meaning(ctx, spec)
	if err != nil {
		return finding{}, err
	}
	var forgotten []digest.Digest
	for _, dgst := range let {
		if !again.importing && (again.image == nil || !keeps(again.image.Status.HashReferences, dgst, repository)) {
			forgotten = append(forgotten, dgst)
			continue
		}
		found.held = true // until it is known what for
		if err := c.anchor(ctx, destination, dgst); err != nil {
			return finding{}, err
		}
	}
	if now.image == nil && again.image != nil {
		c.followLater(ctx, again.image, nil)
	}
	if len(forgotten) == 0 {
		return found, nil
	}
	// What refers to an image goes with it: an anchor can be set again, signatures cannot.
	pushed, err := destination.Tagged(ctx, forgotten, followsImage)
	if err != nil {
		return finding{}, importer.DestinationFailure(err)
	}
	tags = nil
	for _, dgst := range forgotten {
		if !slices.Contains(pushed, dgst) {
			stem := importer.ReferrersTag(dgst)
			tags = append(tags, stem, stem+".sig", stem+".att", stem+".sbom")
		}
	}
	err = untag(tags)
	return found, err
}

// followsImage reports whether a tag at the mirror is one of those that come and go with what an Image means. Others people pushed.
func followsImage(tag string) bool {
	for _, prefix := range []string{anchorPrefix, "sha256-", "sha512-"} {
		if strings.HasPrefix(tag, prefix) {
			return true
		}
	}
	return tag == "latest"
}

// meaning looks at what is stored of the Image of a release. The imports come first: one that ends meanwhile has written the Image.
func (c *Controller) meaning(ctx context.Context, spec *v1beta1.MirrorReleaseSpec) (meaning, error) {
	imports, err := c.Client.TaggerV1beta1().ImageImports(spec.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.targetImage", spec.Image).String(),
	})
	if err != nil {
		return meaning{}, err
	}
	importing := slices.ContainsFunc(imports.Items, func(imp v1beta1.ImageImport) bool {
		return imp.Spec.TargetImage == spec.Image && imp.Status.CompletionTime == nil
	})
	image, err := c.Client.TaggerV1beta1().Images(spec.Namespace).Get(ctx, spec.Image, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return meaning{importing: importing}, nil
	case err != nil:
		return meaning{}, err
	}
	return meaning{image: image, importing: importing}, nil
}

// released returns the digests of a release, but for those that a later one of the same Image has: they are kept until that is due.
func (c *Controller) released(release *v1beta1.MirrorRelease) []digest.Digest {
	later := map[digest.Digest]bool{}
	all, err := c.mirrorReleases.GetIndexer().ByIndex(byImage, release.Spec.Namespace+"/"+release.Spec.Image)
	for _, obj := range all {
		other := obj.(*v1beta1.MirrorRelease)
		if err == nil && other.UID != release.UID && release.Spec.RequestedAt.Before(&other.Spec.RequestedAt) {
			for _, reference := range other.Spec.ImageReferences {
				later[digestOf(&v1beta1.HashReference{ImageReference: reference})] = true
			}
		}
	}
	var digests []digest.Digest
	for _, reference := range release.Spec.ImageReferences {
		dgst := digestOf(&v1beta1.HashReference{ImageReference: reference})
		if !later[dgst] && !slices.Contains(digests, dgst) {
			digests = append(digests, dgst)
		}
	}
	return digests
}

// anchor gives a digest its tag. Content that is not there has nothing to be kept.
func (c *Controller) anchor(ctx context.Context, destination importer.Destination, dgst digest.Digest) error {
	err := destination.Commit(ctx, map[string]digest.Digest{anchor(dgst): dgst})
	if errdefs.IsFailedPrecondition(err) {
		klog.FromContext(ctx).Info("The mirror has not got what an Image means; import that again", "digest", dgst)
		return nil
	}
	return importer.DestinationFailure(err)
}
