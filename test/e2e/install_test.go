// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	informers "tagger.dev/tagger/pkg/generated/informers/externalversions"
	"tagger.dev/tagger/test/cluster"
)

const (
	chart = "../../artifacts/chart"
	// serverArchive is what make builds, as serverImage.
	serverArchive = "../../output/e2e/tagger-apiserver.tar"
	serverImage   = "localhost/tagger-apiserver:e2e"
	etcdImage     = "localhost/etcd:e2e"
	// steady is how many requests in a row must succeed before Tagger is said to serve again.
	steady = 10
)

// TestInstalled installs Tagger by its chart, with both versions of Helm, uses it, upgrades it, and takes it away again.
func TestInstalled(t *testing.T) {
	require(t, cluster.Config{})
	c := start(t, cluster.Config{})
	if err := c.Import(t.Context(), serverArchive); err != nil {
		t.Fatalf("%v; run the tests by make e2e, which builds it", err)
	}
	if err := c.ImportPrograms(t.Context(), etcdImage, "etcd", "etcdctl"); err != nil {
		t.Fatal(err)
	}
	i := &installation{
		tagger: tagger{Cluster: c, kube: kubeClient(t, c), api: typed(t, c.RESTConfig())},
		mirror: serveRegistry(t, c, "5001").Host,
	}
	for _, tt := range []struct {
		name    string
		servers int
		values  string
		// kept is what stays after an uninstall.
		kept []string
	}{
		{name: "one server", servers: 1, values: "persistence.storageClass=-", kept: []string{
			"persistentvolumeclaim/data-tagger-0", "secret/mirror-registry-config", "secret/tagger-ca"}},
		{name: "three servers", servers: 3,
			values: "replicas=3,imageStore.enabled=false,etcd.mode=bundled,etcd.bundled.image=" + etcdImage + ",etcd.bundled.persistence.enabled=false",
			kept:   []string{"secret/mirror-registry-config", "secret/tagger-ca"}},
	} {
		for _, helm := range []string{"helm3", "helm4"} {
			t.Run(helm+", "+tt.name, func(t *testing.T) {
				i.helm, i.servers, i.values = helm, tt.servers, "image="+serverImage+","+tt.values
				i.lives(t, tt.kept)
			})
		}
	}
}

// installation is Tagger as a chart installs it.
type installation struct {
	tagger
	mirror  string
	helm    string
	servers int
	values  string
	// uses counts what the installations were used for.
	uses int
}

// lives installs Tagger, upgrades it, rolls that back and uninstalls it, and looks after each step whether all is as it was.
func (i *installation) lives(t *testing.T, kept []string) {
	before, err := i.objects(t)
	if err != nil {
		t.Fatal(err)
	}
	i.volume(t)
	i.runHelm(t, "install", chart, "--create-namespace", "--set", i.values)
	i.available(t)
	i.mirrorAt(t, home, values{"address": i.mirror, "insecure": "true"})
	image := i.use(t)

	for _, step := range []struct {
		name string
		// tolerated is how many requests may fail where there are several servers: kube-apiserver does not repeat what it was sending
		// when a connection to a Pod that goes was closed, nor does kube-proxy know at once that one is gone.
		tolerated int
		do        func(t *testing.T)
	}{
		{"upgrade", 6, func(t *testing.T) {
			i.runHelm(t, "upgrade", chart, "--set", i.values, "--set", "logging.verbosity=2,podAnnotations.step=upgrade")
		}},
		{"rollback", 6, func(t *testing.T) { i.runHelm(t, "rollback", "1") }},
		{"a Pod is killed", 100, i.killPod},
		{"containerd is restarted", 6, func(t *testing.T) {
			if err := i.Restart(t.Context(), "containerd"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			failed := i.during(t, func() {
				step.do(t)
				i.settled(t)
			})
			if i.servers > 1 && failed > step.tolerated {
				t.Errorf("%d requests failed meanwhile", failed)
			}
			if diff := cmp.Diff(image.Status.HashReferences, i.stored(t, image).Status.HashReferences); diff != "" {
				t.Errorf("the history (-before +after):\n%s", diff)
			}
			i.use(t)
		})
	}

	i.runHelm(t, "uninstall")
	eventually(t, "no Pod is left", func(ctx context.Context) error {
		pods, err := i.kube.CoreV1().Pods(home).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d are left", len(pods.Items))
		}
		return err
	})
	var want []string
	for _, object := range kept {
		want = append(want, home+" "+object)
	}
	// The garbage collector takes what belonged to something else.
	eventually(t, "nothing is left but what is kept", func(context.Context) error {
		objects, err := i.objects(t)
		if err != nil {
			return err
		}
		var left []string
		for object := range objects {
			if !before[object] {
				left = append(left, object)
			}
		}
		slices.Sort(left)
		if diff := cmp.Diff(want, left); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
	if _, err := kubectl(t, i.Cluster, "delete", "namespace", home); err != nil {
		t.Error(err)
	}
	if _, err := kubectl(t, i.Cluster, "delete", "persistentvolume", "--all"); err != nil {
		t.Error(err)
	}
}

// runHelm runs Helm, and waits for what it does.
func (i *installation) runHelm(t *testing.T, verb string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, i.helm, append([]string{verb, home}, append(args, "--namespace", home, "--wait", "--timeout", "3m")...)...)
	dir := t.TempDir()
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+i.Kubeconfig(), "HOME="+dir, "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		pods, _ := kubectl(t, i.Cluster, "describe", "pods", "-n", home)
		logs, _ := kubectl(t, i.Cluster, "logs", "-n", home, "-l", "app.kubernetes.io/name=tagger", "--tail", "30", "--prefix")
		t.Fatalf("%s: %v: %s\n%s\n%s", strings.Join(cmd.Args, " "), err, out, pods, logs)
	}
	t.Logf("%s %s: %s", i.helm, verb, out)
}

