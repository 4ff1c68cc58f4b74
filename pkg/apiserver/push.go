// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/distribution"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/queue"
	imageregistry "tagger.dev/tagger/pkg/registry/tagger/image"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
)

const (
	// latestTag is the tag that follows the current reference of an Image.
	latestTag = "latest"
	// recordTimeout is how long what a push or a deletion does to an Image may take once the content is there: it is not cut short
	// when the client leaves.
	recordTimeout = 30 * time.Second
	// maxConfigBytes bounds what is read of an image's config, for its platform.
	maxConfigBytes = 1 << 20
)

// imageBackend is the content of a mirror with the meaning that Images give it: a tag that is pushed becomes an entry of the history
// of the Image of that name, and what is deleted there leaves it.
type imageBackend struct {
	distribution.Backend
	pushes  pusher
	history history
	// host is what references to the endpoint begin with.
	host string
	// deleted is told of deletions that changed what an Image has.
	deleted func(ctx context.Context, image *v1beta1.Image, dgst digest.Digest)
}

// pusher does what a push does to an Image beside its history, as the user of ctx.
type pusher interface {
	Prepare(ctx context.Context, name string) (*tagger.Image, func(context.Context), error)
}

// history records what becomes of an Image. Errors are API errors.
type history interface {
	RecordPush(ctx context.Context, image *v1beta1.Image, pushed queue.Pushed, tag func(context.Context) error) error
	RecordDeletion(ctx context.Context, namespace, name string, dgst digest.Digest, began time.Time) (*v1beta1.Image, error)
}

var (
	_ pusher  = &imagestorage.Pushes{}
	_ history = &queue.Controller{}
)

// PutManifest implements distribution.Backend.
func (b *imageBackend) PutManifest(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, manifest []byte, tags []string) error {
	named := slices.DeleteFunc(slices.Clone(tags), distribution.ReferrersTag)
	subject, err := distribution.Subject(manifest)
	if err != nil {
		return err
	}
	if len(named) == 0 || subject != "" && !slices.Contains(tags, latestTag) {
		return b.Backend.PutManifest(ctx, repo, desc, manifest, tags)
	}
	if len(validation.IsDNS1123Label(repo.Name)) > 0 {
		return distribution.Explain(distribution.ErrNameInvalid,
			"an Image cannot be called %s: its name has lower case letters, digits and - between them, at most 63", repo.Name)
	}
	// First the content, which nothing names yet: no Image is touched for what is refused.
	if err := b.Backend.PutManifest(ctx, repo, desc, manifest, nil); err != nil {
		return err
	}
	pushed := queue.Pushed{From: b.host + "/" + repo.String() + ":" + named[0], Digest: desc.Digest, MediaType: desc.MediaType}
	pushed.Size, pushed.Platforms = b.describe(ctx, repo, desc, manifest)
	ctx, cancel := context.WithTimeout(request.WithNamespace(context.WithoutCancel(ctx), repo.Namespace), recordTimeout)
	defer cancel()
	prepared, undo, err := b.pushes.Prepare(ctx, repo.Name)
	if err != nil {
		return fmt.Errorf("preparing the Image: %w", endpointError(err))
	}
	image := &v1beta1.Image{}
	if err := Scheme.Convert(prepared, image, nil); err != nil {
		return err
	}
	// The tag latest follows from what is recorded.
	kept := slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return tag == latestTag })
	tagged := false
	err = b.history.RecordPush(ctx, image, pushed, func(ctx context.Context) error {
		err := b.Backend.PutManifest(ctx, repo, desc, manifest, append(kept, queue.Anchor(desc.Digest)))
		tagged = err == nil
		return err
	})
	if err == nil {
		return nil
	}
	if !tagged || imageregistry.Refused(err) { // else it may be recorded, and the schedule stays suspended
		undo(ctx)
	}
	return fmt.Errorf("recording a push: %w", endpointError(err))
}

// describe returns size and platforms of an image, as far as they are known.
func (b *imageBackend) describe(ctx context.Context, repo distribution.Repository, desc ocispec.Descriptor, manifest []byte) (int64, []string) {
	d, err := importer.Describe(manifest, desc.MediaType)
	if err != nil { // nothing that is imported, and yet content
		return 0, nil
	}
	if d.Config.Digest == "" {
		return d.Size, d.Platforms
	}
	config, err := b.Blob(ctx, repo, d.Config.Digest)
	if err != nil {
		return d.Size, nil
	}
	defer config.Close()
	reader, err := distribution.Open(config, 0, min(config.Descriptor().Size, maxConfigBytes))
	if err != nil {
		return d.Size, nil
	}
	defer reader.Close()
	raw, err := io.ReadAll(reader)
	if err != nil {
		return d.Size, nil
	}
	if platform := importer.ConfigPlatform(raw); platform != "" {
		return d.Size, []string{platform}
	}
	return d.Size, nil
}

// DeleteTag implements distribution.Backend. It never touches a history.
func (b *imageBackend) DeleteTag(ctx context.Context, repo distribution.Repository, tag string) error {
	if tag == latestTag {
		return distribution.Explain(distribution.ErrReserved,
			"latest follows the Image %s: roll that back, or delete the manifest by its digest; of an Image that was deleted it goes by itself", repo)
	}
	return b.Backend.DeleteTag(ctx, repo, tag)
}

// DeleteManifest implements distribution.Backend. A manifest that is gone already may still be in the history, where an earlier
// deletion was cut short.
func (b *imageBackend) DeleteManifest(ctx context.Context, repo distribution.Repository, dgst digest.Digest) error {
	began := time.Now()
	deleteErr := b.Backend.DeleteManifest(ctx, repo, dgst)
	if deleteErr != nil && !errors.Is(deleteErr, distribution.ErrManifestUnknown) {
		return deleteErr
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	image, err := b.history.RecordDeletion(ctx, repo.Namespace, repo.Name, dgst, began)
	if image != nil {
		klog.FromContext(ctx).Info("What an Image had was deleted at the registry", "image", klog.KObj(image), "digest", dgst)
		b.deleted(ctx, image, dgst)
	}
	if err != nil {
		return fmt.Errorf("recording a deletion: %w", endpointError(err))
	}
	return deleteErr
}

// endpointError is what an API error means to who pushes.
func endpointError(err error) error {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return err
	}
	var kind distribution.Error
	switch status.Status().Code {
	case http.StatusForbidden, http.StatusBadRequest, http.StatusUnprocessableEntity: // also by a policy or a webhook
		kind = distribution.ErrForbidden
	case http.StatusConflict:
		kind = distribution.ErrConflict
	case http.StatusTooManyRequests:
		kind = distribution.ErrTooMany
	case http.StatusNotFound: // the namespace
		kind = distribution.ErrNameUnknown
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		kind = distribution.ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", distribution.Explain(kind, "%s", status.Status().Message), err)
}
