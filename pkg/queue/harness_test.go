// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned/fake"
	"tagger.dev/tagger/pkg/importer"
)

const (
	namespace   = "ns"
	appFrom     = "example.com/app:latest"
	barrierFrom = "barrier.example/app:latest"
	// patience is how long a test waits for what has to happen.
	patience = 30 * time.Second
)

var (
	start      = time.Date(2022, 2, 6, 19, 6, 24, 0, time.UTC)
	imagesGVR  = v1beta1.SchemeGroupVersion.WithResource("images")
	importsGVR = v1beta1.SchemeGroupVersion.WithResource("imageimports")
	// releasesGVR are the MirrorReleases.
	releasesGVR = v1beta1.SchemeGroupVersion.WithResource("mirrorreleases")
	// errNotWritten is how a write fails that a killed server did not do any more.
	errNotWritten = errors.New("the write was refused")
)

// cluster is an API server's storage, as far as the queue sees one: unlike the generated fake it refuses status writes to an
// older or another object, keeps times as JSON does, and obeys preconditions.
type cluster struct {
	*testing.T
	client *fake.Clientset
	clock  *clocktesting.FakeClock
	source *source
	mirror *mirror

	mu       sync.Mutex
	version  int
	written  []string                                       // resource/name of every status write
	imports  []*v1beta1.ImageImport                         // every ImageImport as its status was written
	created  []*v1beta1.ImageImport                         // those that a controller created
	before   func(resource string, obj metav1.Object) error // may write itself or fail a status write before that lands
	barriers int
	replicas int                    // controllers so far
	releases int                    // MirrorReleases so far
	running  map[digest.Digest]bool // what Pods run
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	clock := clocktesting.NewFakeClock(start)
	c := &cluster{T: t, client: fake.NewSimpleClientset(), clock: clock, source: newSource(clock), mirror: newMirror()}
	c.serve(c.client)
	return c
}

// serve has the cluster answer a client.
func (c *cluster) serve(client *fake.Clientset) {
	client.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		watcher, err := c.client.Tracker().Watch(action.GetResource(), action.GetNamespace(), action.(clienttesting.WatchActionImpl).ListOptions)
		if err != nil {
			return true, nil, err
		}
		return true, watch.Filter(watcher, func(event watch.Event) (watch.Event, bool) {
			event.Object = event.Object.DeepCopyObject() // some are those that are stored
			return event, true
		}), nil
	})
	client.PrependReactor("create", "imageimports", c.createImport)
	client.PrependReactor("update", "*", c.updateStatus)
	client.PrependReactor("update", "mirrorreleases", c.updateReleaseStatus)
	client.PrependReactor("delete", "*", c.delete)
}

// createImport fills in from the Image what is absent, as the server does.
func (c *cluster) createImport(action clienttesting.Action) (bool, runtime.Object, error) {
	imp := action.(clienttesting.CreateAction).GetObject().(*v1beta1.ImageImport).DeepCopy()
	c.mu.Lock()
	defer c.mu.Unlock()
	found, err := c.client.Tracker().Get(imagesGVR, imp.Namespace, imp.Spec.TargetImage)
	if err != nil {
		return true, nil, apierrors.NewInvalid(v1beta1.Kind("ImageImport"), imp.Name, nil) // nothing says where to import from
	}
	if _, err := c.client.Tracker().Get(importsGVR, imp.Namespace, imp.Name); err == nil {
		return true, nil, apierrors.NewAlreadyExists(v1beta1.Resource("imageimports"), imp.Name)
	}
	owned := newImport(imp.Name, found.(*v1beta1.Image), found.(*v1beta1.Image).Spec.Mirror)
	owned.Labels, owned.Spec.TTLSecondsAfterFinished = imp.Labels, imp.Spec.TTLSecondsAfterFinished
	c.created = append(c.created, owned)
	return true, owned, c.store(owned)
}

