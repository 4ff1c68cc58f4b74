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
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	clientset "tagger.dev/tagger/pkg/generated/clientset/versioned"
	informers "tagger.dev/tagger/pkg/generated/informers/externalversions"
	listers "tagger.dev/tagger/pkg/generated/listers/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/limit"
)

// byImage is the index of ImageImports by the Image that they import, and of MirrorReleases by the one that they are for, as
// namespace/name.
const byImage = "image"

// Importer resolves and copies images.
type Importer interface {
	Resolve(ctx context.Context, src importer.Source, known digest.Digest) (*importer.Resolved, error)
	Mirror(ctx context.Context, src importer.Source, resolved *importer.Resolved, dst importer.Destination,
		progress func(importer.Progress)) (*importer.Mirrored, error)
	MirrorReferrers(ctx context.Context, src importer.Source, resolved *importer.Resolved, dst importer.Destination) (*importer.Referrers, error)
}

// Keychains returns the credentials that imports of a namespace may use.
type Keychains func(namespace string) importer.Keychain

// Mirrors finds the repository of the mirror that an Image is copied into.
type Mirrors interface {
	// Repository returns the repository of an Image and the reference that names it, without tag or digest.
	Repository(ctx context.Context, namespace, image string) (importer.Destination, string, error)
}

// Releases writes down what the mirror need not keep any more.
type Releases interface {
	// Request stores a MirrorRelease or, where there is one of that name, its times in that one, whose status it clears. It returns
	// what is stored then, and whether it was not before. Errors are API errors.
	Request(ctx context.Context, release *v1beta1.MirrorRelease) (stored *v1beta1.MirrorRelease, created bool, err error)
}

// Config is what a Controller needs; every field is required.
type Config struct {
	Client clientset.Interface
	// Releases is apart from Client, since no deletion may depend on what admission says of a release, and none is to be forgotten
	// because the server stops.
	Releases Releases
	// Identity names this process in the claims of imports. No other process has it, nor had it before.
	Identity string
	// SoleReplica says that no other process runs imports: a claim of somebody else is that of a predecessor that has ended,
	// and is taken up at once.
	SoleReplica bool

	Importer  Importer
	Keychains Keychains
	Mirrors   Mirrors
	Clock     clock.WithTicker
	// Workers is how many attempts run at once, and how many schedules are looked at; PerHost how many attempts at one upstream host,
	// and PerNamespace how many of one namespace, whose sources may be slow on purpose.
	Workers, PerHost, PerNamespace int
	// AttemptTimeout ends an attempt, mirroring included.
	AttemptTimeout time.Duration
	// DrainTimeout is how long attempts that run when Run's context ends may go on. What is cut off then is taken up again by
	// the next start.
	DrainTimeout time.Duration
	// ReleaseDelay is how long the mirror keeps what an Image does not mean any more; 0 for no longer than it takes.
	ReleaseDelay time.Duration
	// Running returns those of some digests that a Pod of a namespace runs.
	Running func(ctx context.Context, namespace string, digests []digest.Digest) ([]digest.Digest, error)
	// CollectOrphans removes ImageImports whose Image is gone: where no garbage collector runs beside the server.
	CollectOrphans bool
}

// Controller runs imports, and releases at the mirror what is not meant any more. Use New.
type Controller struct {
	Config
	queue workqueue.TypedRateLimitingInterface[cache.ObjectName]
	// refreshes are the Images whose schedule is to be looked at.
	refreshes workqueue.TypedRateLimitingInterface[cache.ObjectName]
	// releases are the MirrorReleases that are to be looked at.
	releases       workqueue.TypedRateLimitingInterface[cache.ObjectName]
	informer       informers.SharedInformerFactory
	imports        cache.SharedIndexInformer
	images         cache.SharedIndexInformer
	mirrorReleases cache.SharedIndexInformer
	lister         listers.ImageImportLister
	hosts          *limit.Keyed
	namespaces     *limit.Keyed
	// shares are those of one namespace at one host, as "HOST NAMESPACE".
	shares *limit.Keyed
	// dryRuns and those of a namespace are apart from attempts: somebody waits for them.
	dryRuns, dryRunsOf *limit.Keyed
	// releasing lets one release of a namespace be tried at a time: its mirror may be its own.
	releasing *limit.Keyed
	underWay  underWay
	claimed   sightings
	// started is when Run began to work.
	started time.Time
	// writing lets one of several imports of an Image write to it at a time, as namespace/name.
	writing *limit.Keyed
}

