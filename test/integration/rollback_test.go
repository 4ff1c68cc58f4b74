// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	applyv1beta1 "tagger.dev/tagger/pkg/generated/applyconfiguration/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// rollbackCase is an Image with three generations, the last of which is current.
type rollbackCase struct {
	s         *server
	namespace string
	out       *lab.Source
	// kubectl is what runs the plugin.
	kubectl string
	// digests are those of the generations, the current one first, as the history has them.
	digests []string
}

// threeGenerations imports a tag that moves twice, on a schedule where there is an interval.
func threeGenerations(t *testing.T, s *server, namespace string, mirror bool, interval time.Duration) rollbackCase {
	t.Helper()
	c := rollbackCase{s: s, namespace: namespace, out: lab.New(t, lab.TrustedTLS), kubectl: "kubectl"}
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: c.out.Reference("app"), Mirror: mirror})
	for range 3 {
		content := newImage(t, ociTypes, "amd64")
		c.out.Push(t, "app", content)
		s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
		c.digests = append([]string{digestOf(t, content)}, c.digests...)
	}
	if interval > 0 { // which is due an interval after the last import
		if _, err := s.api.TaggerV1beta1().Images(namespace).Patch(t.Context(), "app", types.MergePatchType,
			fmt.Appendf(nil, `{"spec":{"refreshInterval":%q}}`, interval), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the Image has forgotten the imports", func(context.Context) (bool, error) {
		return len(s.image(t, namespace, "app").Status.RecordedImports) == 0, nil
	})
	c.out.Requests()
	return c
}

// places returns which generation each entry of the history has, by its index in digests.
func (c rollbackCase) places(t *testing.T) []int {
	t.Helper()
	places := []int{}
	for _, reference := range c.s.history(t, c.namespace, "app") {
		_, digest, _ := strings.Cut(reference, "@")
		place := -1
		for i := range c.digests {
			if c.digests[i] == digest {
				place = i
			}
		}
		places = append(places, place)
	}
	return places
}

func (c rollbackCase) plugin(t *testing.T, args ...string) result {
	t.Helper()
	return c.s.try(t, c.kubectl, append([]string{"image", "-n", c.namespace, "rollback", "app"}, args...)...)
}

// TestRollback goes back by the plugin in all the ways in which one can say what to.
func TestRollback(t *testing.T) { withKubectls(t, rollback) }

