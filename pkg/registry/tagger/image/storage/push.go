// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/registry/tagger/image"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
)

// PushStore is what a push needs of the storage of Images.
type PushStore interface {
	rest.Getter
	rest.Creater
	rest.Updater
}

// Pushes writes, as who pushes to the registry endpoint, what a push does to an Image beside its history.
type Pushes struct {
	images PushStore
	writer *requester.Writer
}

// NewPushes returns Pushes; all arguments are required.
func NewPushes(images PushStore, writer *requester.Writer) *Pushes {
	return &Pushes{images: images, writer: writer}
}

// Prepare returns the Image of that name, in the namespace of ctx, as a push can be recorded in it: one that is absent is created,
// which needs the right to create images, and a schedule is suspended, so that no refresh undoes the push, which needs that to
// update them. What it returns as well lets the schedule go on where the push is refused after all. Errors are API errors.
func (p *Pushes) Prepare(ctx context.Context, name string) (_ *tagger.Image, undo func(context.Context), err error) {
	undo = func(context.Context) {}
	img, err := p.imageOf(ctx, name)
	if apierrors.IsNotFound(err) {
		img, err = p.create(ctx, name)
	}
	if err != nil {
		return nil, undo, err
	}
	if err := image.CheckNotDeleted(img, "push again when it is gone"); err != nil {
		return nil, undo, err
	}
	if !image.Refreshes(img) {
		return img, undo, nil
	}
	if err := p.writer.Authorize(ctx, "update", image.Target(ctx, name), "the push suspends the refresh of its Image"); err != nil {
		return nil, undo, err
	}
	img, resume, err := image.SuspendRefresh(ctx, p.writer, p.images, img, nil)
	if err != nil {
		return nil, undo, err
	}
	return img, resume, nil
}

func (p *Pushes) imageOf(ctx context.Context, name string) (*tagger.Image, error) {
	obj, err := p.images.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*tagger.Image), nil
}

// create creates an Image that pushes feed; where somebody else was faster it is theirs.
func (p *Pushes) create(ctx context.Context, name string) (*tagger.Image, error) {
	target := image.Target(ctx, name)
	if err := p.writer.Authorize(ctx, "create", target, "the push creates its Image"); err != nil {
		return nil, err
	}
	obj, err := p.writer.Create(ctx, p.images, &tagger.Image{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: target.Namespace},
		Spec:       tagger.ImageSpec{HistoryLimit: ptr.To(v1beta1.DefaultHistoryLimit)},
	}, target, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return p.imageOf(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	return obj.(*tagger.Image), nil
}
