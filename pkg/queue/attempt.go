// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
)

// request is what one import asks for.
type request struct {
	namespace, image string
	importUID        types.UID
	from             string
	mirror, insecure bool
	// verify: look only, copy and tag nothing.
	verify bool
}

// outcome is what a successful attempt found.
type outcome struct {
	ref       v1beta1.HashReference
	unchanged bool
	// release is to be withdrawn when the Image has ref; nil where there is none.
	release *v1beta1.MirrorRelease
	// note is what is to be added in words, empty for nothing.
	note string
}

// referrersInterval is how often a mirrored image's signatures, SBOMs and attestations are looked for again.
const referrersInterval = 24 * time.Hour

// referrersTimeout bounds the time that they may take, within that of the attempt.
const referrersTimeout = 10 * time.Minute

// source returns where a request imports from.
func (c *Controller) source(req request) (importer.Source, error) {
	reference, err := importer.ParseReference(req.from)
	if err != nil {
		return importer.Source{}, err
	}
	return importer.Source{
		Reference: reference,
		Insecure:  req.insecure,
		Scope:     req.namespace,
		Keychain:  c.Keychains(req.namespace),
	}, nil
}

// attempt resolves what a request asks for and, if it asks for it, copies it to the mirror; history is what the Image has
// recorded so far. It records nothing.
func (c *Controller) attempt(ctx context.Context, req request, history []v1beta1.HashReference,
	progress func(importer.Progress)) (outcome, error) {
	src, err := c.source(req)
	if err != nil {
		return outcome{}, err
	}
	var known digest.Digest
	if len(history) > 0 {
		known = digestOf(&history[0])
	}
	resolved, err := c.Importer.Resolve(ctx, src, known)
	if err != nil {
		return outcome{}, err
	}
	out, err := c.keep(ctx, req, src, resolved, history, progress)
	if pause := paused(err); pause != nil { // in the middle of an attempt, which counts
		counted := *pause
		counted.Paused = false
		err = &counted
	}
	return out, err
}

// keep is the rest of an attempt, once it is known what the tag means.
func (c *Controller) keep(ctx context.Context, req request, src importer.Source, resolved *importer.Resolved,
	history []v1beta1.HashReference, progress func(importer.Progress)) (outcome, error) {
	out := outcome{ref: c.reference(req, src, resolved), unchanged: resolved.Unchanged}
	if entry := entryOf(history, resolved.Digest); entry != nil { // the content is as it was: so is what is known of it
		out.ref.MediaType, out.ref.Size, out.ref.Platforms = entry.MediaType, entry.Size, entry.Platforms
		out.ref.ReferrersCheckedAt = entry.ReferrersCheckedAt
	}
	if !req.mirror {
		return out, nil
	}
	destination, repository, err := c.Mirrors.Repository(ctx, req.namespace, req.image)
	if err != nil {
		return outcome{}, importer.DestinationFailure(err)
	}
	out.ref.ImageReference = fmt.Sprintf("%s@%s", repository, resolved.Digest)
	complete, err := destination.Complete(ctx, resolved.Digest)
	if err != nil {
		return outcome{}, importer.DestinationFailure(err)
	}
	unchanged := complete && resolved.Unchanged && history[0].ImageReference == out.ref.ImageReference
	checked := out.ref.ReferrersCheckedAt
	due := !complete || checked == nil || c.Clock.Since(checked.Time) >= referrersInterval
	out.unchanged = unchanged
	if unchanged && !due || req.verify {
		return out, nil
	}
	if !complete {
		mirrored, err := c.Importer.Mirror(ctx, src, resolved, destination, progress)
		if err != nil {
			return outcome{}, err
		}
		out.ref.Size = mirrored.Size
		out.ref.MediaType = mirrored.MediaType
		if len(mirrored.Platforms) > 0 {
			out.ref.Platforms = mirrored.Platforms
		}
	}
	// What may fail after this is not what the image needs.
	if !has(history, out.ref.ImageReference) {
		out.release = c.releaseUnlessRecorded(ctx, req.namespace, req.image, out.ref.ImageReference)
	}
	if err := destination.Commit(ctx, map[string]digest.Digest{anchor(resolved.Digest): resolved.Digest}); err != nil {
		return outcome{}, importer.DestinationFailure(err)
	}
	if due {
		c.copyReferrers(ctx, src, resolved, destination, &out)
	}
	return out, nil
}