// New returns a Controller that does nothing until Run is called.
func New(config Config) (*Controller, error) {
	if config.Identity == "" {
		return nil, errors.New("the queue has no identity")
	}
	registerMetrics()
	factory := informers.NewSharedInformerFactoryWithOptions(config.Client, 0, informers.WithTransform(trim))
	c := &Controller{
		Config:         config,
		queue:          newQueue("imports", config.Clock),
		refreshes:      newQueue("refreshes", config.Clock),
		releases:       newQueue("releases", config.Clock),
		informer:       factory,
		imports:        factory.Tagger().V1beta1().ImageImports().Informer(),
		images:         factory.Tagger().V1beta1().Images().Informer(),
		mirrorReleases: factory.Tagger().V1beta1().MirrorReleases().Informer(),
		lister:         factory.Tagger().V1beta1().ImageImports().Lister(),
		hosts:          limit.NewKeyed(config.PerHost),
		namespaces:     limit.NewKeyed(config.PerNamespace),
		shares:         limit.NewKeyed(limit.Share(config.PerHost)),
		dryRuns:        limit.NewKeyed(config.Workers),
		dryRunsOf:      limit.NewKeyed(config.PerNamespace),
		releasing:      limit.NewKeyed(1),
		writing:        limit.NewKeyed(1),
	}
	if err := c.imports.AddIndexers(cache.Indexers{byImage: func(obj any) ([]string, error) {
		imp := obj.(*v1beta1.ImageImport)
		return []string{imp.Namespace + "/" + imp.Spec.TargetImage}, nil
	}}); err != nil {
		return nil, err
	}
	if _, err := c.imports.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.enqueueImport,
		UpdateFunc: func(_, obj any) { c.enqueueImport(obj) },
		DeleteFunc: c.cancelDeleted,
	}); err != nil {
		return nil, err
	}
	if _, err := c.images.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { enqueue(c.refreshes, obj) },
		UpdateFunc: func(old, obj any) {
			if reschedules(old.(*v1beta1.Image), obj.(*v1beta1.Image)) {
				enqueue(c.refreshes, obj)
			}
		},
		DeleteFunc: c.enqueueImportsOf,
	}); err != nil {
		return nil, err
	}
	return c, c.watchReleases()
}

func newQueue(name string, clock clock.WithTicker) workqueue.TypedRateLimitingInterface[cache.ObjectName] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName](),
		workqueue.TypedRateLimitingQueueConfig[cache.ObjectName]{Name: name, Clock: clock})
}

// trim drops from the caches what the controller never reads there. What it reads of the status of an Image is when that was last
// imported.
func trim(obj any) (any, error) {
	if image, ok := obj.(*v1beta1.Image); ok {
		last := lastAttempt(&image.Status)
		image.Status = v1beta1.ImageStatus{}
		if !last.IsZero() {
			image.Status.LastAttemptTime = ptr.To(metav1.NewTime(last))
		}
	}
	if accessor, err := meta.Accessor(obj); err == nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

func enqueue(queue workqueue.TypedRateLimitingInterface[cache.ObjectName], obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		utilruntime.HandleError(err)
		return
	}
	queue.Add(name)
}

// enqueueImport has an import looked at and, when it has ended, the schedule of its Image.
func (c *Controller) enqueueImport(obj any) {
	enqueue(c.queue, obj)
	if imp := obj.(*v1beta1.ImageImport); imp.Status.CompletionTime != nil {
		c.refreshes.Add(cache.NewObjectName(imp.Namespace, imp.Spec.TargetImage))
	}
}

// cancelDeleted ends the attempt of an import that was deleted, and has it forgotten and the schedule of its Image looked at.
func (c *Controller) cancelDeleted(obj any) {
	enqueue(c.queue, obj)
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	if imp, ok := obj.(*v1beta1.ImageImport); ok {
		c.underWay.cancel(imp.UID, errImportGone)
		c.refreshes.Add(cache.NewObjectName(imp.Namespace, imp.Spec.TargetImage))
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
		enqueue(c.queue, imp)
	}
}

