// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// The one user of the registries that want credentials.
const (
	user     = "puller"
	password = "a-pass:word-that-must-not-be-repeated"
)

// entry is one of a docker config.json.
type entry map[string]string

func encoded(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// dockerConfig returns a Secret of either type with the credentials of registries.
func dockerConfig(t *testing.T, kind corev1.SecretType, registries map[string]entry) *corev1.Secret {
	t.Helper()
	var document any = registries
	key := corev1.DockerConfigKey
	if kind == corev1.SecretTypeDockerConfigJson {
		document, key = map[string]any{"auths": registries}, corev1.DockerConfigJsonKey
	}
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "pull-"}, Type: kind, Data: map[string][]byte{key: data}}
}

// pullSecrets imports from a registry that wants a password, with the Secrets of a namespace.
func pullSecrets(t *testing.T, x *tagger) {
	out := lab.New(t, lab.PlainHTTP)
	out.Push(t, "team/app", randomImage(t))
	out.Misbehave(lab.Basic(user, password))
	reference := out.Reference("team/app")
	_, repository, _ := strings.Cut(reference, "/")
	const modern, legacy = corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg
	right, wrong := entry{"auth": encoded(user, password)}, entry{"auth": encoded(user, "wrong")}
	secrets := func(all ...*corev1.Secret) []*corev1.Secret { return all }
	one := func(kind corev1.SecretType, registry string, e entry) []*corev1.Secret {
		return secrets(dockerConfig(t, kind, map[string]entry{registry: e}))
	}
	broken := dockerConfig(t, modern, nil)
	broken.Name, broken.Data = "broken", map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"` + out.Host + `":{"auth":"` + password + `"}}}`)}
	shapeless := dockerConfig(t, modern, nil) // what is no JSON at all is refused by kube-apiserver
	shapeless.Name, shapeless.Data = "shapeless", map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":["` + password + `"]}`)}
	for i, tt := range []struct {
		name    string
		secrets []*corev1.Secret
		reason  string // empty: it is imported
		message []string
	}{
		{name: "dockerconfigjson", secrets: one(modern, out.Host, right)},
		{name: "dockercfg", secrets: one(legacy, out.Host, right)},
		{name: "user name and password", secrets: one(modern, out.Host, entry{"username": user, "password": password})},
		{name: "by a URL", secrets: one(modern, "https://"+out.Host+"/v1/", right)},
		{name: "by a path", secrets: one(modern, out.Host+"/"+repository, right)},
		{name: "by a glob", secrets: one(modern, strings.Replace(out.Host, "127.0.", "127.*.", 1), right)},
		{name: "part of a path segment", secrets: one(modern, strings.TrimSuffix(reference, "pp"), right), reason: v1beta1.ReasonUnauthorized,
			message: []string{"asks for a user name and a password", "Secrets of this namespace"}},
		{name: "the most specific first", secrets: secrets(
			dockerConfig(t, modern, map[string]entry{out.Host: wrong}), dockerConfig(t, legacy, map[string]entry{reference: right}))},
		{name: "each of several", secrets: secrets(
			dockerConfig(t, modern, map[string]entry{reference: wrong}), dockerConfig(t, modern, map[string]entry{out.Host: right}))},
		{name: "wrong", secrets: one(modern, out.Host, wrong), reason: v1beta1.ReasonUnauthorized,
			message: []string{"the credentials for it are wrong", "Secrets of this namespace"}},
		{name: "broken beside a good one", secrets: secrets(broken.DeepCopy(), dockerConfig(t, modern, map[string]entry{out.Host: right}))},
		{name: "broken", secrets: secrets(broken.DeepCopy()), reason: v1beta1.ReasonUnauthorized, message: []string{"broken"}},
		{name: "of another shape", secrets: secrets(shapeless.DeepCopy()), reason: v1beta1.ReasonUnauthorized, message: []string{"shapeless"}},
		{name: "of another shape beside a good one", secrets: secrets(shapeless.DeepCopy(), dockerConfig(t, modern, map[string]entry{out.Host: right}))},
		{name: "of another type", secrets: secrets(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "pull-"}, Type: corev1.SecretTypeOpaque,
			Data: dockerConfig(t, modern, map[string]entry{out.Host: right}).Data}), reason: v1beta1.ReasonUnauthorized},
		{name: "none", reason: v1beta1.ReasonUnauthorized, message: []string{"asks for a user name and a password"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			namespace := fmt.Sprintf("pull-%d", i)
			x.namespace(t, namespace, nil)
			for _, secret := range tt.secrets {
				x.createSecret(t, namespace, secret)
			}
			x.wantImport(t, namespace, "app", v1beta1.ImageImportSpec{From: reference, Insecure: ptr.To(true)}, tt.reason, tt.message...)
		})
	}
	t.Run("changed between two imports", func(t *testing.T) {
		t.Parallel()
		x.namespace(t, "pull-changed", nil)
		spec := v1beta1.ImageImportSpec{From: reference, Insecure: ptr.To(true)}
		secret := x.createSecret(t, "pull-changed", dockerConfig(t, modern, map[string]entry{out.Host: wrong}))
		x.wantImport(t, "pull-changed", "before", spec, v1beta1.ReasonUnauthorized)
		secret.Data = dockerConfig(t, modern, map[string]entry{out.Host: right}).Data
		if _, err := x.kube.CoreV1().Secrets("pull-changed").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		// What was read is kept for a second.
		eventually(t, "the new password is used", func(context.Context) error {
			spec.TargetImage = "after-" + rand.String(8)
			return wantOutcome(x.tried(t, "pull-changed", spec), "")
		})
	})
}

