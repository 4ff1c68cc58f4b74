// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tagger_test tests the storage of Images and ImageImports together, as they are bound to each other: on a real etcd,
// behind the watch cache that the server has.
package tagger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/install"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/embedded"
	imagestorage "tagger.dev/tagger/pkg/registry/tagger/image/storage"
	imageimportstorage "tagger.dev/tagger/pkg/registry/tagger/imageimport/storage"
	mirrorreleasestorage "tagger.dev/tagger/pkg/registry/tagger/mirrorrelease/storage"
	"tagger.dev/tagger/pkg/registry/tagger/requester"
	taggerrest "tagger.dev/tagger/pkg/registry/tagger/rest"
)

const (
	namespace = "ns"
	// alice makes the requests of these tests, and has every right but those that a test denies.
	alice = "alice"
)

// endpoint is the etcd that the tests share, each below a prefix of its own.
var (
	endpoint string
	prefixes atomic.Int64
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "tagger-storage-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	etcd, err := embedded.StartEtcd(ctx, embedded.EtcdConfig{Dir: dir})
	if err != nil {
		return 0, err
	}
	defer etcd.Close()
	endpoint = etcd.Endpoint()
	return m.Run(), nil
}

// stores are the storages of one test.
type stores struct {
	images       *imagestorage.REST
	imageStatus  *taggerrest.Status
	imports      *imageimportstorage.REST
	importStatus *taggerrest.Status
	releases     *mirrorreleasestorage.REST
	// releaseStatus is that of a MirrorRelease.
	releaseStatus *taggerrest.Status
	writer        *requester.Writer
	prefix        string // in etcd
	// released are the digests of Images whose deletion the mirror was told of, once each.
	released *released
}

// released is what storage tells of deleted Images.
type released struct {
	mu      sync.Mutex
	digests []string
	// asked, when set, runs with each Image.
	asked func(image *tagger.Image)
}

func (r *released) Release(_ context.Context, image *tagger.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked != nil {
		r.asked(image)
	}
	for _, ref := range image.Status.HashReferences {
		if said := image.Name + " " + ref.ImageReference; !slices.Contains(r.digests, said) {
			r.digests = append(r.digests, said)
		}
	}
	slices.Sort(r.digests)
}

// noFields keeps nothing of who manages what.
type noFields struct{}

func (noFields) UpdateNoErrors(_, updated runtime.Object, _ string) runtime.Object { return updated }

func noManagers(schema.GroupVersionKind) requester.FieldManager { return noFields{} }

// setup says how the storages of a test differ from those where everything is allowed.
type setup struct {
	// prefix, when set, is that of other storages, as another replica of a server has it.
	prefix     string
	authorizer authorizer.AuthorizerFunc
	admission  admission.Interface
	// around, when set, wraps the storage of Images that imports are bound to.
	around func(imageimportstorage.ImageStore) imageimportstorage.ImageStore
}

func newStores(t *testing.T, with setup) *stores {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	if with.prefix == "" {
		with.prefix = fmt.Sprintf("/test-%d", prefixes.Add(1))
	}
	getter := options{prefix: with.prefix, codec: serializer.NewCodecFactory(scheme).LegacyCodec(v1beta1.SchemeGroupVersion)}
	if with.authorizer == nil {
		with.authorizer = deny()
	}
	if with.admission == nil {
		with.admission = admission.NewChainHandler()
	}
	s := &stores{writer: requester.NewWriter(with.authorizer, with.admission, noManagers, scheme), prefix: with.prefix, released: &released{}}
	var err error
	if s.images, s.imageStatus, err = imagestorage.NewREST(scheme, getter, validReference, s.released, clock.RealClock{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.images.Destroy)
	if s.releases, s.releaseStatus, err = mirrorreleasestorage.NewREST(scheme, getter, clock.RealClock{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.releases.Destroy)
	var images imageimportstorage.ImageStore = s.images
	if with.around != nil {
		images = with.around(images)
	}
	if s.imports, s.importStatus, err = imageimportstorage.NewREST(scheme, getter, validReference, images, s.writer,
		sameReference, clocktesting.NewFakePassiveClock(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.imports.Destroy)
	for _, store := range []*registry.Store{s.images.Store, s.imports.Store, s.releases.Store} {
		if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
			return store.Storage.Storage.ReadinessCheck() == nil, nil
		}); err != nil {
			t.Fatalf("the cache of %s: %v", store.DefaultQualifiedResource, err)
		}
	}
	return s
}

// options is where each resource is stored.
type options struct {
	prefix string
	codec  runtime.Codec
}

func (o options) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	config := storagebackend.NewDefaultConfig(o.prefix, o.codec)
	config.Transport.ServerList = []string{endpoint}
	return generic.RESTOptions{
		StorageConfig:           config.ForResource(resource),
		Decorator:               registry.StorageWithCacher(),
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          resource.Resource,
	}, nil
}

// validReference and sameReference stand in for the parser of references.
func validReference(reference string) error {
	if reference == "malformed" {
		return errors.New("write host/repository:tag")
	}
	return nil
}

func sameReference(a, b string) bool {
	canonical := func(s string) string {
		return strings.TrimPrefix(strings.TrimSuffix(s, ":latest"), "docker.io/library/")
	}
	return canonical(a) == canonical(b)
}

// deny allows everything but what is named as "verb resource".
func deny(rights ...string) authorizer.AuthorizerFunc {
	return func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		for _, right := range rights {
			if right == a.GetVerb()+" "+a.GetResource() {
				return authorizer.DecisionNoOpinion, "no rule allows it", nil
			}
		}
		return authorizer.DecisionAllow, "", nil
	}
}

// plugin is an admission plugin that does what a test says, on creates and updates.
type plugin struct {
	admit, validate func(context.Context, admission.Attributes) error
}

var (
	_ admission.MutationInterface   = plugin{}
	_ admission.ValidationInterface = plugin{}
)

func (plugin) Handles(operation admission.Operation) bool {
	return operation == admission.Create || operation == admission.Update
}

func (p plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if p.admit == nil {
		return nil
	}
	return p.admit(ctx, a)
}

func (p plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if p.validate == nil {
		return nil
	}
	return p.validate(ctx, a)
}

// as returns the context of a user's request, which is about a resource and, where that has a name, about one object.
func as(t *testing.T, name, verb, resource, object string) context.Context {
	t.Helper()
	// What writes beside a request may end after the test did.
	ctx := request.WithNamespace(context.WithoutCancel(t.Context()), namespace)
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: name, Groups: []string{"developers"}})
	resource, subresource, _ := strings.Cut(resource, "/")
	return request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: verb, APIPrefix: "apis", APIGroup: tagger.GroupName, APIVersion: "v1beta1",
		Namespace: namespace, Resource: resource, Subresource: subresource, Name: object,
	})
}

func (s *stores) createImage(t *testing.T, image *tagger.Image) *tagger.Image {
	t.Helper()
	obj, err := s.images.Create(as(t, alice, "create", "images", ""), image.DeepCopy(), rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*tagger.Image)
}

// image returns an Image as it is stored, nil when it is not.
func (s *stores) image(t *testing.T, name string) *tagger.Image {
	t.Helper()
	obj, err := s.images.Get(as(t, alice, "get", "images", name), name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*tagger.Image)
}

// stored returns all ImageImports as they are stored.
func (s *stores) stored(t *testing.T) []tagger.ImageImport {
	t.Helper()
	obj, err := s.imports.List(as(t, alice, "list", "imageimports", ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*tagger.ImageImportList).Items
}
