// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/pkg/generated/informers/externalversions"
	listers "tagger.dev/tagger/pkg/generated/listers/tagger/v1beta1"
)

// seenEvent is what a watch said, in short: "ADDED app", or "BOOKMARK".
func seenEvent(event watch.Event) string {
	if image, ok := event.Object.(*v1beta1.Image); ok && event.Type != watch.Bookmark {
		return string(event.Type) + " " + image.Name
	}
	return string(event.Type)
}

// watchImages watches until the last of the wanted events has come, and fails where others come.
func (s *server) watchImages(t *testing.T, namespace string, options metav1.ListOptions, want ...string) (last watch.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watcher, err := s.api.TaggerV1beta1().Images(namespace).Watch(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	for i, wanted := range want {
		event, open := <-watcher.ResultChan()
		if !open {
			t.Fatalf("the watch ended before event %d, %q", i, wanted)
		}
		if got := seenEvent(event); got != wanted {
			t.Fatalf("event %d is %q, want %q: %+v", i, got, wanted, event.Object)
		}
		last = event
	}
	return last
}

// TestWatch begins watches at several moments of one history: a and b are created, a is changed, a is deleted, c is created.
func TestWatch(t *testing.T) {
	t.Parallel()
	// Not the shared one, in which so much may happen meanwhile that it forgets where the watches begin.
	s, namespace := start(t, t.TempDir()), newNamespace()
	images := s.api.TaggerV1beta1().Images(namespace)
	version := func() string {
		list, err := images.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return list.ResourceVersion
	}
	began := version()
	s.createImages(t, namespace, "a", "b")
	created := version()
	changed := s.image(t, namespace, "a")
	changed.Spec.From, changed.Labels["name"] = "quay.io/company/other", "renamed"
	if _, err := images.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.deleteImage(t, namespace, "a")
	s.createImages(t, namespace, "c")
	ended := version()

	initial := func(version string) metav1.ListOptions {
		return metav1.ListOptions{ResourceVersion: version, SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true,
			ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	}
	tests := []struct {
		name    string
		options metav1.ListOptions
		want    []string
	}{
		{"from the beginning", metav1.ListOptions{ResourceVersion: began}, []string{"ADDED a", "ADDED b", "MODIFIED a", "DELETED a", "ADDED c"}},
		{"from the middle", metav1.ListOptions{ResourceVersion: created}, []string{"MODIFIED a", "DELETED a", "ADDED c"}},
		{"from what there is", metav1.ListOptions{}, []string{"ADDED b", "ADDED c"}},
		{"by label, of which an object goes", metav1.ListOptions{ResourceVersion: created, LabelSelector: "name in (a,c)"}, []string{"DELETED a", "ADDED c"}},
		{"by field, to which an object comes", metav1.ListOptions{ResourceVersion: began, FieldSelector: "spec.from=quay.io/company/other"}, []string{"ADDED a", "DELETED a"}},
		{"of one object", metav1.ListOptions{ResourceVersion: began, FieldSelector: "metadata.name=b"}, []string{"ADDED b"}},
		{"initial events", initial(""), []string{"ADDED b", "ADDED c", "BOOKMARK"}},
		{"initial events, not older", initial(ended), []string{"ADDED b", "ADDED c", "BOOKMARK"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			last := s.watchImages(t, namespace, tt.options, tt.want...)
			if last.Type != watch.Bookmark {
				return
			}
			bookmark := last.Object.(*v1beta1.Image)
			if bookmark.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				t.Errorf("the bookmark does not say that the initial events end: %+v", bookmark)
			}
			s.continues(t, bookmark.ResourceVersion)
		})
	}
}

// continues checks that a watch from a resourceVersion sees what is created now, in a namespace of its own.
func (s *server) continues(t *testing.T, version string) {
	t.Helper()
	namespace := newNamespace()
	s.createImages(t, namespace, "later")
	s.watchImages(t, namespace, metav1.ListOptions{ResourceVersion: version}, "ADDED later")
	s.deleteImage(t, namespace, "later")
}

// TestWatchBookmark watches a namespace in which nothing happens, after something has in another. A bookmark, which comes two seconds
// before a watch ends, tells how far it has come.
func TestWatchBookmark(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	_, elsewhere := shared(t)
	list, err := s.api.TaggerV1beta1().Images(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.createImages(t, elsewhere, "app")
	var bookmark *v1beta1.Image
	eventually(t, "a bookmark comes", func(ctx context.Context) (bool, error) { // a watch may end before it, where the machine is busy
		watcher, err := s.api.TaggerV1beta1().Images(namespace).Watch(ctx, metav1.ListOptions{
			ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true, TimeoutSeconds: ptr.To[int64](8)})
		if err != nil {
			return false, err
		}
		defer watcher.Stop()
		event, open := <-watcher.ResultChan()
		if !open {
			return false, nil
		}
		if seenEvent(event) != "BOOKMARK" {
			return false, fmt.Errorf("event %+v", event)
		}
		bookmark = event.Object.(*v1beta1.Image)
		return true, nil
	})
	got, errGot := strconv.ParseUint(bookmark.ResourceVersion, 10, 64)
	least, errLeast := strconv.ParseUint(s.image(t, elsewhere, "app").ResourceVersion, 10, 64)
	if errGot != nil || errLeast != nil || got < least || bookmark.Name != "" || len(bookmark.Annotations) != 0 {
		t.Errorf("bookmark %+v, want nothing but a resourceVersion of %d at least (%v, %v)", bookmark, least, errGot, errLeast)
	}
	s.continues(t, bookmark.ResourceVersion)
}

// TestWatchExpired begins a watch at a moment that the server, started since, knows nothing of.
func TestWatchExpired(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	namespace := newNamespace()
	s.createImages(t, namespace, "a", "b")
	version := s.image(t, namespace, "a").ResourceVersion
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = s.again(t)
	watcher, err := s.api.TaggerV1beta1().Images(namespace).Watch(t.Context(), metav1.ListOptions{ResourceVersion: version})
	if err == nil { // then the first event says so
		defer watcher.Stop()
		event := <-watcher.ResultChan()
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("%v, want Expired", err)
	}
}

// barrier lets requests through or not.
type barrier struct {
	closed atomic.Bool
	next   http.RoundTripper
}

func (b *barrier) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.closed.Load() {
		return nil, errors.New("the network is down")
	}
	return b.next.RoundTrip(r)
}

// imageLister runs an informer against a server and returns what it knows, and the barrier before its network.
func (s *server) imageLister(t *testing.T) (listers.ImageLister, *barrier) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	network := &barrier{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		network.next = next
		return network
	})
	client, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	factory := externalversions.NewSharedInformerFactory(client, 0)
	images := factory.Tagger().V1beta1().Images()
	informer := images.Informer()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	factory.Start(ctx.Done())
	t.Cleanup(func() {
		stop()
		factory.Shutdown()
	})
	synced, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !cache.WaitForCacheSync(synced.Done(), informer.HasSynced) {
		t.Fatal("the informer does not come to know what there is")
	}
	return images.Lister(), network
}

