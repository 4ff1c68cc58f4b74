// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/keymutex"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	clientset "tagger.dev/tagger/pkg/generated/clientset/versioned"
	informers "tagger.dev/tagger/pkg/generated/informers/externalversions"
	listers "tagger.dev/tagger/pkg/generated/listers/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/limit"
)

// writeLocks is how many Images may be written to at once, but for hash collisions.
const writeLocks = 1024

// byImage is the index of ImageImports by the Image that they import, as namespace/name.
const byImage = "image"

// Importer resolves and copies images.
type Importer interface {
	Resolve(ctx context.Context, src importer.Source, known digest.Digest) (*importer.Resolved, error)
	Mirror(ctx context.Context, src importer.Source, resolved *importer.Resolved, dst importer.Destination,
		progress func(importer.Progress)) (*importer.Mirrored, error)
	MirrorReferrers(ctx context.Context, src importer.Source, resolved *importer.Resolved, dst importer.Destination) (map[string]digest.Digest, error)
	// Pause returns how long the host of a reference is not to be asked anything; 0 where it may be.
	Pause(ref importer.Reference) time.Duration
}

// Keychains returns the credentials that imports of a namespace may use.
type Keychains func(namespace string) importer.Keychain

// Mirrors finds the repository of the mirror that an Image is copied into.
type Mirrors interface {
	// Repository returns the repository of an Image and the reference that names it, without tag or digest.
	Repository(ctx context.Context, namespace, image string) (importer.Destination, string, error)
}

// Config is what a Controller needs; every field is required.
type Config struct {
	Client    clientset.Interface
	Importer  Importer
	Keychains Keychains
	Mirrors   Mirrors
	Clock     clock.WithTicker
	// Workers is how many attempts run at once; PerHost how many of them at one upstream host.
	Workers, PerHost int
	// AttemptTimeout ends an attempt, mirroring included.
	AttemptTimeout time.Duration
	// DrainTimeout is how long attempts that run when Run's context ends may go on. What is cut off then is taken up again by
	// the next start.
	DrainTimeout time.Duration
	// CollectOrphans removes ImageImports whose Image is gone: where no garbage collector runs beside the server.
	CollectOrphans bool
}

// Controller runs imports. Use New.
type Controller struct {
	Config
	queue    workqueue.TypedRateLimitingInterface[cache.ObjectName]
	informer informers.SharedInformerFactory
	imports  cache.SharedIndexInformer
	images   cache.SharedIndexInformer
	lister   listers.ImageImportLister
	hosts    *limit.Keyed
	underWay underWay
	// writing lets one of several imports of an Image write to it at a time, as namespace/name.
	writing keymutex.KeyMutex
}

// New returns a Controller that does nothing until Run is called.
func New(config Config) (*Controller, error) {
	registerMetrics()
	factory := informers.NewSharedInformerFactoryWithOptions(config.Client, 0, informers.WithTransform(trim))
	c := &Controller{
		Config: config,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName](),
			workqueue.TypedRateLimitingQueueConfig[cache.ObjectName]{Name: "imports", Clock: config.Clock}),
		informer: factory,
		imports:  factory.Tagger().V1beta1().ImageImports().Informer(),
		images:   factory.Tagger().V1beta1().Images().Informer(),
		lister:   factory.Tagger().V1beta1().ImageImports().Lister(),
		hosts:    limit.NewKeyed(config.PerHost),
		writing:  keymutex.NewHashed(writeLocks),
	}
	if err := c.imports.AddIndexers(cache.Indexers{byImage: func(obj any) ([]string, error) {
		imp := obj.(*v1beta1.ImageImport)
		return []string{imp.Namespace + "/" + imp.Spec.TargetImage}, nil
	}}); err != nil {
		return nil, err
	}
	if _, err := c.imports.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.enqueue,
		UpdateFunc: func(_, obj any) { c.enqueue(obj) },
		DeleteFunc: c.cancelDeleted,
	}); err != nil {
		return nil, err
	}
	if _, err := c.images.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: c.enqueueImportsOf}); err != nil {
		return nil, err
	}
	return c, nil
}

// trim drops from the caches what the controller never reads there.
func trim(obj any) (any, error) {
	if image, ok := obj.(*v1beta1.Image); ok {
		image.Spec, image.Status = v1beta1.ImageSpec{}, v1beta1.ImageStatus{}
	}
	if accessor, err := meta.Accessor(obj); err == nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

func (c *Controller) enqueue(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		utilruntime.HandleError(err)
		return
	}
	c.queue.Add(name)
}

