// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command client shows how a Go program uses Tagger's API: it says what an Image should follow, imports it, waits until that is
// done, and prints the reference to run. It talks to the server of KUBECONFIG.
//
//	go run . -from docker.io/library/nginx:latest -mirror nginx
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	applyv1beta1 "tagger.dev/tagger/pkg/generated/applyconfiguration/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned"
	"tagger.dev/tagger/pkg/generated/informers/externalversions"
)

// fieldManager owns the fields that this program applies: another that applies them too is told of the conflict.
const fieldManager = "tagger-example"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	namespace := flag.String("namespace", "default", "namespace of the Image")
	from := flag.String("from", "", "what to import")
	mirror := flag.Bool("mirror", false, "copy the image into the mirror too")
	flag.Parse()
	if flag.NArg() != 1 || *from == "" {
		fmt.Fprintln(os.Stderr, "usage: client -from REFERENCE [-mirror] [-namespace NAMESPACE] NAME")
		os.Exit(2)
	}
	reference, err := run(ctx, *namespace, flag.Arg(0), *from, *mirror)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	fmt.Println(reference)
}

// run imports an image and returns the reference to run.
func run(ctx context.Context, namespace, name, from string, mirror bool) (string, error) {
	// The same rules as kubectl's: KUBECONFIG, else ~/.kube/config.
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return "", err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return "", err
	}
	images := client.TaggerV1beta1().Images(namespace)

	// Server-side apply: say what this program wants, and nothing of what others do. It creates the Image where there is none.
	wanted := applyv1beta1.Image(name, namespace).
		WithSpec(applyv1beta1.ImageSpec().WithFrom(from).WithMirror(mirror))
	if _, err := images.Apply(ctx, wanted, metav1.ApplyOptions{FieldManager: fieldManager}); err != nil {
		return "", fmt.Errorf("applying Image %s: %w", name, err)
	}

	// Creating an ImageImport starts an import and does not wait for it. images.Import would wait, half a minute at most.
	imp, err := client.TaggerV1beta1().ImageImports(namespace).Create(ctx, &v1beta1.ImageImport{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"},
		Spec:       v1beta1.ImageImportSpec{TargetImage: name},
	}, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return "", fmt.Errorf("importing Image %s: %w", name, err)
	}
	if imp, err = settled(ctx, client, imp); err != nil {
		return "", err
	}
	if imp.Status.HashReference == nil {
		imported := meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported)
		return "", fmt.Errorf("ImageImport %s: %s: %s", imp.Name, imported.Reason, imported.Message)
	}
	return imp.Status.HashReference.ImageReference, nil
}

// isSettled says whether waiting longer makes little sense: the import has ended, for good or for bad, or fails in a way that
// seldom heals by itself. It is tried again then, but a person is better told now.
func isSettled(imp *v1beta1.ImageImport) bool {
	imported := meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported)
	return imp.Status.CompletionTime != nil || imported != nil && v1beta1.ReasonSeldomHeals(imported.Reason)
}

// settled waits until an ImageImport is settled. It watches by an informer, which outlives connections that are cut and restarts
// of the server.
func settled(ctx context.Context, client versioned.Interface, imp *v1beta1.ImageImport) (*v1beta1.ImageImport, error) {
	factory := externalversions.NewSharedInformerFactoryWithOptions(client, 0,
		externalversions.WithNamespace(imp.Namespace),
		externalversions.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", imp.Name).String()
		}))
	found, gone := make(chan *v1beta1.ImageImport, 1), make(chan struct{})
	tell := sync.OnceFunc(func() { close(gone) })
	look := func(obj any) {
		if imp := obj.(*v1beta1.ImageImport); isSettled(imp) {
			select {
			case found <- imp:
			default: // the first is enough
			}
		}
	}
	if _, err := factory.Tagger().V1beta1().ImageImports().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    look,
		UpdateFunc: func(_, obj any) { look(obj) },
		DeleteFunc: func(any) { tell() },
	}); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer factory.Shutdown() // runs after stop, which ends what it waits for
	defer stop()
	factory.Start(ctx.Done())

	select {
	case imp := <-found:
		return imp, nil
	case <-gone:
		return nil, fmt.Errorf("ImageImport %s was deleted before it ended", imp.Name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