// copyReferrers copies signatures, SBOMs and attestations of a mirrored image, and commits the tags that some of them have. The
// image is good without them: a failure is told with the outcome, and the next import tries again.
func (c *Controller) copyReferrers(ctx context.Context, src importer.Source, resolved *importer.Resolved,
	destination importer.Destination, out *outcome) {
	ctx, cancel := context.WithTimeout(ctx, min(referrersTimeout, c.AttemptTimeout/2))
	defer cancel()
	found, err := c.Importer.MirrorReferrers(ctx, src, resolved, destination)
	if err == nil { // also without tags: what was copied is held until then
		err = importer.DestinationFailure(destination.Commit(ctx, found.Tags))
	}
	if err != nil {
		out.ref.ReferrersCheckedAt = nil
		out.note = "; its signatures and SBOMs could not be copied: " + err.Error()
		return
	}
	if found.LeftOut > 0 {
		out.note = fmt.Sprintf("; %d of its signatures and SBOMs were left out, for there are too many or they are not whole", found.LeftOut)
	}
	out.ref.ReferrersCheckedAt = ptr.To(metav1.NewTime(c.Clock.Now()).Rfc3339Copy())
}

// reference returns the entry of the history that says what was resolved; when it was imported is known once it is recorded.
func (c *Controller) reference(req request, src importer.Source, resolved *importer.Resolved) v1beta1.HashReference {
	byDigest := src.Reference.WithDigest(resolved.Digest)
	return v1beta1.HashReference{
		From:            req.from,
		ImageReference:  byDigest,
		SourceReference: byDigest,
		ResolvedAt:      metav1.NewMicroTime(resolved.At),
		ImportUID:       req.importUID,
		MediaType:       resolved.MediaType,
		Size:            resolved.Size,
		Platforms:       resolved.Platforms,
	}
}

// anchorPrefix begins the tags of anchors, which the registry endpoint lets nobody see.
const anchorPrefix = "anchor-"

// anchor is the tag that keeps an entry of the history from any registry's garbage collection.
func anchor(dgst digest.Digest) string {
	if dgst.Algorithm() != digest.SHA256 { // tags have at most 128 characters
		dgst = digest.SHA256.FromString(dgst.String())
	}
	return anchorPrefix + dgst.Encoded()
}

// pointLatest lets latest at the mirror be an Image's current reference, when that is there, and nothing when it is not; set says
// whether the mirror was written to. Nothing is asked of the mirror that has nothing of the Image: neither in its history, nor in what
// that was before, nor waiting to be released.
func (c *Controller) pointLatest(ctx context.Context, image *v1beta1.Image, was []v1beta1.HashReference) (set bool, err error) {
	front := current(image)
	if front == "" {
		return false, nil
	}
	destination, repository, err := c.Mirrors.Repository(ctx, image.Namespace, image.Name)
	if err != nil {
		return false, err
	}
	dgst := digestOf(&image.Status.HashReferences[0])
	if front == fmt.Sprintf("%s@%s", repository, dgst) {
		return true, destination.Commit(ctx, map[string]digest.Digest{"latest": dgst})
	}
	// What latest named is not what the Image means any more, and that is not here.
	mirrored := func(ref v1beta1.HashReference) bool { return strings.HasPrefix(ref.ImageReference, repository+"@") }
	waiting, err := c.mirrorReleases.GetIndexer().ByIndex(byImage, image.Namespace+"/"+image.Name)
	if (err != nil || len(waiting) == 0) && !slices.ContainsFunc(image.Status.HashReferences, mirrored) && !slices.ContainsFunc(was, mirrored) {
		return false, nil
	}
	err = destination.Untag(ctx, "latest")
	if errdefs.IsNotImplemented(err) {
		klog.FromContext(ctx).Info("The mirror does not let tags be deleted: latest stays what the Image does not mean any more", "repository", repository)
		return false, nil
	}
	return true, err
}
