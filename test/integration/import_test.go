// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestMetrics imports on a server of its own and reads what that counted.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	namespace := newNamespace()
	out := lab.New(t, lab.TrustedTLS)
	out.Push(t, "app", newIndex(t, ociTypes))
	spec := v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonImported)
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonUnchanged)
	out.Misbehave(lab.Answering(http.StatusOK, "text/html", ""))
	s.importImage(t, namespace, "app", spec)

	metrics, err := s.get(t.Context(), s.apiURL+"/metrics", "Bearer "+s.token)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		`tagger_import_attempts_total{outcome="imported",reason=""}`:                  "1",
		`tagger_import_attempts_total{outcome="unchanged",reason=""}`:                 "1",
		`tagger_import_attempts_total{outcome="failed",reason="UnsupportedManifest"}`: "1",
		`tagger_import_attempt_duration_seconds_count{outcome="imported"}`:            "1",
		`tagger_import_attempts_in_flight`:                                            "0",
	}
	got := map[string]string{}
	for name := range want {
		if found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(metrics.body); found != nil {
			got[name] = found[1]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	const least = 2 * layers * layerSize
	bytes := regexp.MustCompile(`(?m)^tagger_import_mirrored_bytes_total (\S+)$`).FindStringSubmatch(metrics.body)
	if bytes == nil || must(strconv.ParseFloat(bytes[1], 64))(t) < least {
		t.Errorf("tagger_import_mirrored_bytes_total is %q, want at least %d", bytes, least)
	}
}

// TestDryRun asks what an import would do. Nothing is stored and no blob is fetched.
func TestDryRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		exists bool
		tag    string
		want   metav1.ConditionStatus
		asked  map[string]int // at the source
	}{
		{"of an Image", true, "latest", metav1.ConditionTrue, map[string]int{"GET manifests": 1}},
		{"of an Image that is not there", false, "latest", metav1.ConditionTrue, map[string]int{"GET manifests": 1}},
		{"of a tag that is not there", false, "absent", metav1.ConditionFalse, map[string]int{"GET manifests": 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			image := newImage(t, ociTypes, "amd64")
			out.Push(t, "app", image)
			if tt.exists {
				s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: out.Reference("app"), Mirror: true})
			}
			before := s.images(t, namespace)
			imp, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app",
				&v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{From: out.Reference("app:" + tt.tag), Mirror: ptr.To(true)}},
				metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, outcomeOf(imp.Status.Conditions).Status); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
			if ref := imp.Status.HashReference; tt.want == metav1.ConditionTrue {
				if diff := cmp.Diff(out.Reference("app@"+digestOf(t, image)), ref.SourceReference); diff != "" {
					t.Errorf("sourceReference (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(tt.asked, out.Requests()); diff != "" {
				t.Errorf("requests at the source (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, s.images(t, namespace), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("Images (-before +after):\n%s", diff)
			}
			list, err := s.api.TaggerV1beta1().ImageImports(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 0 {
				t.Errorf("%d ImageImports, %v; want none", len(list.Items), err)
			}
		})
	}
}

// TestDryRunOfCreate creates an ImageImport without effect, which reaches no network.
func TestDryRunOfCreate(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	_, err := s.api.TaggerV1beta1().ImageImports(namespace).Create(t.Context(), &v1beta1.ImageImport{
		ObjectMeta: metav1.ObjectMeta{Name: "never"},
		Spec:       v1beta1.ImageImportSpec{TargetImage: "app", From: out.Reference("app")},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]v1beta1.Image{}, s.images(t, namespace)); diff != "" {
		t.Errorf("Images (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{}, out.Requests()); diff != "" {
		t.Errorf("requests at the source (-want +got):\n%s", diff)
	}
}

// TestTimeToLive imports with a time to live of nothing: the caller is answered, then the ImageImport goes, and what it
// recorded stays.
func TestTimeToLive(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	image := newImage(t, ociTypes, "amd64")
	out.Push(t, "app", image)
	imp, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{
		From: out.Reference("app"), Mirror: ptr.To(true), TTLSecondsAfterFinished: ptr.To[int32](0)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(metav1.ConditionTrue, outcomeOf(imp.Status.Conditions).Status); diff != "" {
		t.Errorf("condition of the answer (-want +got):\n%s", diff)
	}
	s.gone(t, namespace, imp.Name)
	if diff := cmp.Diff([]string{s.mirrored(namespace, "app", digestOf(t, image))}, s.history(t, namespace, "app")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// TestAuthFile imports from a registry that wants a password, which a docker config.json has.
func TestAuthFile(t *testing.T) {
	t.Parallel()
	const user, password = "puller", "a-password-that-must-not-be-repeated"
	out := lab.New(t, lab.TrustedTLS)
	image := newImage(t, ociTypes, "amd64")
	out.Push(t, "app", image)
	out.Misbehave(func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if gotUser, gotPassword, _ := r.BasicAuth(); gotUser != user || gotPassword != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="outside"`)
			lab.Answering(http.StatusUnauthorized, "application/json", errorBody("UNAUTHORIZED"))(w, r, registry)
			return
		}
		registry.ServeHTTP(w, r)
	})
	dir := t.TempDir()
	auths := filepath.Join(dir, "auth.json")
	spec := v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)}
	write := func(password string) {
		content := `{"auths":{"` + out.Host + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + `"}}}`
		if err := os.WriteFile(auths, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	s := start(t, dir, "--v=6", "--registry-auth-file", auths)
	namespace := newNamespace()
	answered, err := s.api.TaggerV1beta1().Images(namespace).Import(t.Context(), "app", &v1beta1.ImageImport{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v1beta1.ReasonUnauthorized, outcomeOf(answered.Status.Conditions).Reason); diff != "" {
		t.Errorf("reason with a wrong password (-want +got):\n%s", diff)
	}
	write(password) // it is read at each attempt
	s.mustImport(t, namespace, "app", spec, v1beta1.ReasonImported)
	if diff := cmp.Diff([]string{s.mirrored(namespace, "app", digestOf(t, image))}, s.history(t, namespace, "app")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	s.mustNotRepeat(t, namespace)
	if s.logged(password) {
		t.Error("the log has the password")
	}
}