// Run works until ctx ends, then lets the attempts that run end, for DrainTimeout at most, and returns.
func (c *Controller) Run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	defer utilruntime.HandleCrashWithContext(ctx)
	c.informer.StartWithContext(ctx)
	defer c.informer.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), c.imports.HasSynced, c.images.HasSynced, c.mirrorReleases.HasSynced) {
		c.shutDown()
		return // asked to stop before it began: there is nothing to let end
	}
	c.started = c.Clock.Now().Round(0) // by the clock on the wall, as the times of Images are
	working, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() { work(working, c.queue, "imageImport", "Import", c.sync) })
		workers.Go(func() { work(working, c.refreshes, "image", "The schedule of an Image", c.syncRefresh) })
	}
	for range releaseWorkers {
		workers.Go(func() { work(working, c.releases, "mirrorRelease", "A release at the mirror", c.syncRelease) })
	}
	<-ctx.Done()
	logger.Info("Letting imports end", "atMost", c.DrainTimeout)
	c.shutDown()
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

func (c *Controller) shutDown() {
	c.queue.ShutDown()
	c.refreshes.ShutDown()
	c.releases.ShutDown()
}

// errDrained is why attempts end that would take longer than a shutdown may.
var errDrained = errors.New("the server is stopping")

// work handles the keys of a queue one after another, until that has shut down: what is still queued then is left to the next start.
// What sync returns is after which time a key needs to be looked at again; 0 for never. The log calls a key's object kind, and what
// has to be done for it subject.
func work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[cache.ObjectName], kind, subject string,
	sync func(context.Context, cache.ObjectName) (time.Duration, error)) {
	one := func() (more bool) {
		key, shutdown := queue.Get()
		if shutdown {
			return false
		}
		defer queue.Done(key)
		if queue.ShuttingDown() {
			return true
		}
		logger := klog.LoggerWithValues(klog.FromContext(ctx), kind, klog.KRef(key.Namespace, key.Name))
		after, err := sync(klog.NewContext(ctx, logger), key)
		switch {
		case context.Cause(ctx) != nil && err != nil: // stopping: the next start takes it up again
		case err != nil:
			logger.Error(err, subject+" is looked at again")
			queue.AddRateLimited(key)
		default:
			queue.Forget(key)
			if after > 0 {
				queue.AddAfter(key, after)
			}
		}
		return true
	}
	for one() {
	}
}

// sync does what an ImageImport needs now, and returns after which time it needs to be looked at again; 0 for never.
func (c *Controller) sync(ctx context.Context, key cache.ObjectName) (time.Duration, error) {
	defer c.hosts.Settle(key.String())
	defer c.namespaces.Settle(key.String())
	defer c.shares.Settle(key.String())
	cached, err := c.lister.ImageImports(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && cached.DeletionTimestamp != nil {
		c.claimed.forget(key)
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
		c.claimed.forget(key)
		return c.collectFinished(ctx, cached)
	}
	if wait := c.untilDue(cached); wait > 0 {
		return wait, nil
	}
	if wait := c.untilFree(key, cached); wait > 0 {
		return wait, nil // or until its holder writes to it
	}
	// An import that waits for a place costs no request.
	release, free := c.place(cached, key)
	if !free {
		return 0, nil // it is looked at again when there is a place
	}
	defer release()
	// Before anything is read: what is deleted after that ends the attempt, and what was deleted before cannot be claimed.
	attempt, end := c.underWay.begin(ctx, cached.UID)
	defer end()
	return c.run(ctx, attempt, cached)
}

// place takes the places of an attempt in its namespace and at its upstream host, whose names never change. Without a free one the
// import is queued again once there is.
func (c *Controller) place(imp *v1beta1.ImageImport, key cache.ObjectName) (release func(), free bool) {
	wake := func() { c.queue.Add(key) }
	inNamespace, free := c.namespaces.AcquireOrWait(key.Namespace, key.String(), wake)
	if !free {
		return nil, false
	}
	ref, err := importer.ParseReference(imp.Spec.From)
	if err != nil {
		return inNamespace, true // the attempt says what is wrong
	}
	ofHost, free := c.shares.AcquireOrWait(ref.Registry()+" "+key.Namespace, key.String(), wake)
	if !free {
		inNamespace()
		return nil, false
	}
	atHost, free := c.hosts.AcquireOrWait(ref.Registry(), key.String(), wake)
	if !free {
		ofHost()
		inNamespace()
		return nil, false
	}
	return func() { atHost(); ofHost(); inNamespace() }, true
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