func (x *tagger) createSecret(t *testing.T, namespace string, secret *corev1.Secret) *corev1.Secret {
	t.Helper()
	created, err := x.kube.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// wantImport imports an Image and compares how the import, or its first attempt, ended: without a reason it succeeds.
func (x *tagger) wantImport(t *testing.T, namespace, image string, spec v1beta1.ImageImportSpec, reason string, message ...string) {
	t.Helper()
	spec.TargetImage = image
	if err := wantOutcome(x.tried(t, namespace, spec), reason, message...); err != nil {
		t.Fatal(err)
	}
}

// tried imports an Image, and returns the import when its first attempt has ended.
func (x *tagger) tried(t *testing.T, namespace string, spec v1beta1.ImageImportSpec) *v1beta1.ImageImport {
	t.Helper()
	imports := x.api.TaggerV1beta1().ImageImports(namespace)
	imp, err := imports.Create(t.Context(), &v1beta1.ImageImport{ObjectMeta: metav1.ObjectMeta{GenerateName: spec.TargetImage + "-"}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first attempt of "+imp.Name+" has ended", func(ctx context.Context) error {
		if imp, err = imports.Get(ctx, imp.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if outcome(imp).Reason == v1beta1.ReasonInProgress || len(imp.Status.ImportAttempts) == 0 {
			return errors.New("it has not")
		}
		return nil
	})
	return imp
}

// outcome returns how an import stands.
func outcome(imp *v1beta1.ImageImport) metav1.Condition {
	return ptr.Deref(meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported), metav1.Condition{})
}

// wantOutcome says in what the outcome of an import differs from what is wanted.
func wantOutcome(imp *v1beta1.ImageImport, reason string, message ...string) error {
	want := metav1.ConditionUnknown // it is tried again
	switch {
	case reason == "":
		want, reason = metav1.ConditionTrue, v1beta1.ReasonImported
	case imp.Status.CompletionTime != nil:
		want = metav1.ConditionFalse
	}
	got := outcome(imp)
	if got.Status != want || got.Reason != reason {
		return fmt.Errorf("the import is %s by %s (%s), want %s by %s", got.Status, got.Reason, got.Message, want, reason)
	}
	for _, part := range message {
		if !strings.Contains(got.Message, part) {
			return fmt.Errorf("the message is %q, want %q in it", got.Message, part)
		}
	}
	if strings.Contains(got.Message, password) || strings.Contains(got.Message, encoded(user, password)) {
		return fmt.Errorf("the message has the password: %q", got.Message)
	}
	return nil
}