// volume makes one by hand for the server, since there is no storage class.
func (i *installation) volume(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp(i.Dir(), "volume")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65532, 65532); err != nil {
		t.Fatal(err)
	}
	if _, err := i.kube.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: filepath.Base(dir)},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("20Gi")},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// use mirrors an image by the plugin, and runs it in a Pod when where it came from is gone. It returns the Image.
func (i *installation) use(t *testing.T) *v1beta1.Image {
	t.Helper()
	i.uses++
	namespace := fmt.Sprintf("use-%d", i.uses)
	i.namespace(t, namespace, nil)
	source := serveRegistry(t, i.Cluster, fmt.Sprint(5100+i.uses))
	pushTestserver(t, i.Cluster, source.Host+"/team/app:v1")
	if out, err := kubectl(t, i.Cluster, "image", "import", "app", "-n", namespace, "--from", source.Host+"/team/app:v1", "--insecure-source", "--mirror"); err != nil {
		t.Fatal(err)
	} else if !strings.Contains(out, i.mirror+"/"+namespace+"/app@sha256:") {
		t.Errorf("the plugin says %q, want where it was mirrored to", out)
	}
	source.Stop()
	image, err := i.api.TaggerV1beta1().Images(namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runTestserver(t, i.kube, namespace, image.Status.HashReferences[0].ImageReference)
	return image
}

func (i *installation) stored(t *testing.T, image *v1beta1.Image) *v1beta1.Image {
	t.Helper()
	stored, err := i.api.TaggerV1beta1().Images(image.Namespace).Get(t.Context(), image.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// during imports all the time while something is done, and returns how many requests failed. Each import must succeed, and be seen by
// who watches.
func (i *installation) during(t *testing.T, do func()) (failed int) {
	t.Helper()
	namespace := fmt.Sprintf("during-%d", i.uses)
	i.namespace(t, namespace, nil)
	source := serveRegistry(t, i.Cluster, fmt.Sprint(5200+i.uses))
	defer source.Stop()
	pushTestserver(t, i.Cluster, source.Host+"/team/app:v1")
	seen := i.watch(t, namespace)
	var names []string
	var imports sync.WaitGroup
	doing, done := context.WithCancel(t.Context())
	defer imports.Wait()
	defer done()
	imports.Go(func() {
		// A moment longer than it takes, since what watches the Pods for kube-apiserver learns of it last.
		inARow, end := 0, time.Time{}
		for n := 0; doing.Err() == nil || inARow < steady; n++ {
			if doing.Err() != nil && end.IsZero() {
				end = time.Now().Add(patience)
			}
			if !end.IsZero() && time.Now().After(end) {
				t.Errorf("no %d requests in a row succeed any more", steady)
				return
			}
			imp := &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("app-%d", n)}, Spec: v1beta1.ImageImportSpec{
				TargetImage: "app", From: source.Host + "/team/app:v1", Insecure: ptr.To(true), Mirror: ptr.To(true)}}
			if _, err := i.api.TaggerV1beta1().ImageImports(namespace).Create(t.Context(), imp, metav1.CreateOptions{}); err != nil {
				failed++
				inARow = 0
				if i.servers > 1 {
					t.Logf("an import could not be created: %v", err)
				}
			} else {
				inARow++
				names = append(names, imp.Name)
			}
			<-time.After(pollInterval)
		}
	})
	do()
	done()
	imports.Wait()
	i.available(t)
	for _, name := range names {
		if ended := i.finished(t, namespace, name); ended.Status != metav1.ConditionTrue {
			t.Errorf("import %s ended %s: %s", name, ended.Reason, ended.Message)
		}
		eventually(t, name+" is seen by who watches", func(context.Context) error {
			if _, found := seen.Load(name); !found {
				return errors.New("it is not")
			}
			return nil
		})
	}
	t.Logf("%d imports succeeded, %d requests failed", len(names), failed)
	return failed
}

// watch has an informer see the imports of a namespace, as controllers do, and returns the names of those that it has seen end.
func (i *installation) watch(t *testing.T, namespace string) *sync.Map {
	t.Helper()
	var seen sync.Map
	factory := informers.NewSharedInformerFactoryWithOptions(i.api, 0, informers.WithNamespace(namespace))
	informer := factory.Tagger().V1beta1().ImageImports().Informer()
	ended := func(obj any) {
		if imp := obj.(*v1beta1.ImageImport); imp.Status.CompletionTime != nil {
			seen.Store(imp.Name, true)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: ended, UpdateFunc: func(_, obj any) { ended(obj) }}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	t.Cleanup(func() { stop(); factory.Shutdown() })
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("the imports cannot be watched")
	}
	return &seen
}

// killPod deletes a Pod of Tagger's with the least grace of which the kubelet still says when it is over.
func (i *installation) killPod(t *testing.T) {
	t.Helper()
	list, err := i.servingPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("Tagger has no Pods")
	}
	if err := i.kube.CoreV1().Pods(home).Delete(t.Context(), list[0].Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Fatal(err)
	}
}

