// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

const mirrorSecret = "mirror-registry-config"

// values are the keys of a Secret mirror-registry-config.
type values map[string]string

// mirrors has the cluster say in its ways where images are mirrored to.
func mirrors(t *testing.T, x *tagger, source string) {
	authority, err := lab.Authority()
	if err != nil {
		t.Fatal(err)
	}
	open, locked := lab.New(t, lab.TrustedTLS), lab.New(t, lab.TrustedTLS)
	unverified, plain := lab.New(t, lab.UnknownCA), lab.New(t, lab.PlainHTTP)
	locked.Misbehave(lab.Basic(user, password))
	x.namespace(t, "m", nil)
	with := func(host string, more values) values {
		all := values{"address": host, "ca": string(authority)}
		for key, value := range more {
			all[key] = value
		}
		return all
	}
	hosting := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	for _, tt := range []struct {
		name      string
		secret    values // of Tagger's namespace
		own       values // of the Image's namespace
		configMap string // of KEP-1755
		// prefix is what the reference begins with, up to NAMESPACE/IMAGE or NAMESPACE_IMAGE.
		prefix  string
		reason  string
		message []string
	}{
		{name: "empty", secret: values{}, prefix: x.registry + "/m/"},
		{name: "address and ca", secret: with(open.Host, nil), prefix: open.Host + "/m/"},
		{name: "newlines at the end", secret: values{"address": locked.Host + "\n", "ca": string(authority), "username": user + "\n", "password": password + "\n"},
			prefix: locked.Host + "/m/"},
		{name: "repository", secret: with(open.Host, values{"repository": "company/images"}), prefix: open.Host + "/company/images/m_"},
		{name: "unknown authority", secret: values{"address": open.Host}, reason: v1beta1.ReasonMirrorUnavailable, message: []string{"certificate"}},
		{name: "insecure TLS", secret: values{"address": unverified.Host, "insecure": "true"}, prefix: unverified.Host + "/m/"},
		{name: "insecure, without TLS", secret: values{"address": "http://" + plain.Host, "insecure": "true"}, prefix: plain.Host + "/m/"},
		{name: "wrong password", secret: with(locked.Host, values{"username": user, "password": "wrong"}), reason: v1beta1.ReasonMirrorUnauthorized},
		{name: "no password", secret: with(locked.Host, values{"username": user}), reason: v1beta1.ReasonMirrorUnavailable,
			message: []string{"the key password of the Secret tagger/mirror-registry-config is empty"}},
		{name: "not a host", secret: values{"address": "registry.example/path"}, reason: v1beta1.ReasonMirrorUnavailable,
			message: []string{"the key address of the Secret tagger/mirror-registry-config"}},
		{name: "KEP-1755", secret: values{}, prefix: "pull.example:5000/m/",
			configMap: hosting("host: push.example:5000", "hostFromContainerRuntime: pull.example:5000", "hostFromClusterNetwork: "+plain.Host)},
		{name: "KEP-1755, one name", secret: values{}, prefix: "push.example:5000/m/",
			configMap: hosting("host: push.example:5000", "hostFromClusterNetwork: "+plain.Host)},
		{name: "KEP-1755, out of reach", secret: values{}, prefix: x.registry + "/m/", configMap: hosting("host: " + plain.Host)},
		{name: "the Secret before KEP-1755", secret: with(open.Host, nil), prefix: open.Host + "/m/",
			configMap: hosting("host: "+plain.Host, "hostFromClusterNetwork: "+plain.Host)},
		{name: "a Secret of the namespace, not allowed", secret: with(open.Host, nil), own: values{"address": plain.Host, "insecure": "true"}, prefix: open.Host + "/m/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x.mirrorAt(t, home, tt.secret)
			x.mirrorAt(t, "m", tt.own)
			x.localRegistry(t, tt.configMap)
			x.wantMirrored(t, "m", source, tt.prefix, tt.reason, tt.message...)
		})
	}
	x.localRegistry(t, "")

	t.Run("what is mirrored for another namespace", func(t *testing.T) {
		x.mirrorAt(t, home, with(open.Host, nil))
		x.namespace(t, "n", nil)
		mine := x.wantMirrored(t, "m", source, open.Host+"/m/", "")
		x.wantImport(t, "m", "again", v1beta1.ImageImportSpec{From: open.Host + "/m/" + mine, Insecure: ptr.To(true)}, "")
		x.wantImport(t, "n", "theirs", v1beta1.ImageImportSpec{From: open.Host + "/m/" + mine, Insecure: ptr.To(true)}, v1beta1.ReasonBlocked)
	})
	t.Run("a push", func(t *testing.T) {
		x.mirrorAt(t, home, with(locked.Host, values{"username": user, "password": password}))
		x.wantMirrored(t, "m", source, locked.Host+"/m/", "") // from now on the mirror is there
		if _, err := kubectl(t, x.Cluster, "create", "serviceaccount", "pusher", "-n", "m"); err != nil {
			t.Fatal(err)
		}
		if _, err := kubectl(t, x.Cluster, "create", "rolebinding", "pusher", "-n", "m", "--clusterrole", "edit", "--serviceaccount", "m:pusher"); err != nil {
			t.Fatal(err)
		}
		pushed := randomImage(t)
		dgst, err := pushed.Digest()
		if err != nil {
			t.Fatal(err)
		}
		client := x.registryClient(t, x.token(t, "m", "pusher"))
		tag, err := name.NewTag(x.registry + "/m/pushed:v1")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "an image is pushed", func(ctx context.Context) error { // caches of authorisation are filled after a while
			return remote.Write(tag, pushed, remote.WithTransport(client.Transport), remote.WithContext(ctx))
		})
		image, err := x.api.TaggerV1beta1().Images("m").Get(t.Context(), "pushed", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		entries := image.Status.HashReferences
		if want := locked.Host + "/m/pushed@" + dgst.String(); len(entries) != 1 || entries[0].ImageReference != want || entries[0].From != tag.String() {
			t.Errorf("history %+v, want %s from %s", entries, want, tag)
		}
		for _, reference := range []string{"v1", "latest"} {
			pulled, err := remote.Image(tag.Context().Tag(reference), remote.WithTransport(client.Transport), remote.WithContext(t.Context()))
			if err == nil {
				err = validate.Image(pulled)
			}
			if err != nil {
				t.Errorf("pulling %s: %v", reference, err)
			}
		}
		other, err := name.NewTag(x.registry + "/n/pushed:v1")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(other, pushed, remote.WithTransport(client.Transport)); err == nil {
			t.Error("it is pushed into another namespace as well")
		}
	})
	t.Run("a Secret of the namespace, allowed", func(t *testing.T) {
		if _, err := kubectl(t, x.Cluster, "create", "clusterrole", "tagger-namespace-mirrors", "--verb", "get", "--resource", "secrets", "--resource-name", mirrorSecret); err != nil {
			t.Fatal(err)
		}
		if _, err := kubectl(t, x.Cluster, "create", "clusterrolebinding", "tagger-namespace-mirrors", "--clusterrole", "tagger-namespace-mirrors", "--serviceaccount", home+":tagger"); err != nil {
			t.Fatal(err)
		}
		args := x.args
		x.stop(t)
		x.args = append(x.args, "--allow-namespace-mirrors")
		x.run(t)
		x.available(t)
		x.mirrorAt(t, home, with(open.Host, nil))
		x.mirrorAt(t, "m", values{"address": plain.Host, "insecure": "true"})
		x.wantMirrored(t, "m", source, plain.Host+"/m/", "")
		x.wantMirrored(t, "n", source, open.Host+"/n/", "")
		x.stop(t)
		x.args = args
		x.run(t)
		x.available(t)
	})
	x.mirrorAt(t, home, values{})
	x.wantMirrored(t, "m", source, x.registry+"/m/", "")
}

