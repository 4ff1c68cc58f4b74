// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/limit"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// nameAttempts is how often another random name is tried when one is taken.
const nameAttempts = 8

// ImportStore is what images/import needs of the storage of ImageImports.
type ImportStore interface {
	rest.Creater
	rest.Getter
	rest.Watcher
}

// Verifier resolves an import without recording or copying anything: what images/import does with dryRun=All. The status of
// the import it returns says what it found; it fails only for reasons that are not the import's.
type Verifier interface {
	Verify(ctx context.Context, imp *tagger.ImageImport) (*tagger.ImageImport, error)
}

// ImportREST serves images/import: it stores an ImageImport, which runs detached from the request, and waits for its outcome
// as long as a request may. It keeps nothing of its own, so that any replica may run the import.
type ImportREST struct {
	imports  ImportStore
	writer   *requester.Writer
	verifier Verifier
	waits    *limit.Keyed
	stopping <-chan struct{}
}

var (
	_ rest.NamedCreater             = &ImportREST{}
	_ rest.GroupVersionKindProvider = &ImportREST{}
)

// NewImportREST returns the storage of images/import. When stopping closes, requests that wait are answered at once.
func NewImportREST(imports ImportStore, writer *requester.Writer, verifier Verifier, stopping <-chan struct{}) *ImportREST {
	return &ImportREST{imports: imports, writer: writer, verifier: verifier, waits: limit.NewKeyed(maxWaitsPerUser), stopping: stopping}
}

// New returns an empty ImageImport, which is what is posted.
func (*ImportREST) New() runtime.Object { return &tagger.ImageImport{} }

// Destroy does nothing: nothing is owned.
func (*ImportREST) Destroy() {}

// GroupVersionKind is that of the body and the answer, not of the Image that the path names.
func (*ImportREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return v1beta1.SchemeGroupVersion.WithKind("ImageImport")
}

// Create imports the Image of that name. The answer is the stored ImageImport: finished, or as far as it came.
func (r *ImportREST) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc,
	options *metav1.CreateOptions) (runtime.Object, error) {
	began := time.Now()
	requested := obj.(*tagger.ImageImport)
	namespace := request.NamespaceValue(ctx)
	errs := matchPath(&requested.ObjectMeta, namespace, name, "; the server names the ImageImport")
	if target := requested.Spec.TargetImage; target != "" && target != name {
		errs = append(errs, field.Invalid(field.NewPath("spec", "targetImage"), target,
			fmt.Sprintf("must be absent or the Image that is imported, %q", name)))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(tagger.Kind("ImageImport"), name, errs)
	}
	if createValidation != nil {
		if err := createValidation(ctx, requested.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	release, free := r.waits.TryAcquire(userName(ctx))
	if free {
		defer release()
	}
	dryRun := len(options.DryRun) > 0
	if dryRun && !free { // it has nothing to hand off
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("%d imports of yours are waited for already; try again later", maxWaitsPerUser), 1)
	}
	imp, err := r.store(ctx, name, namespace, requested, options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, waitUntil(ctx, began))
	defer cancel()
	switch {
	case dryRun:
		return r.verifier.Verify(ctx, imp)
	case !free:
		return imp, nil
	}
	return r.wait(ctx, imp), nil
}

// store creates the ImageImport as NAME-<8 hex>, admitted as the requester.
func (r *ImportREST) store(ctx context.Context, name, namespace string, requested *tagger.ImageImport,
	options *metav1.CreateOptions) (*tagger.ImageImport, error) {
	var err error
	for range nameAttempts {
		imp, target := newImport(namespace, name, requested.Spec)
		imp.Labels, imp.Annotations = requested.Labels, requested.Annotations
		var obj runtime.Object
		if obj, err = r.writer.Create(ctx, r.imports, imp, target, options); err == nil {
			return obj.(*tagger.ImageImport), nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, aboutImage(err, name)
		}
	}
	return nil, err
}

// newImport returns an import of an Image by a name that the server makes up, and that as what is written.
func newImport(namespace, image string, spec tagger.ImageImportSpec) (*tagger.ImageImport, requester.Target) {
	imp := &tagger.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: image + "-" + suffix(), Namespace: namespace}, Spec: *spec.DeepCopy()}
	imp.Spec.TargetImage = image
	return imp, requester.Target{
		Resource:  v1beta1.SchemeGroupVersion.WithResource("imageimports"),
		Kind:      v1beta1.SchemeGroupVersion.WithKind("ImageImport"),
		Namespace: namespace,
		Name:      imp.Name,
	}
}

// aboutImage lets an error about an ImageImport name the Image instead, as the request did: the name of the import was made up
// by the server and says nothing to the caller.
func aboutImage(err error, image string) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Details == nil {
		return err
	}
	named := status.ErrStatus.DeepCopy()
	named.Message = strings.Replace(named.Message, strconv.Quote(named.Details.Name), strconv.Quote(image), 1)
	named.Details.Name = image
	return &apierrors.StatusError{ErrStatus: *named}
}

// suffix returns eight hexadecimal digits.
func suffix() string {
	return fmt.Sprintf("%08x", uint32(utilrand.Int63nRange(0, 1<<32)))
}

// wait returns the import when it is settled, or as far as it came when waiting must end. That a wait fails is no failure of
// the import: the client follows the stored object.
func (r *ImportREST) wait(ctx context.Context, imp *tagger.ImageImport) *tagger.ImageImport {
	ctx = importContext(ctx, imp)
	watcher, err := r.imports.Watch(ctx, &metainternalversion.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", imp.Name),
		ResourceVersion: imp.ResourceVersion,
	})
	if err != nil {
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not wait for an import", "imageImport", klog.KObj(imp))
		}
		return imp
	}
	defer watcher.Stop()
	for {
		select {
		case event, ok := <-watcher.ResultChan():
			changed, isImport := plain(event.Object).(*tagger.ImageImport)
			if !ok || !isImport || event.Type == watch.Deleted {
				return imp
			}
			imp = changed
			if settled(imp) {
				return imp
			}
		case <-ctx.Done():
			return imp
		case <-r.stopping:
			return imp
		}
	}
}

// plain returns what the watch cache wraps to serialise it once for all who watch.
func plain(obj runtime.Object) runtime.Object {
	if wrapped, ok := obj.(runtime.CacheableObject); ok {
		return wrapped.GetObject()
	}
	return obj
}

// importContext returns a context in which the request is about the import: the storage looks there for what is watched, and the
// request itself names the Image.
func importContext(ctx context.Context, imp *tagger.ImageImport) context.Context {
	return request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true,
		Verb:              "watch",
		APIPrefix:         "apis",
		APIGroup:          v1beta1.SchemeGroupVersion.Group,
		APIVersion:        v1beta1.SchemeGroupVersion.Version,
		Resource:          "imageimports",
		Namespace:         imp.Namespace,
		Name:              imp.Name,
	})
}

// settled says whether waiting longer for an import makes little sense: it ended, or an attempt failed in a way that seldom
// heals by itself.
func settled(imp *tagger.ImageImport) bool {
	if imp.Status.CompletionTime != nil {
		return true
	}
	condition := meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported)
	return condition != nil && v1beta1.ReasonSeldomHeals(condition.Reason)
}
