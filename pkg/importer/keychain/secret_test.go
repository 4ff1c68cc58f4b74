// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package keychain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/importer"
)

func secret(name string, kind corev1.SecretType, key, data string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, Data: map[string][]byte{key: []byte(data)}}
}

func annotated(secret *corev1.Secret, value string) *corev1.Secret {
	secret.Annotations = map[string]string{"tagger.dev/insecure-transport": value}
	return secret
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	json := func(name, data string) *corev1.Secret {
		return secret(name, corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, data)
	}
	tests := []struct {
		name    string
		secrets []*corev1.Secret
		want    []importer.Credential
		broken  string
	}{
		{name: "none", want: []importer.Credential{}},
		{name: "user name and password", secrets: []*corev1.Secret{json("s", `{"auths":{"quay.io":{"username":"u","password":"p"}}}`)},
			want: []importer.Credential{{Username: "u", Password: "p"}}},
		{name: "auth alone, and it goes first", secrets: []*corev1.Secret{
			json("a", `{"auths":{"quay.io":{"auth":"dTE6cDE="}}}`),
			json("b", `{"auths":{"quay.io":{"auth":"dTI6cDI","username":"x","password":"y"}}}`),
		}, want: []importer.Credential{{Username: "u1", Password: "p1"}, {Username: "u2", Password: "p2"}}},
		{name: "a colon in the password", secrets: []*corev1.Secret{json("a", `{"auths":{"quay.io":{"auth":"dTpwOnE="}}}`)},
			want: []importer.Credential{{Username: "u", Password: "p:q"}}},
		{name: "the old format", secrets: []*corev1.Secret{
			secret("s", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"https://quay.io":{"username":"u","password":"p","email":"e"}}`),
		}, want: []importer.Credential{{Username: "u", Password: "p"}}},
		{name: "tokens", secrets: []*corev1.Secret{json("s", `{"auths":{"quay.io":{"identitytoken":"i"},"quay.io/a":{"registrytoken":"r"}}}`)},
			want: []importer.Credential{{AccessToken: "r"}, {RefreshToken: "i"}}},
		{name: "most specific first over all Secrets, each once", secrets: []*corev1.Secret{
			json("a", `{"auths":{"quay.io":{"username":"u","password":"host"}}}`),
			json("b", `{"auths":{"quay.io/a":{"username":"u","password":"path"}}}`),
			json("c", `{"auths":{"https://quay.io/v1/":{"username":"u","password":"host"}}}`),
		}, want: []importer.Credential{{Username: "u", Password: "path"}, {Username: "u", Password: "host"}}},
		{name: "marked for insecure transport by one Secret is enough", secrets: []*corev1.Secret{
			annotated(json("a", `{"auths":{"quay.io":{"username":"u","password":"p"}}}`), "no"),
			annotated(json("b", `{"auths":{"quay.io":{"username":"u","password":"p"},"quay.io/a":{"username":"v","password":"q"}}}`), "allow"),
			json("c", `{"auths":{"quay.io":{"username":"w","password":"r"}}}`),
		}, want: []importer.Credential{
			{Username: "v", Password: "q", InsecureTransport: true}, {Username: "u", Password: "p", InsecureTransport: true}, {Username: "w", Password: "r"},
		}},
		{name: "marked and empty", secrets: []*corev1.Secret{annotated(json("a", `{"auths":{"quay.io":{}}}`), "allow")}, want: []importer.Credential{}},
		{name: "other types and helpers do not count", secrets: []*corev1.Secret{
			secret("o", corev1.SecretTypeOpaque, corev1.DockerConfigJsonKey, `{"auths":{"quay.io":{"username":"u","password":"p"}}}`),
			json("h", `{"credsStore":"../../bin/sh","credHelpers":{"quay.io":"evil"}}`),
		}, want: []importer.Credential{}},
		{name: "broken ones are named, and the others used", secrets: []*corev1.Secret{
			json("a", `PASSWORD`),
			json("b", `{"auths":["PASSWORD"]}`),
			json("c", `{"auths":{"quay.io":{"auth":"PASSWORD?"}}}`),
			{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Type: corev1.SecretTypeDockerConfigJson},
			json("e", `{"auths":{"quay.io":{"username":"u","password":"p"}}}`),
		}, want: []importer.Credential{{Username: "u", Password: "p"}},
			broken: "the Secret a has a \".dockerconfigjson\" that is not valid JSON; it should be a docker config.json\n" +
				"the Secret b has a \".dockerconfigjson\" that is not of the format of a docker config.json\n" +
				"the Secret d has no \".dockerconfigjson\"\n" +
				"the entry for quay.io of the Secret c has an \"auth\" that is not base64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list := func(context.Context) ([]*corev1.Secret, error) { return tt.secrets, nil }
			got, err := Secrets(list).Credentials(t.Context(), parse(t, "quay.io/a/b"))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(tt.broken, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if strings.Contains(text, "PASSWORD") {
				t.Error("the error quotes a Secret")
			}
		})
	}
}

// TestManyCredentials: of more than any source is tried with, the most specific ones are left, and that takes no time.
func TestManyCredentials(t *testing.T) {
	t.Parallel()
	var entries []string
	for i := range 20_000 {
		entries = append(entries, fmt.Sprintf(`"quay.io/[a%c]":{"username":"u%d","password":"p"}`, 0x4e00+i, i))
	}
	entries = append(entries, `"quay.io/a/b":{"username":"path","password":"p"}`, `"quay.io":{"username":"host","password":"p"}`)
	large := secret("s", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{`+strings.Join(entries, ",")+`}}`)
	got, err := Secrets(func(context.Context) ([]*corev1.Secret, error) { return []*corev1.Secret{large}, nil }).Credentials(t.Context(), parse(t, "quay.io/a/b:v1"))
	if err != nil || len(got) != 16 || got[0].Username != "path" || slices.Contains(got, importer.Credential{Username: "host", Password: "p"}) {
		t.Errorf("%d credentials, %v: %v", len(got), got, err)
	}
}

func TestSecretsCannotBeListed(t *testing.T) {
	t.Parallel()
	failing := errors.New("no")
	_, err := Secrets(func(context.Context) ([]*corev1.Secret, error) { return nil, failing }).Credentials(t.Context(), parse(t, "nginx"))
	var typed *importer.Error
	if !errors.Is(err, failing) || errors.As(err, &typed) {
		t.Errorf("got %v, want the error of the list as it is", err)
	}
}
