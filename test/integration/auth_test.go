// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// The one user of the sources that want credentials.
const (
	pullUser     = "puller"
	pullPassword = "a-pass:word-that-must-not-be-repeated"
	pullToken    = "an-identity-token-that-must-not-be-repeated"
)

// authEntry is an entry of a config.json, with what JSON has for it.
type authEntry map[string]string

func encoded(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// wantsBasic is a registry that wants a password.
var wantsBasic = lab.Basic(pullUser, pullPassword)

// tokenService says how a registry gives tokens.
type tokenService struct {
	// methods by which it may be asked.
	methods []string
	// field of the answer that has the token.
	field string
	// unscoped challenges name no scope.
	unscoped bool
	// public gives anybody a token.
	public bool
	// alsoBasic offers Basic, in front.
	alsoBasic bool
}

// wantsToken is a registry that wants tokens of its own service.
func wantsToken(service tokenService) lab.Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if r.URL.Path == "/token" {
			service.answer(w, r)
			return
		}
		if r.Header.Get("Authorization") == "Bearer a-token" {
			registry.ServeHTTP(w, r)
			return
		}
		if service.alsoBasic {
			w.Header().Add("WWW-Authenticate", `Basic realm="outside"`)
		}
		challenge := `Bearer realm="https://` + r.Host + `/token",service="outside"`
		if !service.unscoped {
			challenge += `,scope="repository:app:pull"`
		}
		w.Header().Add("WWW-Authenticate", challenge)
		lab.Answering(http.StatusUnauthorized, "application/json", errorBody("UNAUTHORIZED"))(w, r, registry)
	}
}

func (s tokenService) answer(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	known := s.public || user == pullUser && password == pullPassword
	if r.Method == http.MethodPost {
		switch r.FormValue("grant_type") {
		case "password":
			known = r.FormValue("username") == pullUser && r.FormValue("password") == pullPassword
		case "refresh_token":
			known = r.FormValue("refresh_token") == pullToken
		}
	}
	switch {
	case !slices.Contains(s.methods, r.Method):
		w.WriteHeader(http.StatusMethodNotAllowed)
	case !known:
		w.WriteHeader(http.StatusUnauthorized)
	default:
		_, _ = fmt.Fprintf(w, `{%q:"a-token","expires_in":1}`, s.field)
	}
}

