// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/embedded"
)

// atRest opens the etcd of a server that has ended.
func (s *server) atRest(t *testing.T, use func(*clientv3.Client)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	etcd, err := embedded.StartEtcd(ctx, embedded.EtcdConfig{Dir: filepath.Join(s.dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{etcd.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	use(client)
}

// readKey returns the value of a key of etcd.
func readKey(t *testing.T, etcd *clientv3.Client, key string) []byte {
	t.Helper()
	response, err := etcd.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Kvs) != 1 {
		t.Fatalf("%d values of %s, want one", len(response.Kvs), key)
	}
	return response.Kvs[0].Value
}

// TestStoredObjects puts into etcd what a Tagger of today stores, as bytes and below the keys of today, and has the server serve
// and change it. The keys must never change, or what is stored would be lost.
func TestStoredObjects(t *testing.T) {
	t.Parallel()
	const folder = "../../pkg/apis/tagger/install/testdata/stored/5/"
	keys := map[string]string{
		"/tagger/tagger.dev/images/team-a/operator":         "image.json",
		"/tagger/tagger.dev/imageimports/team-a/operator-0": "imageimport.json",
	}
	contents := map[string][]byte{}
	for key, name := range keys {
		contents[key] = must(os.ReadFile(folder + name))(t)
	}
	s := start(t, t.TempDir())
	s.createImage(t, "team-a", "other", v1beta1.ImageSpec{From: "quay.io/company/other"})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.atRest(t, func(etcd *clientv3.Client) {
		if stored := readKey(t, etcd, "/tagger/tagger.dev/images/team-a/other"); !strings.HasPrefix(string(stored), `{"kind":"Image","apiVersion":"tagger.dev/v1beta1","metadata":{"name":"other"`) {
			t.Errorf("stored: %s, want JSON of v1beta1", stored)
		}
		for key, content := range contents {
			if _, err := etcd.Put(t.Context(), key, string(content)); err != nil {
				t.Fatal(err)
			}
		}
	})

	s = s.again(t)
	var want v1beta1.Image
	if err := json.Unmarshal(contents["/tagger/tagger.dev/images/team-a/operator"], &want); err != nil {
		t.Fatal(err)
	}
	image := s.image(t, "team-a", "operator")
	version := image.ResourceVersion
	image.ResourceVersion, image.TypeMeta = "", want.TypeMeta
	if diff := cmp.Diff(&want, image); diff != "" || version == "" {
		t.Errorf("served with resourceVersion %q (-stored +served):\n%s", version, diff)
	}
	image.Labels["changed"] = "true"
	if _, err := s.api.TaggerV1beta1().Images("team-a").Update(t.Context(), image, metav1.UpdateOptions{FieldManager: "ci"}); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.atRest(t, func(etcd *clientv3.Client) {
		stored := readKey(t, etcd, "/tagger/tagger.dev/images/team-a/operator")
		// All but the labels and who changed them is written as it was.
		_, specBefore, _ := bytes.Cut(contents["/tagger/tagger.dev/images/team-a/operator"], []byte(`"spec":`))
		if !bytes.HasSuffix(stored, specBefore) || !bytes.Contains(stored, []byte(`"changed":"true"`)) {
			t.Errorf("stored after a change of the labels: %s", stored)
		}
	})
}

// TestEncryptionAtRest looks for what an Image says in all that the server leaves on disk.
func TestEncryptionAtRest(t *testing.T) {
	t.Parallel()
	const marker = "quay.io/very-confidential/app"
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	provider := func(name string) string {
		return `
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [images.tagger.dev, imageimports.tagger.dev]
  providers:
  - ` + name + `: {keys: [{name: first, secret: ` + key + `}]}
  - identity: {}
`
	}
	tests := []struct {
		name, config string
		prefix       string // of what is stored
		readable     bool
	}{
		{"none", "", `{"kind":"Image"`, true},
		{"secretbox", provider("secretbox"), "k8s:enc:secretbox:v1:first:", false},
		{"aescbc", provider("aescbc"), "k8s:enc:aescbc:v1:first:", false},
		{"aesgcm", provider("aesgcm"), "k8s:enc:aesgcm:v1:first:", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var flags []string
			if tt.config != "" {
				flags = []string{"--encryption-provider-config", file(t, tt.config)}
			}
			s := start(t, t.TempDir(), flags...)
			s.createImage(t, "team-a", "app", v1beta1.ImageSpec{From: marker})
			s.createImport(t, "team-a", "app-0", v1beta1.ImageImportSpec{TargetImage: "app", Insecure: ptr.To(false)})
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.atRest(t, func(etcd *clientv3.Client) {
				if stored := readKey(t, etcd, "/tagger/tagger.dev/images/team-a/app"); !strings.HasPrefix(string(stored), tt.prefix) {
					t.Errorf("stored: %.60q…, want it to begin with %q", stored, tt.prefix)
				}
			})
			if found := filesWith(t, s.dir, marker); (len(found) > 0) != tt.readable {
				t.Errorf("found in %v, want it readable: %t", found, tt.readable)
			}
			s = s.again(t, flags...)
			if got := s.image(t, "team-a", "app").Spec.From; got != marker {
				t.Errorf("after a restart spec.from is %q, want %q", got, marker)
			}
		})
	}
}

// filesWith returns the files below a directory that contain a text.
func filesWith(t *testing.T, dir, text string) []string {
	t.Helper()
	var found []string
	if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			found = append(found, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}
