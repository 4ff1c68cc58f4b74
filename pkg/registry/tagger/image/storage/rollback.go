// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	"tagger.dev/tagger/pkg/limit"
	"tagger.dev/tagger/pkg/registry/tagger/image"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// recordTime is how long the writes of a rollback may take together once its check has passed: they are not cut short when the
// client leaves, since half of them would be a suspended refresh and nothing else.
const recordTime = 5 * time.Second

// HistoryStore is what images/rollback needs of the storage of Images.
type HistoryStore interface {
	rest.Getter
	rest.Updater
}

// Rollbacker does what a rollback needs of mirror and source. Its errors are API errors.
type Rollbacker interface {
	// Check returns an entry of an Image's history as it is to be recorded, when what it names can be pulled.
	Check(ctx context.Context, image *tagger.Image, entry *tagger.HashReference) (*tagger.HashReference, error)
	// Record puts an entry in front of an Image's history, whatever was recorded meanwhile, and returns it as it was recorded.
	// Unchanged says that it was in front already. After a timeout it may be recorded or not.
	Record(ctx context.Context, image *tagger.Image, entry *tagger.HashReference) (recorded *tagger.HashReference, unchanged bool, err error)
}

// RollbackREST serves images/rollback: it puts an earlier reference of an Image in front again and suspends the Image's
// refresh. It keeps nothing of its own.
type RollbackREST struct {
	images     HistoryStore
	writer     *requester.Writer
	rollbacker Rollbacker
	clock      clock.PassiveClock
	waits      *limit.Keyed
}

var (
	_ rest.NamedCreater             = &RollbackREST{}
	_ rest.GroupVersionKindProvider = &RollbackREST{}
)

// NewRollbackREST returns the storage of images/rollback; all arguments are required.
func NewRollbackREST(images HistoryStore, writer *requester.Writer, rollbacker Rollbacker, clk clock.PassiveClock) *RollbackREST {
	return &RollbackREST{images: images, writer: writer, rollbacker: rollbacker, clock: clk, waits: limit.NewKeyed(maxWaitsPerUser)}
}

// New returns an empty ImageRollback, which is what is posted.
func (*RollbackREST) New() runtime.Object { return &tagger.ImageRollback{} }

// Destroy does nothing: nothing is owned.
func (*RollbackREST) Destroy() {}

// GroupVersionKind is that of the body and the answer, not of the Image that the path names.
func (*RollbackREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return v1beta1.SchemeGroupVersion.WithKind("ImageRollback")
}

// Create rolls the Image of that name back. After a success the entry is the current one and no schedule undoes that, also
// where it was the current one before.
func (r *RollbackREST) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc,
	options *metav1.CreateOptions) (runtime.Object, error) {
	began := time.Now()
	rollback := obj.(*tagger.ImageRollback)
	namespace := request.NamespaceValue(ctx)
	errs := append(matchPath(&rollback.ObjectMeta, namespace, name, ""), validation.ValidateImageRollback(rollback)...)
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(tagger.Kind("ImageRollback"), name, errs)
	}
	if createValidation != nil {
		if err := createValidation(ctx, rollback.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	stored, err := r.images.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	img := stored.(*tagger.Image)
	if err := image.CheckNotDeleted(img, "there is nothing to roll back"); err != nil {
		return nil, err
	}
	index, err := image.FindEntry(img, &rollback.Spec)
	if err != nil {
		return nil, err
	}
	if image.Refreshes(img) {
		if err := r.writer.Authorize(ctx, "update", image.Target(ctx, name), "the rollback suspends the refresh of its Image"); err != nil {
			return nil, err
		}
	}
	status, err := r.rollBack(ctx, img, index, began, options.DryRun)
	if err != nil {
		return nil, err
	}
	return &tagger.ImageRollback{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       rollback.Spec,
		Status:     *status,
	}, nil
}

// rollBack goes back to the entry with that index, in this order: it is looked for, the refresh is suspended, it is recorded.
// So nothing is written for what cannot be pulled, and no refresh comes between.
func (r *RollbackREST) rollBack(ctx context.Context, img *tagger.Image, index int, began time.Time, dryRun []string) (
	*tagger.ImageRollbackStatus, error) {
	entry := img.Status.HashReferences[index].DeepCopy()
	unchanged := entry.ImageReference == img.Status.HashReferences[0].ImageReference
	if unchanged {
		entry = img.Status.HashReferences[0].DeepCopy()
	} else if err := r.admit(ctx, img, entry); err != nil {
		return nil, err
	} else if len(dryRun) == 0 {
		if entry, err = r.check(ctx, img, entry, began); err != nil {
			return nil, err
		}
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	suspend, resume := image.Refreshes(img), func(context.Context) {}
	if suspend {
		var err error
		if img, resume, err = image.SuspendRefresh(ctx, r.writer, r.images, img, dryRun); err != nil {
			return nil, err
		}
	}
	if history := img.Status.HashReferences; unchanged && (len(history) == 0 || history[0].ImageReference != entry.ImageReference) {
		err := apierrors.NewConflict(tagger.Resource("images"), img.Name, errors.New("an import was recorded meanwhile; look at the history and try again"))
		resume(ctx)
		return nil, err
	}
	if len(dryRun) > 0 {
		now := r.clock.Now()
		entry.ImportedAt, entry.ResolvedAt, entry.ImportUID = metav1.NewTime(now).Rfc3339Copy(), metav1.NewMicroTime(now), ""
		entry.RolledBack = true
	} else {
		var err error
		if entry, unchanged, err = r.rollbacker.Record(ctx, img, entry); err != nil {
			if image.Refused(err) { // else nobody knows, and the schedule stays suspended
				resume(ctx)
			}
			return nil, err
		}
	}
	return &tagger.ImageRollbackStatus{HashReference: entry, Unchanged: unchanged, RefreshSuspended: suspend}, nil
}

// admit refuses what the requester might not import: who forbids a source means what came from there before, too.
func (r *RollbackREST) admit(ctx context.Context, img *tagger.Image, entry *tagger.HashReference) error {
	from := cmp.Or(entry.From, entry.SourceReference)
	imp, target := newImport(img.Namespace, img.Name, tagger.ImageImportSpec{
		From: from, Insecure: &img.Spec.Insecure, Mirror: new(entry.ImageReference != entry.SourceReference),
		TTLSecondsAfterFinished: new(v1beta1.DefaultTTLSecondsAfterFinished),
	})
	imp.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(img, v1beta1.SchemeGroupVersion.WithKind("Image"))}
	rest.FillObjectMetaSystemFields(imp)
	obj, err := r.writer.Admit(ctx, imp, target)
	if err != nil {
		return aboutImage(err, img.Name)
	}
	if admitted := obj.(*tagger.ImageImport).Spec.From; admitted != from {
		return apierrors.NewForbidden(tagger.Resource("images"), img.Name, fmt.Errorf(
			"a webhook or policy of the cluster has imports from %s come from %s, which a rollback cannot; import it from there", from, admitted))
	}
	return nil
}

// check has an entry looked for, as long as the request may take.
func (r *RollbackREST) check(ctx context.Context, img *tagger.Image, entry *tagger.HashReference, began time.Time) (*tagger.HashReference, error) {
	release, free := r.waits.TryAcquire(userName(ctx))
	if !free {
		return nil, apierrors.NewTooManyRequests("as many rollbacks of yours are under way as may be; try again when one has ended", 1)
	}
	defer release()
	ctx, cancel := context.WithDeadline(ctx, waitUntil(ctx, began))
	defer cancel()
	return r.rollbacker.Check(ctx, img, entry)
}