func (c *cluster) updateStatus(action clienttesting.Action) (bool, runtime.Object, error) {
	update := action.(clienttesting.UpdateAction)
	obj, err := meta.Accessor(update.GetObject())
	if err != nil || update.GetSubresource() != "status" {
		return true, nil, errors.New("only a status is the queue's to write")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gvr := update.GetResource()
	if c.before != nil {
		if err := c.before(gvr.Resource, obj); err != nil {
			return true, nil, err
		}
	}
	found, err := c.client.Tracker().Get(gvr, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return true, nil, err
	}
	if stored, _ := meta.Accessor(found); stored.GetUID() != obj.GetUID() || stored.GetResourceVersion() != obj.GetResourceVersion() {
		return true, nil, apierrors.NewConflict(gvr.GroupResource(), obj.GetName(), errors.New("the object has been modified"))
	}
	switch stored := found.(type) {
	case *v1beta1.Image:
		stored.Status = throughJSON(update.GetObject().(*v1beta1.Image).Status)
	case *v1beta1.ImageImport:
		stored.Status = throughJSON(update.GetObject().(*v1beta1.ImageImport).Status)
		if status := &stored.Status; status.Claim != nil && (status.NextAttemptTime != nil || status.CompletionTime != nil) {
			c.Errorf("%s is claimed by %s while no attempt runs", stored.Name, status.Claim.Holder)
		}
		c.imports = append(c.imports, stored.DeepCopy())
	}
	c.written = append(c.written, gvr.Resource+"/"+obj.GetName())
	return true, found, c.store(found)
}

// Request implements Releases.
func (c *cluster) Request(_ context.Context, release *v1beta1.MirrorRelease) (*v1beta1.MirrorRelease, bool, error) {
	release = release.DeepCopy()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before != nil {
		if err := c.before(releasesGVR.Resource, release); err != nil {
			return nil, false, err
		}
	}
	release.Spec = throughJSON(release.Spec)
	found, err := c.client.Tracker().Get(releasesGVR, "", release.Name)
	if err != nil {
		c.releases++
		release.UID = types.UID("uid-release-" + strconv.Itoa(c.releases))
		err := c.store(release)
		return release.DeepCopy(), true, err
	}
	stored := found.(*v1beta1.MirrorRelease)
	stored.Spec, stored.Status = release.Spec, v1beta1.MirrorReleaseStatus{}
	err = c.store(stored)
	return stored.DeepCopy(), false, err
}

func (c *cluster) updateReleaseStatus(action clienttesting.Action) (bool, runtime.Object, error) {
	update := action.(clienttesting.UpdateAction)
	release := update.GetObject().(*v1beta1.MirrorRelease)
	c.mu.Lock()
	defer c.mu.Unlock()
	found, err := c.client.Tracker().Get(releasesGVR, "", release.Name)
	if err != nil {
		return true, nil, err
	}
	stored := found.(*v1beta1.MirrorRelease)
	if stored.UID != release.UID || stored.ResourceVersion != release.ResourceVersion || update.GetSubresource() != "status" {
		return true, nil, apierrors.NewConflict(releasesGVR.GroupResource(), release.Name, errors.New("the object has been modified"))
	}
	stored.Status = throughJSON(release.Status)
	return true, stored, c.store(stored)
}

func (c *cluster) delete(action clienttesting.Action) (bool, runtime.Object, error) {
	options := action.(clienttesting.DeleteActionImpl).DeleteOptions
	found, err := c.client.Tracker().Get(action.GetResource(), action.GetNamespace(), action.(clienttesting.DeleteAction).GetName())
	if err != nil {
		return true, nil, err
	}
	stored, _ := meta.Accessor(found)
	if options.Preconditions == nil || ptr.Deref(options.Preconditions.UID, "") != stored.GetUID() ||
		ptr.Deref(options.Preconditions.ResourceVersion, stored.GetResourceVersion()) != stored.GetResourceVersion() {
		return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), stored.GetName(), errors.New("another UID"))
	}
	return false, nil, nil
}

// store writes an object with the next resource version; mu is held.
func (c *cluster) store(obj runtime.Object) error {
	gvr := importsGVR
	switch obj.(type) {
	case *v1beta1.Image:
		gvr = imagesGVR
	case *v1beta1.MirrorRelease:
		gvr = releasesGVR
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	c.version++
	accessor.SetResourceVersion(strconv.Itoa(c.version))
	if _, err := c.client.Tracker().Get(gvr, accessor.GetNamespace(), accessor.GetName()); apierrors.IsNotFound(err) {
		accessor.SetCreationTimestamp(metav1.NewTime(c.clock.Now()).Rfc3339Copy())
		return c.client.Tracker().Create(gvr, obj, accessor.GetNamespace())
	}
	return c.client.Tracker().Update(gvr, obj, accessor.GetNamespace())
}

// put writes an object as somebody else.
func (c *cluster) put(obj runtime.Object) {
	c.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.store(obj); err != nil {
		c.Fatal(err)
	}
}

// touch has an object written by somebody else; mu is held.
func (c *cluster) touch(resource string, obj metav1.Object) {
	found, err := c.client.Tracker().Get(v1beta1.SchemeGroupVersion.WithResource(resource), obj.GetNamespace(), obj.GetName())
	if err == nil {
		err = c.store(found)
	}
	if err != nil {
		c.Error(err)
	}
}

// beforeWrite sets what runs before each status write from now on, nil for nothing. It may call store.
func (c *cluster) beforeWrite(before func(resource string, obj metav1.Object) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = before
}

func (c *cluster) writes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.written)
}

// podsRun is what Pods run, as a test says.
func (c *cluster) podsRun(_ context.Context, _ string, digests []digest.Digest) ([]digest.Digest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(digests), func(dgst digest.Digest) bool { return !c.running[dgst] }), nil
}

func (c *cluster) remove(name string) {
	c.Helper()
	if err := c.client.Tracker().Delete(imagesGVR, namespace, name); err != nil {
		c.Fatal(err)
	}
}

// newImage returns an Image that is not stored yet.
func newImage(name, uid string) *v1beta1.Image {
	return &v1beta1.Image{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid), Generation: 3},
		Spec:       v1beta1.ImageSpec{From: appFrom},
	}
}

