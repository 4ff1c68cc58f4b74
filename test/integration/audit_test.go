// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestAudit reads in the audit log who did what, and looks there for what must be in no log: the token of the caller and the
// password for the source.
func TestAudit(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery-staple"
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newImage(t, ociTypes, "amd64"))
	out.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if _, got, _ := r.BasicAuth(); got != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="outside"`)
			lab.Answering(http.StatusUnauthorized, "application/json", errorBody("UNAUTHORIZED"))(w, r, registry)
			return
		}
		registry.ServeHTTP(w, r)
	})
	basic := base64.StdEncoding.EncodeToString([]byte("somebody:" + password))
	log := filepath.Join(t.TempDir(), "audit.log")
	s := start(t, t.TempDir(), "--v=6",
		"--registry-auth-file", file(t, `{"auths":{"`+out.Host+`":{"auth":"`+basic+`"}}}`),
		"--audit-log-path", log, "--audit-policy-file", file(t, `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  resources: [{group: tagger.dev}]
  verbs: [create, delete]
- level: None
`))
	namespace := newNamespace()
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app")})
	imp := s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{Mirror: ptr.To(true)}, v1beta1.ReasonImported)
	s.image(t, namespace, "app") // is not audited
	s.deleteImage(t, namespace, "app")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}

	type audited struct {
		User, Verb, Resource, Subresource, Name string
		Code                                    int32
		// Says is whether request and response are there, and the response has what it should.
		Says bool
	}
	var got []audited
	recorded := string(must(os.ReadFile(log))(t))
	for line := range strings.Lines(recorded) {
		var event auditv1.Event
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		ref := event.ObjectRef
		if event.Stage != auditv1.StageResponseComplete || ref.Namespace != namespace || event.User.Username != "tagger-admin" {
			continue
		}
		entry := audited{event.User.Username, event.Verb, ref.Resource, ref.Subresource, ref.Name, event.ResponseStatus.Code, false}
		if event.Verb == "create" {
			entry.Says = event.RequestObject != nil && event.ResponseObject != nil && strings.Contains(string(event.ResponseObject.Raw), out.Reference("app"))
		}
		if ref.Subresource == "import" {
			entry.Says = entry.Says && strings.Contains(string(event.ResponseObject.Raw), `"name":"`+imp.Name+`"`)
		}
		got = append(got, entry)
	}
	want := []audited{
		{"tagger-admin", "create", "images", "", "app", 201, true},
		{"tagger-admin", "create", "images", "import", "app", 201, true},
		{"tagger-admin", "delete", "images", "", "app", 200, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("audited (-want +got):\n%s\n%s", diff, recorded)
	}
	for _, secret := range []string{s.token, password, basic} {
		if strings.Contains(recorded, secret) {
			t.Errorf("the audit log has the secret %q", secret)
		}
		if s.logged(secret) {
			t.Errorf("the log has the secret %q", secret)
		}
	}
}
