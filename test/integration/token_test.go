// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// registryToken asks for a token.
func (s *server) registryToken(t *testing.T, seconds int64) *v1beta1.RegistryToken {
	t.Helper()
	return must(s.api.TaggerV1beta1().RegistryTokens().Create(t.Context(),
		&v1beta1.RegistryToken{Spec: v1beta1.RegistryTokenSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{}))(t)
}

// TestRegistryToken asks for a token as people do, and has clients use it.
func TestRegistryToken(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	if _, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{
		Spec: v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reference := s.registry + "/" + namespace + "/app:latest"
	asked := time.Now() // parallel tests wait for each other, even for minutes
	answer := s.registryToken(t, 3600)
	answered := time.Now()
	t.Run("the answer", func(t *testing.T) {
		t.Parallel()
		if got := answer.Status.Registry.Host; got != s.registry {
			t.Errorf("host %q, want %q", got, s.registry)
		}
		ca := must(os.ReadFile(filepath.Join(s.dir, "ca.crt")))(t)
		if !bytes.Equal(answer.Status.Registry.CABundle, ca) {
			t.Errorf("authority %q, want %q", answer.Status.Registry.CABundle, ca)
		}
		ends := answer.Status.ExpirationTimestamp.Time // in whole seconds
		if ends.Before(asked.Add(time.Hour).Truncate(time.Second)) || ends.After(answered.Add(time.Hour)) {
			t.Errorf("it ends at %s, want an hour after %s", ends, asked)
		}
		if s.logged(answer.Status.Token) {
			t.Error("the log has the token")
		}
	})
	t.Run("the API", func(t *testing.T) {
		t.Parallel()
		if got := must(s.get(t.Context(), s.apiURL+"/apis/tagger.dev/v1beta1/images", "Bearer "+answer.Status.Token))(t); got.status != http.StatusUnauthorized {
			t.Errorf("the API takes a token for the registry: %d %s", got.status, got.body)
		}
	})
	t.Run("a dry run", func(t *testing.T) {
		t.Parallel()
		dry := must(s.api.TaggerV1beta1().RegistryTokens().Create(t.Context(), &v1beta1.RegistryToken{}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))(t)
		if dry.Status.Token != "" || dry.Status.Registry.Host != s.registry || *dry.Spec.ExpirationSeconds != v1beta1.DefaultTokenExpirationSeconds {
			t.Errorf("%+v", dry)
		}
	})
	t.Run("too long", func(t *testing.T) {
		t.Parallel()
		_, err := s.api.TaggerV1beta1().RegistryTokens().Create(t.Context(), &v1beta1.RegistryToken{Spec: v1beta1.RegistryTokenSpec{ExpirationSeconds: ptr.To[int64](86400)}}, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.expirationSeconds") {
			t.Errorf("%v", err)
		}
	})
	t.Run("kubectl and crane", func(t *testing.T) {
		t.Parallel()
		crane := require(t, "crane")
		create := exec.CommandContext(t.Context(), require(t, "kubectl"), "--kubeconfig", s.kubeconfig(), "create", "--raw", "/apis/tagger.dev/v1beta1/registrytokens", "-f", "-")
		create.Stdin = strings.NewReader(`{"apiVersion":"tagger.dev/v1beta1","kind":"RegistryToken","spec":{"expirationSeconds":60}}`)
		var made v1beta1.RegistryToken
		if err := json.Unmarshal(must(create.Output())(t), &made); err != nil || made.Status.Token == "" {
			t.Fatalf("%v, %+v", err, made.Status.Registry)
		}
		home := t.TempDir()
		run := func(args ...string) string {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), crane, args...)
			cmd.Env = append(cmd.Environ(), "HOME="+home, "SSL_CERT_FILE="+filepath.Join(s.dir, "ca.crt"))
			output, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("crane %s: %v: %s", args[0], err, output)
			}
			return string(output)
		}
		run("auth", "login", made.Status.Registry.Host, "-u", "anybody", "-p", made.Status.Token)
		run("pull", reference, filepath.Join(home, "app.tar"))
		run("copy", reference, s.registry+"/"+namespace+"/copy:latest")
	})
	// Each of these clients takes what it is offered first, or knows but one of the ways.
	ref := must(name.ParseReference(reference))(t)
	transport := remote.WithTransport(s.transport())
	for name, auth := range map[string]authn.Authenticator{
		"a password":                    &authn.Basic{Username: "anybody", Password: answer.Status.Token},
		"an identity token":             authn.FromConfig(authn.AuthConfig{IdentityToken: answer.Status.Token}),
		"a bearer token":                &authn.Bearer{Token: answer.Status.Token},
		"the administrator's own token": &authn.Basic{Username: "anybody", Password: s.token},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := remote.Get(ref, remote.WithAuth(auth), transport); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHandshake speaks it by hand, as a client that knows Bearer alone.
func TestHandshake(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	for _, image := range []string{"app", "other"} {
		if _, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), image, &v1beta1.ImageImport{
			Spec: v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	manifest := func(image string) string {
		return "https://" + s.registry + "/v2/" + namespace + "/" + image + "/manifests/latest"
	}
	ask := func(url, authorization string) answer {
		t.Helper()
		return must(s.get(t.Context(), url, authorization))(t)
	}
	basic := func(token string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+token))
	}
	challenge := `Bearer realm="https://` + s.registry + `/v2/token",service="` + s.registry + `",scope="repository:` + namespace + `/app:pull"`
	anonymous := ask(manifest("app"), "")
	if offered := anonymous.header.Values("WWW-Authenticate"); anonymous.status != http.StatusUnauthorized || len(offered) != 2 ||
		offered[0] != challenge || offered[1] != `Basic realm="Tagger"` {
		t.Errorf("%d, offered %q", anonymous.status, offered)
	}
	endpoint := "https://" + s.registry + "/v2/token?" + url.Values{"service": {s.registry}, "scope": {"repository:" + namespace + "/app:pull", "repository:Not/a/name:pull"}}.Encode()
	whole := s.registryToken(t, 60).Status.Token
	var given struct {
		Token     string `json:"token"`
		ExpiresIn int    `json:"expires_in"`
		Scope     string `json:"scope"`
	}
	got := ask(endpoint, basic(whole))
	if err := json.Unmarshal([]byte(got.body), &given); err != nil || given.ExpiresIn > 60 || given.Scope != "repository:"+namespace+"/app:pull" {
		t.Fatalf("%v, %s", err, got.body)
	}
	parts := strings.Split(given.Token, ".")
	for _, tt := range []struct {
		name, url, authorization string
		status                   int
		challenge                string // what it says at its end
	}{
		{"what it is for", manifest("app"), "Bearer " + given.Token, 200, ""},
		{"as a password", manifest("app"), basic(given.Token), 200, ""},
		{"the endpoint", "https://" + s.registry + "/v2/", "Bearer " + given.Token, 200, ""},
		{"another repository", manifest("other"), "Bearer " + given.Token, 401, `,error="insufficient_scope"`},
		{"for another token", endpoint, basic(given.Token), 401, ""},
		{"for another token, as it is", endpoint, "Bearer " + given.Token, 401, ""},
		{"without its signature", manifest("app"), "Bearer " + parts[0] + "." + parts[1] + ".", 401, `,error="invalid_token"`},
		{"with another's signature", manifest("app"), "Bearer " + parts[0] + "." + parts[1] + "." + strings.Split(whole, ".")[2], 401, `,error="invalid_token"`},
		{"the token of another server", manifest("app"), "Bearer " + foreignToken(t), 401, `,error="invalid_token"`},
		{"no token at all", endpoint, "", 401, ""},
		{"a wrong password", endpoint, basic("wrong"), 401, ""},
		{"the API", s.apiURL + "/apis", "Bearer " + given.Token, 401, ""},
	} {
		got := ask(tt.url, tt.authorization)
		if got.status != tt.status || !strings.HasSuffix(got.header.Get("WWW-Authenticate"), tt.challenge) {
			t.Errorf("%s: %d, %q", tt.name, got.status, got.header.Get("WWW-Authenticate"))
		}
		if strings.Contains(got.body, parts[1]) {
			t.Errorf("%s: the answer repeats the token: %s", tt.name, got.body)
		}
	}
	for _, secret := range []string{given.Token, whole, parts[2]} {
		if s.logged(secret) {
			t.Error("the log has a token")
		}
	}
}

