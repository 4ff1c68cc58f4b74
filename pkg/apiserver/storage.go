// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/queue"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
	imageimportstorage "tagger.dev/tagger/pkg/registry/tagger/imageimport/storage"
	mirrorreleasestorage "tagger.dev/tagger/pkg/registry/tagger/mirrorrelease/storage"
	registrytokenstorage "tagger.dev/tagger/pkg/registry/tagger/registrytoken/storage"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
	"tagger.dev/tagger/pkg/token"
)

// groupInfo lists every path of the tagger.dev group, but images/proxy: that is the registry endpoint, for which it also returns what
// pushes write there.
func (c CompletedConfig) groupInfo(imports *queue.Controller, mirrorReleases *mirrorreleasestorage.REST, mirrorReleaseStatus rest.Storage,
	tokens *token.Ring, stopping <-chan struct{}) (*genericapiserver.APIGroupInfo, *imagestorage.Pushes, error) {
	getter := c.generic.RESTOptionsGetter
	admit := c.generic.AdmissionControl
	if admit == nil {
		admit = admission.NewChainHandler()
	}
	images, imageStatus, err := imagestorage.NewREST(Scheme, getter, validReference, releaser{imports}, c.extra.Clock)
	if err != nil {
		return nil, nil, fmt.Errorf("storage of images: %w", err)
	}
	fields, err := c.fieldManagers()
	if err != nil {
		return nil, nil, err
	}
	writer := requester.NewWriter(c.generic.Authorization.Authorizer, admit, fields, Scheme)
	imageImports, imageImportStatus, err := imageimportstorage.NewREST(Scheme, getter, validReference, images, writer, sameReference,
		c.extra.Clock)
	if err != nil {
		return nil, nil, fmt.Errorf("storage of imageimports: %w", err)
	}
	imageImport := imagestorage.NewImportREST(imageImports, writer, verifier{imports}, stopping)
	imageRollback := imagestorage.NewRollbackREST(images, writer, rollbacker{imports}, c.extra.Clock)

	info := genericapiserver.NewDefaultAPIGroupInfo(tagger.GroupName, Scheme, runtime.NewParameterCodec(Scheme), Codecs)
	info.NegotiatedSerializer = textCodecs{Codecs}
	info.VersionedResourcesStorageMap[v1beta1.SchemeGroupVersion.Version] = map[string]rest.Storage{
		"images":                images,
		"images/status":         imageStatus,
		"images/import":         imageImport,
		"images/rollback":       imageRollback,
		"imageimports":          imageImports,
		"imageimports/status":   imageImportStatus,
		"mirrorreleases":        mirrorReleases,
		"mirrorreleases/status": mirrorReleaseStatus,
		"registrytokens":        registrytokenstorage.NewREST(tokens, c.registryEndpoint()),
	}
	return &info, imagestorage.NewPushes(images, writer), nil
}

// registryEndpoint returns where the registry endpoint is.
func (c CompletedConfig) registryEndpoint() tagger.RegistryEndpoint {
	return tagger.RegistryEndpoint{Host: c.extra.Registry.Host, CABundle: c.extra.Registry.CertificateAuthority}
}

func validReference(reference string) error {
	_, err := importer.ParseReference(reference)
	return err
}

func sameReference(a, b string) bool {
	refA, errA := importer.ParseReference(a)
	refB, errB := importer.ParseReference(b)
	return errA == nil && errB == nil && refA.String() == refB.String()
}

// verifier lets the queue, which speaks the served version, verify imports in the internal one.
type verifier struct {
	imports *queue.Controller
}

func (v verifier) Verify(ctx context.Context, imp *tagger.ImageImport) (*tagger.ImageImport, error) {
	versioned := &v1beta1.ImageImport{}
	if err := Scheme.Convert(imp, versioned, nil); err != nil {
		return nil, err
	}
	verified := &tagger.ImageImport{}
	return verified, Scheme.Convert(v.imports.Verify(ctx, versioned), verified, nil)
}

// releaser lets the queue, which speaks the served version, write down what the mirror need not keep of a deleted Image.
type releaser struct {
	imports *queue.Controller
}

// Release implements storage.Releaser.
func (r releaser) Release(ctx context.Context, image *tagger.Image) {
	versioned := &v1beta1.Image{}
	if err := Scheme.Convert(image, versioned, nil); err != nil {
		klog.FromContext(ctx).Error(err, "Could not write down what the mirror need not keep", "image", klog.KObj(image))
		return
	}
	r.imports.ReleaseImage(ctx, versioned)
}

// releases lets the queue, which speaks the served version, write MirrorReleases to their storage.
type releases struct {
	storage *mirrorreleasestorage.REST
}

// Request implements queue.Releases.
func (r releases) Request(ctx context.Context, release *v1beta1.MirrorRelease) (_ *v1beta1.MirrorRelease, created bool, err error) {
	internal, stored := &tagger.MirrorRelease{}, &v1beta1.MirrorRelease{}
	if err := Scheme.Convert(release, internal, nil); err != nil {
		return nil, false, err
	}
	if internal, created, err = r.storage.Request(ctx, internal); err != nil {
		return nil, false, apiError(err)
	}
	return stored, created, Scheme.Convert(internal, stored, nil)
}

// apiError makes an API error of what a storage fails by, as the handler of a request would: some of it is of etcd.
func apiError(err error) error {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// addImports has the queue run as long as the server does: from when the API answers until the server is asked to stop, when
// it drains before the API closes.
func addImports(server *genericapiserver.GenericAPIServer, imports *queue.Controller) error {
	const name = "tagger-imports"
	running, cancel := context.WithCancel(context.Background())
	var started atomic.Bool
	ended := make(chan struct{})
	if err := server.AddPostStartHook(name, func(genericapiserver.PostStartHookContext) error {
		started.Store(true)
		go func() {
			defer close(ended)
			imports.Run(running)
		}()
		return nil
	}); err != nil {
		cancel()
		return err
	}
	return server.AddPreShutdownHook(name, func() error {
		cancel()
		if started.Load() {
			<-ended
		}
		return nil
	})
}