// mirrorAt writes, or for nil deletes, the Secret of a namespace that says where the mirror is.
func (x *tagger) mirrorAt(t *testing.T, namespace string, of values) {
	t.Helper()
	secrets := x.kube.CoreV1().Secrets(namespace)
	if err := secrets.Delete(t.Context(), mirrorSecret, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if of != nil {
		x.createSecret(t, namespace, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: mirrorSecret}, StringData: of})
	}
}

// localRegistry writes, or for nothing deletes, the ConfigMap of KEP-1755.
func (x *tagger) localRegistry(t *testing.T, document string) {
	t.Helper()
	const name = "local-registry-hosting"
	configMaps := x.kube.CoreV1().ConfigMaps(metav1.NamespacePublic)
	if err := configMaps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if document == "" {
		return
	}
	if _, err := configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name},
		Data: map[string]string{"localRegistryHosting.v1": document}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// wantMirrored mirrors an Image and compares where that is, and returns the Image's name. Tagger keeps what it read of where the
// mirror is for a second: other Images are mirrored until it is as wanted.
func (x *tagger) wantMirrored(t *testing.T, namespace, source, prefix, reason string, message ...string) (image string) {
	t.Helper()
	eventually(t, "what is mirrored is at "+prefix, func(context.Context) error {
		image = "app-" + rand.String(8)
		imp := x.tried(t, namespace, v1beta1.ImageImportSpec{TargetImage: image, From: source, Insecure: ptr.To(true), Mirror: ptr.To(true)})
		if err := wantOutcome(imp, reason, message...); err != nil || reason != "" {
			return err
		}
		if got := imp.Status.HashReference.ImageReference; !strings.HasPrefix(got, prefix+image+"@sha256:") {
			return fmt.Errorf("it is at %s", got)
		}
		return nil
	})
	return image
}
