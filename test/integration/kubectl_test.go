// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bufio"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// words splits what a client printed into lines, and those into words: tables are compared so.
func words(text string) [][]string {
	var lines [][]string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// TestKubectlDiscovery asks what the server is and has.
func TestKubectlDiscovery(t *testing.T) { withKubectls(t, kubectlDiscovery) }

func kubectlDiscovery(t *testing.T, kubectl string) {
	s, _ := shared(t)
	if printed := s.run(t, kubectl, "version"); !strings.Contains(printed, "Server Version: v") {
		t.Errorf("kubectl version prints %q", printed)
	}
	want := [][]string{
		{"NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"},
		{"imageimports", "imgimp", "tagger.dev/v1beta1", "true", "ImageImport"},
		{"images", "img", "tagger.dev/v1beta1", "true", "Image"},
		{"mirrorreleases", "tagger.dev/v1beta1", "false", "MirrorRelease"},
		{"registrytokens", "tagger.dev/v1beta1", "false", "RegistryToken"},
	}
	if diff := cmp.Diff(want, words(s.run(t, kubectl, "api-resources"))); diff != "" {
		t.Errorf("kubectl api-resources (-want +got):\n%s", diff)
	}
}

// TestKubectlExplain asks what fields there are.
func TestKubectlExplain(t *testing.T) { withKubectls(t, kubectlExplain) }

func kubectlExplain(t *testing.T, kubectl string) {
	tests := []struct {
		field string
		want  []string
	}{
		{"image.spec", []string{"from", "historyLimit", "insecure", "mirror", "refreshInterval", "suspend"}},
		{"image.status.hashReferences", []string{"from", "imageReference", "importUID", "importedAt", "mediaType", "platforms", "referrersCheckedAt",
			"resolvedAt", "rolledBack", "size", "sourceReference"}},
		{"imageimport.spec", []string{"from", "insecure", "mirror", "targetImage", "ttlSecondsAfterFinished"}},
		{"imgimp.status.importAttempts", []string{"reason", "succeed", "when"}},
		{"mirrorrelease.spec", []string{"dueTime", "image", "imageReferences", "namespace", "requestedAt"}},
	}
	for _, tt := range tests {
		t.Run(tt.field, func(t *testing.T) {
			t.Parallel()
			s, _ := shared(t)
			for _, args := range [][]string{{"explain", tt.field, "--recursive"}, {"explain", tt.field}} {
				var got []string
				_, fields, _ := strings.Cut(s.run(t, kubectl, args...), "FIELDS:\n")
				for line := range strings.Lines(fields) {
					if name, indented := strings.CutPrefix(line, "  "); indented && name != "" && name[0] != ' ' {
						got = append(got, strings.Fields(name)[0])
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("kubectl %s (-want +got):\n%s", strings.Join(args, " "), diff)
				}
			}
		})
	}
}

// TestKubectlApply applies the manifests of the document that the project began with, each twice. REFERENCE stands for an image
// that is there to be imported.
func TestKubectlApply(t *testing.T) { withKubectls(t, kubectlApply) }

func kubectlApply(t *testing.T, kubectl string) {
	const (
		image = `
apiVersion: tagger.dev/v1beta1
kind: Image
metadata:
  name: myapp-devel
spec:
  from: quay.io/company/myapp:latest
  mirror: false
  insecure: false
`
		imageWithStatus = `
apiVersion: tagger.dev/v1beta1
kind: Image
metadata:
  name: operator
spec:
  from: quay.io/tagger/operator:latest
  insecure: false
  mirror: true
status:
  hashReferences:
  - from: quay.io/tagger/operator:latest
    imageReference: <redacted>
    importedAt: "2022-02-06T19:06:24Z"
`
		imageImport = `
apiVersion: tagger.dev/v1beta1
kind: ImageImport
metadata:
  name: myapp-0
spec:
  from: REFERENCE
  insecure: false
  mirror: false
  targetImage: nginx
status:
  hashReference:
    from: docker.io/library/nginx:latest
    imageReference: <redacted>
    importedAt: "2022-02-06T20:37:46Z"
  importAttempts:
  - succeed: true
    when: "2022-02-06T20:37:46Z"
`
		sparseImport = `
apiVersion: tagger.dev/v1beta1
kind: ImageImport
metadata:
  name: myapp-1
spec:
  from: REFERENCE
  targetImage: nginx
`
	)
	tests := []struct {
		name, manifest, object string
		flags                  []string
		want                   [2]string // what kubectl says of the first time and of the second
	}{
		{"Image", image, "image/myapp-devel", nil, [2]string{"created", "unchanged"}},
		{"Image on the server", image, "image/myapp-devel", []string{"--server-side"}, [2]string{"serverside-applied", "serverside-applied"}},
		{"Image with a status", imageWithStatus, "image/operator", nil, [2]string{"created", "configured"}},
		{"Image with a status on the server", imageWithStatus, "image/operator", []string{"--server-side"}, [2]string{"serverside-applied", "serverside-applied"}},
		{"ImageImport with a status", imageImport, "imageimport/myapp-0", nil, [2]string{"created", "configured"}},
		{"ImageImport with a status on the server", imageImport, "imageimport/myapp-0", []string{"--server-side"}, [2]string{"serverside-applied", "serverside-applied"}},
		{"ImageImport", sparseImport, "imageimport/myapp-1", nil, [2]string{"created", "unchanged"}},
		{"ImageImport on the server", sparseImport, "imageimport/myapp-1", []string{"--server-side"}, [2]string{"serverside-applied", "serverside-applied"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "library/nginx", newIndex(t, ociTypes))
			manifest := file(t, strings.ReplaceAll(tt.manifest, "REFERENCE", out.Reference("library/nginx:latest")))
			apply := append([]string{"-n", namespace, "apply", "-f", manifest}, tt.flags...)
			kind, name, _ := strings.Cut(tt.object, "/")
			said := func(word string) string { return kind + ".tagger.dev/" + name + " " + word + "\n" }

			if diff := cmp.Diff(said(tt.want[0]), s.run(t, kubectl, apply...)); diff != "" {
				t.Errorf("first time (-want +got):\n%s", diff)
			}
			if kind == "imageimport" {
				s.run(t, kubectl, "-n", namespace, "wait", "--for=condition=Imported", tt.object, "--timeout=1m")
			}
			version := s.run(t, kubectl, "-n", namespace, "get", tt.object, "-o", "jsonpath={.metadata.resourceVersion} {.status}")
			if diff := cmp.Diff(said(tt.want[1]), s.run(t, kubectl, apply...)); diff != "" {
				t.Errorf("second time (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(version, s.run(t, kubectl, "-n", namespace, "get", tt.object, "-o", "jsonpath={.metadata.resourceVersion} {.status}")); diff != "" {
				t.Errorf("the second time changed it (-before +after):\n%s", diff)
			}
			if strings.Contains(version, "redacted") {
				t.Errorf("the status was forged: %s", version)
			}
		})
	}
}

// TestKubectlTables reads lists as a person does.
func TestKubectlTables(t *testing.T) { withKubectls(t, kubectlTables) }

func kubectlTables(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	image := newIndex(t, ociTypes)
	out.Push(t, "operator", image)
	from := out.Reference("operator:latest")
	imp := s.mustImport(t, namespace, "operator", v1beta1.ImageImportSpec{From: from, Mirror: ptr.To(true)}, v1beta1.ReasonImported)
	ref := imp.Status.HashReference
	at := ref.ImportedAt.UTC().Format("2006-01-02T15:04:05Z")
	short := must(image.Digest())(t).Hex[:12]

	tests := []struct {
		name string
		args []string
		want [][]string // * is any word
	}{
		{
			"ImageImports", []string{"get", "imageimports.tagger"},
			[][]string{
				{"NAME", "INSECURE", "MIRROR", "TARGETIMAGE", "IMPORTEDAT", "IMAGEREFERENCE", "STATUS", "AGE"},
				{imp.Name, "false", "true", "operator", at, ref.ImageReference, "Imported", "*"},
			},
		},
		{
			"ImageImports, wide", []string{"get", "imgimp", "-o", "wide"},
			[][]string{
				{"NAME", "INSECURE", "MIRROR", "TARGETIMAGE", "IMPORTEDAT", "IMAGEREFERENCE", "STATUS", "ATTEMPTS", "FROM", "AGE"},
				{imp.Name, "false", "true", "operator", at, ref.ImageReference, "Imported", "1", from, "*"},
			},
		},
		{
			"Images", []string{"get", "images.tagger"},
			[][]string{
				{"NAME", "FROM", "MIRROR", "DIGEST", "IMPORTED", "STATUS"},
				{"operator", from, "true", short, "*", "Imported"},
			},
		},
		{
			"both, wide", []string{"get", "img,imgimp", "-o", "wide"},
			[][]string{
				{"NAME", "FROM", "MIRROR", "DIGEST", "IMPORTED", "STATUS", "GENERATIONS", "INSECURE", "IMAGE", "REFERENCE", "AGE"},
				{"image.tagger.dev/operator", from, "true", short, "*", "Imported", "1", "false", ref.ImageReference, "*"},
				{},
				{"NAME", "INSECURE", "MIRROR", "TARGETIMAGE", "IMPORTEDAT", "IMAGEREFERENCE", "STATUS", "ATTEMPTS", "FROM", "AGE"},
				{"imageimport.tagger.dev/" + imp.Name, "false", "true", "operator", at, ref.ImageReference, "Imported", "1", from, "*"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := words(s.run(t, kubectl, append([]string{"-n", namespace}, tt.args...)...))
			for i := range min(len(got), len(tt.want)) {
				for j := range min(len(got[i]), len(tt.want[i])) {
					if tt.want[i][j] == "*" {
						got[i][j] = "*"
					}
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestKubectlFieldSelectors lists by what objects say.
func TestKubectlFieldSelectors(t *testing.T) { withKubectls(t, kubectlFieldSelectors) }

func kubectlFieldSelectors(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	out := lab.New(t, lab.TrustedTLS)
	for _, name := range []string{"a", "b"} {
		out.Push(t, name, newImage(t, ociTypes, "amd64"))
		s.createImage(t, namespace, name, v1beta1.ImageSpec{From: out.Reference(name), Mirror: name == "b"})
		s.createImport(t, namespace, "import-"+name, v1beta1.ImageImportSpec{TargetImage: name})
	}
	tests := []struct {
		resource, selector, want string
	}{
		{"images", "spec.from=" + out.Reference("a"), "a"},
		{"images", "spec.mirror=true", "b"},
		{"images", "spec.mirror!=true", "a"},
		{"images", "metadata.name=b", "b"},
		{"imageimports", "spec.targetImage=a", "import-a"},
		{"imageimports", "spec.from=" + out.Reference("b"), "import-b"},
		{"imageimports", "spec.mirror=false", "import-a"},
		{"imageimports", "spec.targetImage=a,spec.mirror=true", ""},
	}
	for _, tt := range tests {
		t.Run(tt.resource+" "+strings.ReplaceAll(tt.selector, out.Host, "HOST"), func(t *testing.T) {
			t.Parallel()
			got := s.run(t, kubectl, "-n", namespace, "get", tt.resource, "--field-selector", tt.selector, "-o", "jsonpath={.items[*].metadata.name}")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKubectlPatch changes a spec, and tries to change a status.
func TestKubectlPatch(t *testing.T) { withKubectls(t, kubectlPatch) }

func kubectlPatch(t *testing.T, kubectl string) {
	tests := []struct {
		name, object, patch string
		read, before, after string // a path, and what is there
		fails               bool
	}{
		{"spec of an Image", "image/app", `{"spec":{"mirror":true}}`, "{.spec.mirror}", "false", "true", false},
		{"status of an Image", "image/app", `{"status":{"hashReferences":[],"conditions":[]}}`,
			"{.status.hashReferences[*].from} {.status.conditions[*].reason}", "REFERENCE Imported", "REFERENCE Imported", false},
		{"spec of an ImageImport", "imageimport/import", `{"spec":{"mirror":true}}`, "{.spec.mirror}", "false", "false", true},
		{"status of an ImageImport", "imageimport/import", `{"status":{"importAttempts":[],"completionTime":null}}`,
			"{.status.importAttempts[*].succeed}", "true", "true", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			s.createImport(t, namespace, "import", v1beta1.ImageImportSpec{TargetImage: "app", From: out.Reference("app")})
			s.finished(t, namespace, "import")
			read := func() string {
				printed := s.run(t, kubectl, "-n", namespace, "get", tt.object, "-o", "jsonpath="+tt.read)
				return strings.ReplaceAll(printed, out.Reference("app"), "REFERENCE")
			}
			if diff := cmp.Diff(tt.before, read()); diff != "" {
				t.Errorf("before (-want +got):\n%s", diff)
			}
			r := s.try(t, kubectl, "-n", namespace, "patch", tt.object, "--type=merge", "-p", tt.patch)
			if failed := r.code != 0; failed != tt.fails {
				t.Errorf("failed: %t, want %t: %+v", failed, tt.fails, r)
			}
			if tt.fails && !strings.Contains(r.stderr, "cannot be changed once created; create another ImageImport to import again") {
				t.Errorf("kubectl says %q", r.stderr)
			}
			if diff := cmp.Diff(tt.after, read()); diff != "" {
				t.Errorf("after (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKubectlWatch sees a change while it watches.
func TestKubectlWatch(t *testing.T) { withKubectls(t, kubectlWatch) }

func kubectlWatch(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	s.createImage(t, namespace, "app", v1beta1.ImageSpec{From: "quay.io/company/app"})
	cmd := s.command(t, kubectl, "-n", namespace, "get", "image", "app", "-w", "-o", `jsonpath={.spec.from}{"\n"}`)
	printed, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(printed)
	for i, want := range []string{"quay.io/company/app", "quay.io/company/other"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("line %d is %q (%v), want %q", i, lines.Text(), lines.Err(), want)
		}
		if i == 0 {
			s.run(t, kubectl, "-n", namespace, "patch", "image", "app", "--type=merge", "-p", `{"spec":{"from":"quay.io/company/other"}}`)
		}
	}
}

// TestKubectlImport posts to images/import as it can be done without a plugin, looks at the outcome, and deletes.
func TestKubectlImport(t *testing.T) { withKubectls(t, kubectlImport) }

func kubectlImport(t *testing.T, kubectl string) {
	s, namespace := shared(t)
	out := lab.New(t, lab.PlainHTTP)
	index := newIndex(t, ociTypes)
	out.Push(t, "app", index)
	body := file(t, `{"apiVersion":"tagger.dev/v1beta1","kind":"ImageImport","spec":{"from":"`+out.Reference("app")+`","insecure":true,"mirror":true}}`)
	printed := s.run(t, kubectl, "create", "--raw", "/apis/tagger.dev/v1beta1/namespaces/"+namespace+"/images/app/import", "-f", body)
	var imp v1beta1.ImageImport
	if err := json.Unmarshal([]byte(printed), &imp); err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	run := func(args ...string) string { return s.run(t, kubectl, append([]string{"-n", namespace}, args...)...) }
	run("wait", "--for=condition=Imported", "imageimport/"+imp.Name, "--timeout=1m")
	run("wait", "--for=condition=Imported", "image/app", "--timeout=1m")

	want := s.mirrored(namespace, "app", digestOf(t, index))
	for _, described := range []string{run("describe", "image", "app"), run("describe", "imgimp", imp.Name)} {
		if !strings.Contains(described, want) {
			t.Errorf("kubectl describe does not show %s:\n%s", want, described)
		}
	}
	if diff := cmp.Diff("image.tagger.dev \"app\" deleted", strings.TrimSuffix(strings.TrimSpace(run("delete", "image", "app")), " from "+namespace+" namespace")); diff != "" {
		t.Errorf("kubectl delete (-want +got):\n%s", diff)
	}
	s.eventuallyPrints(t, "", kubectl, "-n", namespace, "get", "imageimports", "-o", "name")
}