func rollback(t *testing.T, kubectl string) {
	require(t, "kubectl-image")
	tests := []struct {
		name     string
		mirror   bool
		interval time.Duration
		// args may contain DIGEST and PREFIX, which stand for the oldest generation's.
		args []string
		want []int // the history, by generation
		// suspended is whether the refresh is.
		suspended bool
	}{
		{name: "to the previous", mirror: true, want: []int{1, 0, 1, 2}},
		{name: "by number", mirror: true, args: []string{"--to", "3"}, want: []int{2, 0, 1, 2}},
		{name: "by digest", mirror: true, args: []string{"--to", "DIGEST"}, want: []int{2, 0, 1, 2}},
		{name: "by the beginning of a digest", mirror: true, args: []string{"--to=PREFIX"}, want: []int{2, 0, 1, 2}},
		{name: "what was not mirrored", want: []int{1, 0, 1, 2}},
		{name: "what is refreshed", mirror: true, interval: time.Hour, want: []int{1, 0, 1, 2}, suspended: true},
		{name: "to the current", mirror: true, args: []string{"--to", "1"}, want: []int{0, 1, 2}},
		{name: "without doing it", mirror: true, interval: time.Hour, args: []string{"--dry-run=server"}, want: []int{0, 1, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			c := threeGenerations(t, s, namespace, tt.mirror, tt.interval)
			c.kubectl = kubectl
			oldest := c.digests[2]
			var args []string
			for _, arg := range tt.args {
				args = append(args, strings.NewReplacer("DIGEST", oldest, "PREFIX", oldest[:len("sha256:")+12]).Replace(arg))
			}
			before := s.image(t, namespace, "app")
			r := c.plugin(t, args...)
			if r.code != 0 || r.stderr != "" || strings.Count(r.stdout, "\n") != 1 {
				t.Fatalf("exit code %d, stdout %q, stderr %q; want 0 and one line", r.code, r.stdout, r.stderr)
			}
			if diff := cmp.Diff(tt.want, c.places(t)); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			image := s.image(t, namespace, "app")
			if image.Spec.Suspend != tt.suspended || strings.Contains(r.stdout, "resume it with") != tt.suspended {
				t.Errorf("suspended: %t, want %t; it says %q", image.Spec.Suspend, tt.suspended, r.stdout)
			}
			front := image.Status.HashReferences[0]
			if _, digest, _ := strings.Cut(front.ImageReference, "@"); !strings.Contains(r.stdout, digest) && len(tt.want) > 3 {
				t.Errorf("it does not name what is current now: %q", r.stdout)
			}
			if len(tt.want) == 3 { // nothing happened, but that a person has chosen what is current
				recorded := slices.Contains(tt.args, "1")
				if front.RolledBack != recorded {
					t.Errorf("it was rolled back to what is current: %t, want %t", front.RolledBack, recorded)
				}
				if diff := cmp.Diff(before.Status, image.Status); diff != "" && !recorded {
					t.Errorf("status (-before +after):\n%s", diff)
				}
				if asked := c.out.Requests(); len(asked) > 0 {
					t.Errorf("the source was asked: %v", asked)
				}
				return
			}
			if got := outcomeOf(image.Status.Conditions); got.Status != metav1.ConditionTrue || got.Reason != v1beta1.ReasonRolledBack {
				t.Errorf("condition %+v, want True with reason RolledBack", got)
			}
			if tt.mirror {
				s.pull(t, front.ImageReference)
				latest, err := s.get(t.Context(), "https://"+s.registry+"/v2/"+namespace+"/app/manifests/latest", basic(s.token))
				if _, digest, _ := strings.Cut(front.ImageReference, "@"); err != nil || latest.header.Get("Docker-Content-Digest") != digest {
					t.Errorf("latest at the mirror is %s, %v; want %s", latest.header.Get("Docker-Content-Digest"), err, digest)
				}
			} else if diff := cmp.Diff(map[string]int{"GET manifests": 1}, c.out.Requests()); diff != "" {
				t.Errorf("requests at the source (-want +got):\n%s", diff)
			}
			// The tag has not moved: whoever asks for an import is given what it means.
			s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
			if diff := cmp.Diff(append([]int{0}, tt.want...), c.places(t)); diff != "" {
				t.Errorf("history after an import (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRollbackIsRefused: nothing changes, and a line says why.
func TestRollbackIsRefused(t *testing.T) { withKubectls(t, rollbackIsRefused) }

func rollbackIsRefused(t *testing.T, kubectl string) {
	require(t, "kubectl-image")
	const prefix = `error: Operation cannot be fulfilled on images.tagger.dev "app": the reference cannot be pulled, and nothing was changed: `
	tests := []struct {
		name    string
		mirror  bool
		prepare func(t *testing.T, c rollbackCase)
		args    []string
		want    string // the line, with HOST, SOURCE and DIGEST in it
	}{
		{
			name: "gone at the mirror", mirror: true,
			prepare: func(t *testing.T, c rollbackCase) {
				// One of its layers is lost.
				content := must(remote.Image(c.out.Name(t, "app@"+c.digests[1]), c.out.Options()...))(t)
				layer := must(must(content.Layers())(t)[1].Digest())(t)
				if err := truncate(c.s.storedBlob(t, layer.Hex)); err != nil {
					t.Fatal(err)
				}
			},
			want: prefix + "MIRROR@DIGEST: the mirror does not have all of its content any more; import it again from SOURCE/app@DIGEST (NotFound)",
		},
		{
			name: "gone at the source",
			prepare: func(_ *testing.T, c rollbackCase) {
				c.out.Misbehave(lab.Answering(http.StatusNotFound, "application/json", errorBody("MANIFEST_UNKNOWN")))
			},
			want: prefix + "SOURCE/app@DIGEST: manifest DIGEST: not found at HOST (404 MANIFEST_UNKNOWN); check the repository and the digest (NotFound)",
		},
		{
			name: "refused by the source",
			prepare: func(_ *testing.T, c rollbackCase) {
				c.out.Misbehave(lab.Answering(http.StatusUnauthorized, "application/json", errorBody("UNAUTHORIZED")))
			},
			want: prefix + "SOURCE/app@DIGEST: manifest DIGEST: HOST refused access (401 UNAUTHORIZED); it does not exist or needs credentials that may read it " +
				"(they are kept in the file of --registry-auth-file, which is not set) (Unauthorized)",
		},
		{
			name:    "the source is down",
			prepare: func(_ *testing.T, c rollbackCase) { c.out.Close() },
			want:    "error: the reference cannot be pulled, and nothing was changed: SOURCE/app@DIGEST: HOST: connection refused (Unavailable)",
		},
		{
			name: "number out of range", mirror: true, args: []string{"--to", "4"},
			want: `error: ImageRollback.tagger.dev "app" is invalid: spec.number: Invalid value: 4: the history has 3 entries; see kubectl image history app`,
		},
		{
			name: "unknown digest", mirror: true, args: []string{"--to", "sha256:0000000000"},
			want: `error: ImageRollback.tagger.dev "app" is invalid: spec.digest: Invalid value: "sha256:0000000000": no digest of the history begins so; ` +
				`see kubectl image history app`,
		},
		{
			name: "not a digest", mirror: true, args: []string{"--to", "sha256:00"},
			want: `error: ImageRollback.tagger.dev "app" is invalid: spec.digest: Invalid value: "sha256:00": write sha256: and at least 4 ` +
				`hexadecimal digits in lower case, as the history shows them`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			c := threeGenerations(t, s, namespace, tt.mirror, time.Hour)
			c.kubectl = kubectl
			if tt.prepare != nil {
				tt.prepare(t, c)
			}
			before := s.image(t, namespace, "app")
			r := c.plugin(t, tt.args...)
			line := strings.ReplaceAll(placeholders(r.stderr, c.out), s.registry+"/"+namespace+"/app", "MIRROR")
			if diff := cmp.Diff(tt.want+"\n", line); diff != "" || r.code != 1 || r.stdout != "" {
				t.Errorf("exit code %d, stdout %q, stderr (-want +got):\n%s", r.code, r.stdout, diff)
			}
			if diff := cmp.Diff(before, s.image(t, namespace, "app")); diff != "" {
				t.Errorf("the Image (-before +after):\n%s", diff)
			}
		})
	}
}

// TestRollbackOfNothing: an Image without a history, and none at all.
func TestRollbackOfNothing(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	roll := func() error {
		_, err := s.api.TaggerV1beta1().Images(namespace).Rollback(t.Context(), "app", &v1beta1.ImageRollback{}, metav1.CreateOptions{})
		return err
	}
	if err := roll(); !apierrors.IsNotFound(err) {
		t.Errorf("no Image: %v, want not found", err)
	}
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{})
	if err := roll(); !apierrors.IsConflict(err) {
		t.Errorf("no history: %v, want a conflict", err)
	}
}

// TestKubectlRollback does it without the plugin, twice: the second time returns to where it was.
func TestKubectlRollback(t *testing.T) { withKubectls(t, kubectlRollback) }

func kubectlRollback(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	c := threeGenerations(t, s, namespace, true, time.Hour)
	path := "/apis/tagger.dev/v1beta1/namespaces/" + namespace + "/images/app/rollback"
	body := file(t, `{"apiVersion": "tagger.dev/v1beta1", "kind": "ImageRollback"}`)
	for i, want := range [][]int{{1, 0, 1, 2}, {0, 1, 0, 1, 2}} {
		answer := &v1beta1.ImageRollback{}
		if err := json.Unmarshal([]byte(s.run(t, kubectl, "create", "--raw", path, "-f", body)), answer); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.places(t)); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
		front := s.image(t, namespace, "app").Status.HashReferences[0]
		if diff := cmp.Diff(&front, answer.Status.HashReference); diff != "" {
			t.Errorf("the answer is not what is in front (-front +answer):\n%s", diff)
		}
		if got := answer.Status.RefreshSuspended; got != (i == 0) {
			t.Errorf("rollback %d suspended: %t", i+1, got)
		}
	}
	printed := s.run(t, kubectl, "get", "image", "app", "-n", namespace, "-o", `jsonpath={.spec.suspend} {.status.conditions[0].reason}`)
	if printed != "true RolledBack" {
		t.Errorf("the Image is %q", printed)
	}
	history := s.run(t, kubectl, "image", "-n", namespace, "history", "app")
	if lines := words(history); len(lines) != 6 || lines[1][0] != "*" || lines[1][2] != c.digests[0][:len("sha256:")+12] {
		t.Errorf("kubectl image history prints\n%s", history)
	}
}

// TestRollbackKeepsTheLimit of the history.
func TestRollbackKeepsTheLimit(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	c := threeGenerations(t, s, namespace, false, 0)
	image := s.image(t, namespace, "app")
	image.Spec.HistoryLimit = ptr.To[int32](2)
	if _, err := s.api.TaggerV1beta1().Images(namespace).Update(t.Context(), image, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.api.TaggerV1beta1().Images(namespace).Rollback(t.Context(), "app",
		&v1beta1.ImageRollback{Spec: v1beta1.ImageRollbackSpec{Number: ptr.To[int32](3)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{2, 0}, c.places(t)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// TestRollbackAndImportAtOnce: an import that resolved before a rollback comes to lie behind it, however long it takes.
func TestRollbackAndImportAtOnce(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	c := threeGenerations(t, s, namespace, true, 0)
	next := newImage(t, ociTypes, "amd64")
	c.out.Push(t, "app", next)
	c.digests = append(c.digests, digestOf(t, next))
	gate := lab.NewGate(t)
	c.out.Misbehave(lab.Only(lab.Blobs, gate.Fault))
	imp := s.createImport(t, namespace, "slow", v1beta1.ImageImportSpec{TargetImage: "app"})
	gate.Await(t)
	if _, err := s.api.TaggerV1beta1().Images(namespace).Rollback(t.Context(), "app", &v1beta1.ImageRollback{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	gate.Open()
	s.finished(t, namespace, imp.Name)
	if diff := cmp.Diff([]int{1, 3, 0, 1, 2}, c.places(t)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// TestRollbackIsForbidden to whom the server does not know.
func TestRollbackIsForbidden(t *testing.T) {
	t.Parallel()
	s, namespace := shared(t)
	c := threeGenerations(t, s, namespace, false, 0)
	r := c.plugin(t, "--token", strings.Repeat("0", len(s.token)))
	if r.code != 1 || !strings.HasPrefix(r.stderr, "error: You must be logged in to the server") {
		t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
	}
	for i, as := range []string{"nobody", "system:anonymous"} {
		r := c.plugin(t, "--as", as, "--to", strconv.Itoa(i+2))
		if r.code != 1 || !strings.Contains(r.stderr, "forbidden") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("as %s: exit code %d, stderr %q", as, r.code, r.stderr)
		}
	}
	if diff := cmp.Diff([]int{0, 1, 2}, c.places(t)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// TestRollbackOwnsSuspend: whoever applies a manifest that lets the schedule go on is told of a conflict after a rollback.
func TestRollbackOwnsSuspend(t *testing.T) {
	t.Parallel()
	c := threeGenerations(t, start(t, t.TempDir()), "fields", false, time.Hour)
	images := c.s.api.TaggerV1beta1().Images(c.namespace)
	manifest := applyv1beta1.Image("app", c.namespace).WithSpec(imageSpec().WithSuspend(false))
	if _, err := images.Apply(t.Context(), manifest, metav1.ApplyOptions{FieldManager: "gitops"}); err != nil {
		t.Fatal(err)
	}
	if _, err := images.Rollback(t.Context(), "app", &v1beta1.ImageRollback{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := images.Apply(t.Context(), manifest, metav1.ApplyOptions{FieldManager: "gitops"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `"tagger-apiserver" using tagger.dev/v1beta1: .spec.suspend`) {
		t.Errorf("applied again: %v, want a conflict over spec.suspend", err)
	}
	if image := c.s.image(t, c.namespace, "app"); !image.Spec.Suspend {
		t.Error("the schedule goes on")
	}
	// An Image that an import creates has managers, too.
	c.s.mustImport(t, c.namespace, "created", v1beta1.ImageImportSpec{From: c.out.Reference("app")}, v1beta1.ReasonImported)
	want := []string{".spec.from", ".spec.historyLimit"}
	if diff := cmp.Diff(want, owners(t, c.s.image(t, c.namespace, "created"))["tagger-apiserver Update"]); diff != "" {
		t.Errorf("fields of tagger-apiserver (-want +got):\n%s", diff)
	}
}