// foreignToken is of a server that has other keys.
func foreignToken(t *testing.T) string {
	t.Helper()
	return start(t, t.TempDir()).registryToken(t, 60).Status.Token
}

// TestRegistryTokenKeys has tokens outlive a restart, and end with the keys that signed them.
func TestRegistryTokenKeys(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	flags := []string{"--encryption-provider-config", file(t, `
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [registrykeys.tagger.dev]
  providers:
  - secretbox: {keys: [{name: first, secret: `+key+`}]}
`)}
	s := start(t, t.TempDir(), flags...)
	token := s.registryToken(t, 3600).Status.Token
	ping := func(s *server) int {
		t.Helper()
		return must(s.get(t.Context(), "https://"+s.registry+"/v2/", "Bearer "+token))(t).status
	}
	if status := ping(s); status != http.StatusOK {
		t.Errorf("%d", status)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	const prefix = "/tagger/tagger.dev/registrykeys/"
	s.atRest(t, func(etcd *clientv3.Client) {
		stored := must(etcd.Get(t.Context(), prefix, clientv3.WithPrefix()))(t)
		if stored.Count == 0 {
			t.Fatal("no key is stored")
		}
		for _, kv := range stored.Kvs {
			if !strings.HasPrefix(string(kv.Value), "k8s:enc:secretbox:v1:first:") {
				t.Errorf("%s is stored as %.40q…", kv.Key, kv.Value)
			}
		}
	})
	s = s.again(t, flags...)
	if status := ping(s); status != http.StatusOK {
		t.Errorf("after a restart %d", status)
	}
	if got := must(s.get(t.Context(), s.apiURL+"/apis/tagger.dev/v1beta1/registrykeys", "Bearer "+s.token))(t); got.status != http.StatusNotFound {
		t.Errorf("the API serves keys: %d", got.status)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.atRest(t, func(etcd *clientv3.Client) {
		if _, err := etcd.Delete(t.Context(), prefix, clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
	})
	s = s.again(t, flags...)
	if status := ping(s); status != http.StatusUnauthorized {
		t.Errorf("after the keys were taken away %d", status)
	}
	token = s.registryToken(t, 60).Status.Token
	if status := ping(s); status != http.StatusOK {
		t.Errorf("with another key %d", status)
	}
}
