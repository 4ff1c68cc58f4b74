// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/apis/tagger/validation"
	imageregistry "tagger.dev/tagger/pkg/registry/tagger/image"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// ImageStore is what creating an import needs of the storage of Images.
type ImageStore interface {
	rest.Getter
	rest.Creater
	rest.Updater
	rest.GracefulDeleter
}

// SameReference says whether two references, both valid, mean the same after normalisation.
type SameReference func(a, b string) bool

// binder binds an import that is being created to its Image.
type binder struct {
	imports   rest.Getter
	images    ImageStore
	writer    *requester.Writer
	reference validation.ReferenceValidator
	same      SameReference
}

// beginCreate runs before an ImageImport is validated and stored, on every path that creates one (a create, an apply,
// images/import): it fills in what is absent, so that the object says for ever what was asked for. An Image that it created
// is taken back when the import is refused afterwards.
func (b *binder) beginCreate(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (registry.FinishFunc, error) {
	imp := obj.(*tagger.ImageImport)
	spec := field.NewPath("spec")
	if errs := validation.ValidateImageImportSpec(&imp.Spec, b.reference, spec); len(errs) > 0 {
		return nil, invalid(imp, errs)
	}
	// Nothing is done to the Image for an import whose name is taken.
	if imp.Name != "" {
		if _, err := b.imports.Get(ctx, imp.Name, &metav1.GetOptions{}); err == nil {
			return nil, apierrors.NewAlreadyExists(tagger.Resource("imageimports"), imp.Name)
		}
	}
	finish := func(context.Context, bool) {}
	image, err := b.image(ctx, imp.Spec.TargetImage)
	if apierrors.IsNotFound(err) {
		image, finish, err = b.createImage(ctx, imp, options)
		if apierrors.IsAlreadyExists(err) { // somebody else was faster: import into theirs
			if image, err = b.image(ctx, imp.Spec.TargetImage); err == nil {
				image, finish, err = b.override(ctx, imp, image, options)
			}
		}
	} else if err == nil {
		image, finish, err = b.override(ctx, imp, image, options)
	}
	if err != nil {
		return nil, err
	}
	if imp.Spec.From == "" {
		imp.Spec.From = image.Spec.From
	}
	if imp.Spec.Mirror == nil {
		imp.Spec.Mirror = ptr.To(image.Spec.Mirror)
	}
	if imp.Spec.Insecure == nil {
		imp.Spec.Insecure = ptr.To(image.Spec.Insecure)
	}
	own(imp, image)
	return finish, nil
}

func (b *binder) image(ctx context.Context, name string) (*tagger.Image, error) {
	obj, err := b.images.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*tagger.Image), nil
}

// createImage creates the Image of an import as the requester. It is deleted again when the import is refused afterwards,
// unless somebody touched it since.
func (b *binder) createImage(ctx context.Context, imp *tagger.ImageImport, options *metav1.CreateOptions) (*tagger.Image, registry.FinishFunc, error) {
	name := imp.Spec.TargetImage
	if imp.Spec.From == "" {
		return nil, nil, invalid(imp, field.ErrorList{field.Required(field.NewPath("spec", "from"),
			fmt.Sprintf("there is no Image %q in this namespace; say where to import it from to have it created", name))})
	}
	target := imageregistry.Target(ctx, name)
	if err := b.writer.Authorize(ctx, "create", target, "the import creates its Image"); err != nil {
		return nil, nil, err
	}
	obj, err := b.writer.Create(ctx, b.images, &tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: target.Namespace},
		Spec: tagger.ImageSpec{
			From:         imp.Spec.From,
			Mirror:       ptr.Deref(imp.Spec.Mirror, false),
			Insecure:     ptr.Deref(imp.Spec.Insecure, false),
			HistoryLimit: ptr.To(v1beta1.DefaultHistoryLimit),
		},
	}, target, &metav1.CreateOptions{DryRun: options.DryRun, FieldManager: options.FieldManager})
	if err != nil {
		return nil, nil, err
	}
	image := obj.(*tagger.Image)
	return image, undo(image, options, func(ctx context.Context) error {
		_, _, err := b.images.Delete(ctx, name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &image.UID, ResourceVersion: &image.ResourceVersion},
		})
		return err
	}), nil
}

// override checks what the import asks for against an Image that exists: another source or transport than the Image's needs
// the right to update the Image, and another source suspends its schedule, so that no refresh undoes the import. The schedule
// goes on when the import is refused afterwards.
func (b *binder) override(ctx context.Context, imp *tagger.ImageImport, image *tagger.Image, options *metav1.CreateOptions) (*tagger.Image, registry.FinishFunc, error) {
	nothing := func(context.Context, bool) {}
	if err := imageregistry.CheckNotDeleted(image, "import again when it is gone"); err != nil {
		return nil, nil, err
	}
	if imp.Spec.From == "" && image.Spec.From == "" {
		return nil, nil, invalid(imp, field.ErrorList{field.Required(field.NewPath("spec", "from"),
			fmt.Sprintf("the Image %q names no source either; it is fed by pushes, or say where to import from", image.Name))})
	}
	otherSource := imp.Spec.From != "" && (image.Spec.From == "" || !b.same(imp.Spec.From, image.Spec.From))
	otherTransport := imp.Spec.Insecure != nil && *imp.Spec.Insecure != image.Spec.Insecure
	if !otherSource && !otherTransport {
		return image, nothing, nil
	}
	target := imageregistry.Target(ctx, image.Name)
	if err := b.writer.Authorize(ctx, "update", target, "the import overrides from or insecure of its Image"); err != nil {
		return nil, nil, err
	}
	if otherSource && image.Spec.From != "" {
		warning.AddWarning(ctx, "", fmt.Sprintf("Image %s goes on following %s; to follow %s, change its spec.from", image.Name, image.Spec.From, imp.Spec.From))
	}
	if !otherSource || !imageregistry.Refreshes(image) {
		return image, nothing, nil
	}
	image, resume, err := imageregistry.SuspendRefresh(ctx, b.writer, b.images, image, options.DryRun)
	if err != nil {
		return nil, nil, err
	}
	return image, func(ctx context.Context, success bool) {
		if !success {
			resume(ctx)
		}
	}, nil
}

// undo returns what takes back a write to an Image when the import that it was for is refused afterwards.
func undo(image *tagger.Image, options *metav1.CreateOptions, takeBack func(context.Context) error) registry.FinishFunc {
	return func(ctx context.Context, success bool) {
		if success || len(options.DryRun) > 0 {
			return
		}
		if err := takeBack(context.WithoutCancel(ctx)); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			klog.FromContext(ctx).Error(err, "Could not take back what a refused import did to its Image", "image", klog.KObj(image))
		}
	}
}

// own makes the Image the controller of the import, so that the import is collected with it. A controller that the request
// named is replaced: an import belongs to its Image alone.
func own(imp *tagger.ImageImport, image *tagger.Image) {
	controller := *metav1.NewControllerRef(image, v1beta1.SchemeGroupVersion.WithKind("Image"))
	controller.BlockOwnerDeletion = nil
	owners := []metav1.OwnerReference{controller}
	for _, owner := range imp.OwnerReferences {
		if !ptr.Deref(owner.Controller, false) && owner.UID != image.UID {
			owners = append(owners, owner)
		}
	}
	imp.OwnerReferences = owners
}

func invalid(imp *tagger.ImageImport, errs field.ErrorList) error {
	return apierrors.NewInvalid(tagger.Kind("ImageImport"), imp.Name, errs)
}