// cancelDeleted ends the attempt of an import that was deleted.
func (c *Controller) cancelDeleted(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	if imp, ok := obj.(*v1beta1.ImageImport); ok {
		c.underWay.cancel(imp.UID, errImportGone)
	}
}

// enqueueImportsOf ends the attempts of the imports of a deleted Image, and has them looked at again.
func (c *Controller) enqueueImportsOf(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		utilruntime.HandleError(err)
		return
	}
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	var deleted types.UID
	if image, ok := obj.(*v1beta1.Image); ok {
		deleted = image.UID
	}
	imports, err := c.imports.GetIndexer().ByIndex(byImage, name.String())
	if err != nil {
		utilruntime.HandleError(err)
		return
	}
	for _, obj := range imports {
		imp := obj.(*v1beta1.ImageImport)
		if owner := metav1.GetControllerOf(imp); owner != nil && owner.UID == deleted {
			c.underWay.cancel(imp.UID, errImageGone)
		}
		c.enqueue(imp)
	}
}

// Run works until ctx ends, then lets the attempts that run end, for DrainTimeout at most, and returns.
func (c *Controller) Run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	defer utilruntime.HandleCrashWithContext(ctx)
	c.informer.StartWithContext(ctx)
	defer c.informer.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), c.imports.HasSynced, c.images.HasSynced) {
		c.queue.ShutDown()
		return // asked to stop before it began: there is nothing to let end
	}
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() {
			for c.next(work) {
			}
		})
	}
	<-ctx.Done()
	logger.Info("Letting imports end", "atMost", c.DrainTimeout)
	c.queue.ShutDown()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		workers.Wait()
	}()
	timer := c.Clock.NewTimer(c.DrainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C():
		stop(errDrained)
		<-drained
	}
}

// errDrained is why attempts end that would take longer than a shutdown may.
var errDrained = errors.New("the server is stopping")

// next handles one key; it returns false when the queue has shut down. After the shutdown what is still queued is left to
// the next start.
func (c *Controller) next(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	if c.queue.ShuttingDown() {
		return true
	}
	logger := klog.LoggerWithValues(klog.FromContext(ctx), "imageImport", klog.KRef(key.Namespace, key.Name))
	after, err := c.sync(klog.NewContext(ctx, logger), key)
	switch {
	case context.Cause(ctx) != nil && err != nil: // stopping: the next start takes it up again
	case err != nil:
		logger.Error(err, "Import is looked at again")
		c.queue.AddRateLimited(key)
	default:
		c.queue.Forget(key)
		if after > 0 {
			c.queue.AddAfter(key, after)
		}
	}
	return true
}

// sync does what an ImageImport needs now, and returns after which time it needs to be looked at again; 0 for never.
func (c *Controller) sync(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	defer c.hosts.Settle(key.String())
	cached, err := c.lister.ImageImports(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && cached.DeletionTimestamp != nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if c.CollectOrphans {
		if gone, err := c.collectOrphan(ctx, cached); gone || err != nil {
			return 0, err
		}
	}
	if cached.Status.CompletionTime != nil {
		return c.collectFinished(ctx, cached)
	}
	if wait := c.untilDue(cached); wait > 0 {
		return wait, nil
	}
	// The spec never changes, so the cache does here: an import that waits for its host costs no request.
	release, free := c.place(cached, key)
	if !free {
		return 0, nil // it is looked at again when there is a place
	}
	defer release()
	// The cache may lag behind this server's own writes: an attempt begins with what is stored.
	imp, err := c.Client.TaggerV1beta1().ImageImports(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return 0, client(err)
	}
	if imp.Status.CompletionTime != nil || imp.DeletionTimestamp != nil {
		return 0, nil // the event of that write brings it here again
	}
	if wait := c.untilDue(imp); wait > 0 {
		return wait, nil
	}
	return c.run(ctx, imp)
}

// place takes the place of an attempt at its upstream host. Without a free one the import is queued again once there is.
func (c *Controller) place(imp *v1beta1.ImageImport, key cache.ObjectName) (release func(), free bool) {
	ref, err := importer.ParseReference(imp.Spec.From)
	if err != nil {
		return func() {}, true // the attempt says what is wrong
	}
	return c.hosts.AcquireOrWait(ref.Host(), key.String(), func() { c.queue.Add(key) })
}

func (c *Controller) untilDue(imp *v1beta1.ImageImport) time.Duration {
	if imp.Status.NextAttemptTime == nil {
		return 0
	}
	return imp.Status.NextAttemptTime.Sub(c.Clock.Now())
}

// client forgives that an object is gone: there is nothing left to do then.
func client(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