// newImport returns an import of an Image as its creation would have stored it.
func newImport(name string, image *v1beta1.Image, mirror bool) *v1beta1.ImageImport {
	return &v1beta1.ImageImport{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Generation: 1,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(image, v1beta1.SchemeGroupVersion.WithKind("Image"))},
		},
		Spec: v1beta1.ImageImportSpec{TargetImage: image.Name, From: image.Spec.From, Mirror: &mirror},
	}
}

func (c *cluster) image(name string) *v1beta1.Image {
	c.Helper()
	obj, err := c.client.Tracker().Get(imagesGVR, namespace, name)
	if err != nil {
		c.Fatal(err)
	}
	return obj.(*v1beta1.Image)
}

func (c *cluster) exists(imp string) bool {
	_, err := c.client.Tracker().Get(importsGVR, namespace, imp)
	return err == nil
}

func (c *cluster) imp(name string) *v1beta1.ImageImport {
	c.Helper()
	obj, err := c.client.Tracker().Get(importsGVR, namespace, name)
	if err != nil {
		c.Fatal(err)
	}
	return obj.(*v1beta1.ImageImport)
}

// until waits for a condition.
func (c *cluster) until(what string, condition func() bool) {
	c.Helper()
	c.advance(0, what, condition)
}

// advance lets time go by in steps until a condition holds.
func (c *cluster) advance(step time.Duration, what string, condition func() bool) {
	c.Helper()
	if err := wait.PollUntilContextTimeout(context.Background(), 2*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		if condition() {
			return true, nil
		}
		if step > 0 {
			c.clock.Step(step)
		}
		return false, nil
	}); err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

// finished waits for the end of an import and until the Image has forgotten it, if it is the Image's.
func (c *cluster) finished(name string) *v1beta1.ImageImport {
	c.Helper()
	c.until(name+" does not end", func() bool { return c.imp(name).Status.CompletionTime != nil })
	imp := c.imp(name)
	c.until("the Image does not forget "+name, func() bool {
		obj, err := c.client.Tracker().Get(imagesGVR, namespace, imp.Spec.TargetImage)
		return err != nil || recorded(&obj.(*v1beta1.Image).Status, imp.UID) == nil
	})
	return imp
}

// barrier returns when everything that was due when it was called has been looked at, provided that one worker is free: imports
// that come later have been through. The second one follows what the start of a controller lists in any order.
func (c *cluster) barrier() {
	c.Helper()
	for range 2 {
		c.barriers++
		name := "barrier-" + strconv.Itoa(c.barriers)
		image := newImage(name, "uid-"+name)
		image.Spec.From = barrierFrom
		c.put(image)
		c.put(newImport(name, image, false))
		c.finished(name)
	}
}

// running is a controller that runs.
type running struct {
	*Controller
	cancel context.CancelFunc
	ended  chan struct{}
}

// idle returns a controller that does not run: it does what it is called for alone.
func (c *cluster) idle(options ...func(*Config)) *Controller {
	c.Helper()
	c.replicas++
	config := Config{
		Client: c.client, Releases: c, Identity: "replica-" + strconv.Itoa(c.replicas), Importer: c.source, Mirrors: c.mirror, Clock: c.clock,
		Keychains: func(string) importer.Keychain { return nil },
		Workers:   1, PerHost: 10, PerNamespace: 10, AttemptTimeout: time.Minute, DrainTimeout: time.Minute,
		ReleaseDelay: 7 * 24 * time.Hour, Running: c.podsRun,
	}
	for _, option := range options {
		option(&config)
	}
	controller, err := New(config)
	if err != nil {
		c.Fatal(err)
	}
	return controller
}

// run starts a controller; it ends with the test at the latest.
func (c *cluster) run(options ...func(*Config)) *running {
	c.Helper()
	controller := c.idle(options...)
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), ktesting.NewLogger(c.T, ktesting.NewConfig(ktesting.BufferLogs(true)))))
	r := &running{Controller: controller, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		controller.Run(ctx)
	}()
	c.Cleanup(func() {
		cancel()
		c.advance(time.Second, "the controller does not end", r.hasEnded)
	})
	return r
}

func (r *running) hasEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// stop ends a controller whose attempts are over.
func (c *cluster) stop(r *running) {
	c.Helper()
	r.cancel()
	c.until("the controller does not end", r.hasEnded)
}

// sole has a controller be the only one.
func sole(config *Config) { config.SoleReplica = true }

func workers(n int) func(*Config) { return func(config *Config) { config.Workers = n } }

// throughJSON returns a status as it is read back from an API server, whose times are in seconds.
func throughJSON[T any](status T) T {
	encoded, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	var decoded T
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		panic(err)
	}
	return decoded
}

func condition(conditions []metav1.Condition) metav1.Condition {
	return ptr.Deref(meta.FindStatusCondition(conditions, v1beta1.ConditionImported), metav1.Condition{})
}
