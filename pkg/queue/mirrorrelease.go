// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// What causes a release waits meanwhile.
const (
	// locateTimeout bounds how long the mirror is looked up.
	locateTimeout = 2 * time.Second
	// writeDownTimeout bounds how long it is tried to write a release down.
	writeDownTimeout = 5 * time.Second
)

// maxReleased is how many references one MirrorRelease names.
const maxReleased = 64

// ReleaseImage asks that the mirror, after the grace period, lets go of what an Image has there that is about to be deleted. Where
// that cannot be written down it is logged: no deletion waits for it.
func (c *Controller) ReleaseImage(ctx context.Context, image *v1beta1.Image) {
	c.releaseDropped(ctx, image, slices.Concat(image.Status.HashReferences, image.Status.RecordedImports), nil)
}

// releaseDropped asks that the mirror lets go of what of an Image was there before and is not after. It is called before the Image
// is written: a MirrorRelease is a hint to look, and means nothing where the Image still means the same when it is due.
func (c *Controller) releaseDropped(ctx context.Context, image *v1beta1.Image, before, after []v1beta1.HashReference) {
	gone := slices.DeleteFunc(slices.Clone(before), func(ref v1beta1.HashReference) bool { return has(after, ref.ImageReference) })
	if len(gone) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	locating, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	_, repository, err := c.Mirrors.Repository(locating, image.Namespace, image.Name)
	if err != nil {
		repository = "" // what was mirrored is told by its references, but for what came from the mirror itself
	}
	var references []string
	for i := range gone {
		ref := &gone[i]
		if atMirror(ref, repository) && !keeps(after, digestOf(ref), repository) && !slices.Contains(references, ref.ImageReference) {
			references = append(references, ref.ImageReference)
		}
	}
	for some := range slices.Chunk(references, maxReleased) {
		c.requestRelease(ctx, image.Namespace, image.Name, some)
	}
}

// releaseUnlessRecorded asks that the mirror lets go of what is about to get its tag there. Where that is recorded, what it returns
// is withdrawn; where it is not, or this server is killed before, it stays. It returns nil where there was one before.
func (c *Controller) releaseUnlessRecorded(ctx context.Context, namespace, image, reference string) *v1beta1.MirrorRelease {
	release, created := c.requestRelease(ctx, namespace, image, []string{reference})
	if !created { // an attempt of it may have begun, which nothing would look after any more
		return nil
	}
	return release
}

// withdrawRelease takes a release back, which may be nil, where its Image has what that names in its history, and it was not asked for
// again meanwhile. Where that fails, whoever looks at it when it is due finds that the Image means it.
func (c *Controller) withdrawRelease(ctx context.Context, image *v1beta1.Image, release *v1beta1.MirrorRelease) {
	if release == nil || !slices.ContainsFunc(image.Status.HashReferences, func(ref v1beta1.HashReference) bool {
		return slices.Contains(release.Spec.ImageReferences, ref.ImageReference)
	}) { // it was too old to be kept
		return
	}
	err := c.deleteRelease(ctx, release)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "Could not withdraw a release", "mirrorRelease", release.Name)
	}
}

// deleteRelease deletes a release as it was read. It fails with a conflict where that was asked for again since.
func (c *Controller) deleteRelease(ctx context.Context, release *v1beta1.MirrorRelease) error {
	return c.Client.TaggerV1beta1().MirrorReleases().Delete(ctx, release.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &release.UID, ResourceVersion: &release.ResourceVersion},
	})
}

// requestRelease makes a MirrorRelease or, where there is one for the same references, has that count from now. It is always
// written: who looked at it before does not take it back then. Where that cannot be done it is logged and nil returned.
func (c *Controller) requestRelease(ctx context.Context, namespace, image string, references []string) (made *v1beta1.MirrorRelease, created bool) {
	ctx, cancel := context.WithTimeout(ctx, writeDownTimeout)
	defer cancel()
	now := c.Clock.Now()
	err := persist(ctx, func() (err error) {
		made, created, err = c.Releases.Request(ctx, &v1beta1.MirrorRelease{
			ObjectMeta: metav1.ObjectMeta{Name: releaseName(namespace, image, references)},
			Spec: v1beta1.MirrorReleaseSpec{
				Namespace: namespace, Image: image, ImageReferences: references,
				RequestedAt: metav1.NewMicroTime(now), DueTime: metav1.NewTime(now.Add(c.ReleaseDelay)),
			},
		})
		return err
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not write down what the mirror need not keep any more, and will keep for ever",
			"image", klog.KRef(namespace, image), "references", references)
		releasesTotal.WithLabelValues(releaseLost).Inc()
		return nil, false
	}
	return made, created
}

// releaseName is the same for the same references of an Image, so that asking twice is asking once.
func releaseName(namespace, image string, references []string) string {
	sorted := slices.Sorted(slices.Values(references))
	sum := sha256.Sum256([]byte(strings.Join(append([]string{namespace, image}, sorted...), "\n")))
	return image + "-" + hex.EncodeToString(sum[:16])
}

// atMirror reports whether an entry of a history may be of what was mirrored or pushed, be it into that repository or to where the mirror
// was. Nothing but a copy is at another place than it came from, unless it came from the mirror itself, by whatever host that had then:
// of a registry that has a repository of the same name it is said wrongly.
func atMirror(ref *v1beta1.HashReference, repository string) bool {
	_, path, _ := strings.Cut(repository, "/")
	_, from, _ := strings.Cut(ref.ImageReference, "/")
	return ref.ImageReference != ref.SourceReference || path != "" && strings.HasPrefix(from, path+"@")
}

// has reports whether a history has a reference.
func has(history []v1beta1.HashReference, reference string) bool {
	return slices.ContainsFunc(history, func(ref v1beta1.HashReference) bool { return ref.ImageReference == reference })
}

// keeps reports whether a history has a digest at the mirror.
func keeps(history []v1beta1.HashReference, dgst digest.Digest, repository string) bool {
	return slices.ContainsFunc(history, func(ref v1beta1.HashReference) bool {
		return digestOf(&ref) == dgst && atMirror(&ref, repository)
	})
}