// TestInformerAfterRestart restarts the server while informers watch. Whatever they missed, a deletion too, they come to know.
func TestInformerAfterRestart(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// away keeps the informer from the network until everything has happened.
		away bool
		end  func(*server) error
	}{
		{"stopped, the informer is there at once", false, (*server).stop},
		{"stopped, the informer was away", true, (*server).stop},
		{"killed, the informer was away", true, (*server).kill},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, t.TempDir())
			namespace := newNamespace()
			s.createImages(t, namespace, "a", "b", "c")
			lister, network := s.imageLister(t)
			network.closed.Store(tt.away)
			s.deleteImage(t, namespace, "c")
			if err := tt.end(s); err != nil {
				t.Fatal(err)
			}
			s = s.again(t)
			s.deleteImage(t, namespace, "a")
			s.createImages(t, namespace, "d")
			changed := s.image(t, namespace, "b")
			changed.Spec.From = "quay.io/company/other"
			if _, err := s.api.TaggerV1beta1().Images(namespace).Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			network.closed.Store(false)

			want := map[string]string{"b": "quay.io/company/other", "d": "quay.io/company/d"}
			var got map[string]string
			err := poll(func(context.Context) (bool, error) {
				known, err := lister.Images(namespace).List(labels.Everything())
				got = map[string]string{}
				for _, image := range known {
					got[image.Name] = image.Spec.From
				}
				return cmp.Equal(want, got), err
			})
			if err != nil {
				t.Errorf("the informer never knew what there is (-want +last):\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// TestWatchResumedAfterRestart goes on, with each kubectl, from the resourceVersion of before a restart. Where the server no
// longer knows what came after that it says so, and a list leads on, as with every Kubernetes API.
func TestWatchResumedAfterRestart(t *testing.T) { withKubectls(t, watchResumedAfterRestart) }

func watchResumedAfterRestart(t *testing.T, kubectl string) {
	s := start(t, t.TempDir())
	namespace := newNamespace()
	path := "/apis/tagger.dev/v1beta1/namespaces/" + namespace + "/images"
	known, version := map[string]bool{}, ""
	list := func() {
		t.Helper()
		var list v1beta1.ImageList
		if err := json.Unmarshal([]byte(s.run(t, kubectl, "get", "--raw", path)), &list); err != nil {
			t.Fatal(err)
		}
		known, version = map[string]bool{}, list.ResourceVersion
		for _, image := range list.Items {
			known[image.Name] = true
		}
	}
	// follow reads events, one a line, and says whether the server still had them.
	follow := func(printed string) bool {
		t.Helper()
		for line := range strings.Lines(printed) {
			var event struct {
				Type   string        `json:"type"`
				Object v1beta1.Image `json:"object"`
			}
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if event.Type == string(watch.Error) {
				return false
			}
			known[event.Object.Name], version = event.Type != string(watch.Deleted), event.Object.ResourceVersion
		}
		return true
	}
	s.createImages(t, namespace, "a", "b")
	list()
	var printed logBuffer
	watching := s.command(t, kubectl, "get", "--raw", path+"?watch=true&resourceVersion="+version)
	watching.Stdout = &printed
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	s.createImages(t, namespace, "c")
	eventually(t, "the watch tells of c", func(context.Context) (bool, error) { return strings.HasSuffix(printed.String(), "\n"), nil })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	_ = watching.Wait() // with the server
	if !follow(printed.String()) {
		t.Errorf("the watch told of an error: %s", printed.String())
	}

	s = s.again(t)
	s.deleteImage(t, namespace, "a")
	s.createImages(t, namespace, "d")
	resumed := s.try(t, kubectl, "get", "--raw", path+"?watch=true&timeoutSeconds=2&resourceVersion="+version)
	if resumed.code != 0 && !strings.Contains(resumed.stderr, "too old resource version") {
		t.Errorf("the resumed watch: %+v", resumed)
	}
	if resumed.code != 0 || !follow(resumed.stdout) {
		list()
	}
	maps.DeleteFunc(known, func(_ string, there bool) bool { return !there })
	if diff := cmp.Diff(map[string]bool{"b": true, "c": true, "d": true}, known); diff != "" {
		t.Errorf("what is known (-want +got):\n%s", diff)
	}
}