// settled waits until all Pods of Tagger's serve that should, and none is left that goes: what kube-apiserver sends there ends with it.
func (i *installation) settled(t *testing.T) {
	t.Helper()
	eventually(t, "all servers are ready, and no others are left", func(ctx context.Context) error {
		pods, err := i.servingPods(ctx)
		if err != nil {
			return err
		}
		if len(pods) != i.servers {
			return fmt.Errorf("there are %d Pods", len(pods))
		}
		for _, pod := range pods {
			if pod.DeletionTimestamp != nil || !isReady(&pod) {
				return fmt.Errorf("%s is not, or goes", pod.Name)
			}
		}
		return nil
	})
}

// servingPods returns the Pods of Tagger's, but for those of its etcd.
func (i *installation) servingPods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := i.kube.CoreV1().Pods(home).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tagger,app.kubernetes.io/component=apiserver"})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// objects returns all there are in the cluster, but for those that come and go by themselves, as "NAMESPACE KIND/NAME".
func (i *installation) objects(t *testing.T) (map[string]bool, error) {
	t.Helper()
	kinds, err := kubectl(t, i.Cluster, "api-resources", "--verbs", "list", "--output", "name")
	if err != nil {
		return nil, err
	}
	var wanted []string
	for _, kind := range strings.Fields(kinds) {
		if !slices.Contains([]string{"events", "events.events.k8s.io", "leases.coordination.k8s.io", "pods", "componentstatuses",
			"ipaddresses.networking.k8s.io"}, kind) {
			wanted = append(wanted, kind)
		}
	}
	out, err := kubectl(t, i.Cluster, "get", strings.Join(wanted, ","), "--all-namespaces", "--output",
		`go-template={{range .items}}{{with .metadata.namespace}}{{.}}{{end}} {{.kind}}/{{.metadata.name}}{{"\n"}}{{end}}`)
	if err != nil {
		return nil, err
	}
	objects := map[string]bool{}
	for line := range strings.Lines(out) {
		namespace, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if rest == "" { // it has no namespace
			namespace, rest = "", namespace
		}
		kind, name, _ := strings.Cut(rest, "/")
		object := strings.TrimSpace(namespace + " " + strings.ToLower(kind) + "/" + name)
		switch {
		case strings.HasPrefix(namespace, "use-"), strings.HasPrefix(namespace, "during-"): // ours
		case name == "kube-root-ca.crt", name == "default": // each namespace has them
		case kind == "Namespace", kind == "PersistentVolume": // made by Helm because we asked, and by us
		default:
			objects[object] = true
		}
	}
	return objects, nil
}