// TestCredentials imports from registries that want credentials in the ways that there are, which one auth file has.
func TestCredentials(t *testing.T) {
	t.Parallel()
	get, post := []string{http.MethodGet}, []string{http.MethodPost}
	right := authEntry{"auth": encoded(pullUser, pullPassword)}
	wrong := authEntry{"auth": encoded(pullUser, "wrong")}
	tests := []struct {
		name string
		// entries by key; HOST and REPOSITORY in a key are the source's.
		entries map[string]authEntry
		fault   lab.Fault
		want    string // of the condition: its reason, "" for Imported
		message string // what the message has
	}{
		{name: "auth alone", entries: map[string]authEntry{"HOST": right}, fault: wantsBasic},
		{name: "user name and password", entries: map[string]authEntry{"HOST": {"username": pullUser, "password": pullPassword}}, fault: wantsBasic},
		{name: "by a URL", entries: map[string]authEntry{"https://HOST/v1/": right}, fault: wantsBasic},
		{name: "by a glob", entries: map[string]authEntry{"127.*.0.1:*": wrong, "GLOB": right}, fault: wantsBasic},
		{name: "the most specific of several", entries: map[string]authEntry{"HOST": wrong, "HOST/REPOSITORY": right}, fault: wantsBasic},
		{name: "each of several", entries: map[string]authEntry{"HOST": right, "HOST/REPOSITORY": wrong}, fault: wantsBasic},
		{name: "another path's", entries: map[string]authEntry{"HOST/out": right}, fault: wantsBasic,
			want: v1beta1.ReasonUnauthorized, message: "asks for a user name and a password; add credentials for it (they are kept in the file of --registry-auth-file)"},
		{name: "wrong ones", entries: map[string]authEntry{"HOST": wrong}, fault: wantsBasic,
			want: v1beta1.ReasonUnauthorized, message: "the credentials for it are wrong, or may not read it (they are kept in the file of --registry-auth-file)"},
		{name: "a token for a password", entries: map[string]authEntry{"HOST": right}, fault: wantsToken(tokenService{methods: get, field: "token"})},
		{name: "an access_token", entries: map[string]authEntry{"HOST": right}, fault: wantsToken(tokenService{methods: get, field: "access_token"})},
		{name: "a token without a scope", entries: map[string]authEntry{"HOST": right}, fault: wantsToken(tokenService{methods: get, field: "token", unscoped: true})},
		{name: "a token by POST", entries: map[string]authEntry{"HOST": right}, fault: wantsToken(tokenService{methods: post, field: "access_token"})},
		{name: "a token rather than Basic", entries: map[string]authEntry{"HOST": right}, fault: wantsToken(tokenService{methods: get, field: "token", alsoBasic: true})},
		{name: "an identity token", entries: map[string]authEntry{"HOST": {"identitytoken": pullToken}}, fault: wantsToken(tokenService{methods: post, field: "access_token"})},
		{name: "a registry token", entries: map[string]authEntry{"HOST": {"registrytoken": "a-token"}}, fault: wantsToken(tokenService{field: "token"})},
		{name: "anonymous last", entries: map[string]authEntry{"HOST": wrong}, fault: func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
			if r.Header.Get("Authorization") != "" {
				wantsBasic(w, r, registry)
				return
			}
			registry.ServeHTTP(w, r)
		}},
		{name: "a token for anybody", fault: wantsToken(tokenService{methods: get, field: "token", public: true})},
		{name: "a token service that refuses", entries: map[string]authEntry{"HOST": wrong}, fault: wantsToken(tokenService{methods: get, field: "token"}),
			want: v1beta1.ReasonUnauthorized, message: "refused access (401); check the credentials (they are kept in the file of --registry-auth-file)"},
	}
	entries := map[string]authEntry{}
	sources := make([]*lab.Source, len(tests))
	for i, tt := range tests {
		out := lab.New(t, lab.TrustedTLS)
		out.Push(t, "app", newImage(t, ociTypes, "amd64"))
		repository := strings.TrimPrefix(out.Reference("app"), out.Host+"/")
		for key, entry := range tt.entries {
			key = strings.NewReplacer("HOST", out.Host, "REPOSITORY", repository, "GLOB", "127.0.*.1:"+out.Host[strings.LastIndex(out.Host, ":")+1:]).Replace(key)
			entries[key] = entry
		}
		out.Misbehave(tt.fault)
		sources[i] = out
	}
	dir := t.TempDir()
	auths := filepath.Join(dir, "auth.json")
	file, err := json.Marshal(map[string]any{"auths": entries})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(auths, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir, "--v=6", "--registry-auth-file", auths)
	t.Run("imports", func(t *testing.T) {
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				namespace := newNamespace()
				imp, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{
					Spec: v1beta1.ImageImportSpec{From: sources[i].Reference("app"), Mirror: ptr.To(true)},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				got := outcomeOf(imp.Status.Conditions)
				if tt.want == "" {
					tt.want = v1beta1.ReasonImported
				}
				if diff := cmp.Diff(tt.want, got.Reason); diff != "" || !strings.Contains(got.Message, tt.message) {
					t.Errorf("the import says %+v, want %q (-want +got):\n%s", got, tt.message, diff)
				}
				s.mustNotRepeat(t, namespace)
			})
		}
	})
	for _, secret := range []string{pullPassword, pullToken, "a-token", encoded(pullUser, pullPassword)} {
		if s.logged(secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}
