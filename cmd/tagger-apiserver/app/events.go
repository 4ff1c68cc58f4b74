// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	taggerserver "tagger.dev/tagger/pkg/apiserver"
)

// deletedReason is that of an Event about what an Image had.
const deletedReason = "ReferenceDeleted"

// events tells in Events what becomes of Images beside what their status says.
type events struct {
	recorder record.EventRecorder
}

// newEvents returns events that are written in the background until the process ends.
func newEvents(ctx context.Context, p *process, kube kubernetes.Interface) events {
	broadcaster := record.NewBroadcaster(record.WithContext(context.WithoutCancel(ctx)))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	p.atEnd(broadcaster.Shutdown)
	return events{broadcaster.NewRecorder(taggerserver.Scheme, corev1.EventSource{Component: "tagger"})}
}

// deleted tells that a reference was deleted at the registry endpoint and has left the history of its Image.
func (e events) deleted(_ context.Context, image *v1beta1.Image, dgst digest.Digest) {
	e.recorder.Eventf(image, corev1.EventTypeNormal, deletedReason, "%s was deleted at the registry, and has left the history", dgst)
}
