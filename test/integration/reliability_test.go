// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/importer"
	"tagger.dev/tagger/pkg/importer/keychain"
	"tagger.dev/tagger/test/lab"
)

var update = flag.Bool("update", false, "write the table of docs/reliability.md anew")

// TestFaults has every fault of the table happen to an import into an Image with two entries, which stay as they are. All
// begin at once, so that those that take as long as the server's limits do so together.
func TestFaults(t *testing.T) {
	t.Parallel()
	// Not the shared one: it remembers for ten minutes which host asked to be left alone, whose port may be another source's then.
	s, namespace := start(t, t.TempDir(), "--v=4"), newNamespace()
	runs := make([]*faultRun, len(faultCases))
	for i := range faultCases {
		if faultCases[i].slow {
			runs[i] = beginFault(t, s, namespace, i)
		}
	}
	for i := range faultCases {
		if runs[i] == nil {
			runs[i] = beginFault(t, s, namespace, i)
		}
	}
	for _, run := range runs {
		t.Run(run.name, run.finish)
	}
	s.mustNotRepeat(t, namespace)
}

// faultRun is a case under way.
type faultRun struct {
	*faultCase
	s                *server
	namespace, image string
	bad              *lab.Source // nil where the case has none
	from, host       string
	before           *v1beta1.Image
}

// importName is that of the import that the fault happens to.
func (r *faultRun) importName() string { return r.image + "-failing" }

func beginFault(t *testing.T, s *server, namespace string, n int) *faultRun {
	t.Helper()
	r := &faultRun{faultCase: &faultCases[n], s: s, namespace: namespace, image: fmt.Sprintf("app-%d", n)}
	var fault lab.Fault
	if r.faultCase.host == nil {
		r.bad = lab.New(t, r.transport)
		r.bad.Push(t, "app", newArtifact(t, strings.Repeat(r.name, 10)))
		if r.fault != nil {
			fault = r.fault(t, r.bad)
		}
	}
	r.from, r.host = r.faultCase.from(t, r.bad)
	if r.direct {
		r.bad.Misbehave(fault)
		return r
	}
	good := lab.New(t, lab.TrustedTLS)
	s.createImage(t, namespace, r.image, v1beta1.ImageSpec{From: good.Reference("app"), Mirror: true})
	for i := range 2 {
		good.Push(t, "app", newArtifact(t, fmt.Sprint(r.name, i)))
		s.mustImport(t, namespace, r.image, v1beta1.ImageImportSpec{}, v1beta1.ReasonImported)
	}
	r.before = s.image(t, namespace, r.image)
	if n := len(r.before.Status.HashReferences); n != 2 {
		t.Fatalf("%d entries, want two", n)
	}
	if r.bad != nil {
		r.bad.Misbehave(fault)
	}
	s.createImport(t, namespace, r.importName(), v1beta1.ImageImportSpec{TargetImage: r.image, From: r.from})
	return r
}

// finish waits for what the fault does and compares it with the row of the table.
func (r *faultRun) finish(t *testing.T) {
	if r.direct {
		r.askDirectly(t)
		return
	}
	var after *v1beta1.Image
	want := outcome{metav1.ConditionFalse, r.reason, r.message}
	if r.recorded.imported() {
		want.Status = metav1.ConditionTrue
	}
	eventually(t, "there is an outcome", func(context.Context) (bool, error) {
		after = r.s.image(t, r.namespace, r.image)
		return outcomeOf(after.Status.Conditions) != outcomeOf(r.before.Status.Conditions), nil
	})
	r.compare(t, "the Image's condition", want, outcomeOf(after.Status.Conditions))
	if r.recorded.imported() {
		r.compareImported(t, after)
		return
	}
	if diff := cmp.Diff(r.before.Status.HashReferences, after.Status.HashReferences); diff != "" {
		t.Errorf("the Image's history (-before +after):\n%s", diff)
	}
	r.compareFailed(t)
	if r.recorded == healed {
		r.heal(t)
		return
	}

	// Another import that succeeds ends those that are tried again.
	r.s.mustImport(t, r.namespace, r.image, v1beta1.ImageImportSpec{}, v1beta1.ReasonUnchanged)
	if diff := cmp.Diff(metav1.ConditionTrue, outcomeOf(r.s.image(t, r.namespace, r.image).Status.Conditions).Status); diff != "" {
		t.Errorf("the Image's condition after another import (-want +got):\n%s", diff)
	}
}

// compareFailed looks at the import whose attempt failed.
func (r *faultRun) compareFailed(t *testing.T) {
	t.Helper()
	// The Image is written first, and another attempt may run already.
	imp := r.s.awaitImport(t, r.namespace, r.importName(), func(imp *v1beta1.ImageImport) bool {
		return len(imp.Status.ImportAttempts) > 0 && (r.slow || outcomeOf(imp.Status.Conditions).Reason != v1beta1.ReasonInProgress)
	})
	first := imp.Status.ImportAttempts[0]
	if diff := cmp.Diff(v1beta1.ImportAttempt{Reason: r.message}, v1beta1.ImportAttempt{Succeed: first.Succeed, Reason: r.placeholders(first.Reason)}); diff != "" {
		t.Errorf("the first attempt (-want +got):\n%s", diff)
	}
	if ends := imp.Status.CompletionTime != nil; ends != (r.recorded == ended) {
		t.Errorf("ended: %t, and the table says: %s", ends, r.recorded)
	}
	if r.recorded == waited {
		const asked = 10 * time.Minute
		if next := imp.Status.NextAttemptTime; next == nil || next.Sub(first.When.Time) < asked {
			t.Errorf("the next attempt is at %v, want it at least %s after %s", next, asked, first.When)
		}
		r.compareOther(t)
	}
	if r.slow {
		return
	}
	want := outcome{metav1.ConditionFalse, r.reason, r.message}
	if r.recorded != ended {
		want.Status = metav1.ConditionUnknown
		want.Message = fmt.Sprintf("attempt %d of 10 failed: %s", len(imp.Status.ImportAttempts), want.Message)
	}
	r.compare(t, "the ImageImport's condition", want, outcomeOf(imp.Status.Conditions))
}

// compareOther imports something else from a host that asked for a pause. It is not asked, and no attempt is used up.
func (r *faultRun) compareOther(t *testing.T) {
	t.Helper()
	r.bad.Requests()
	name := r.image + "-waiting"
	r.s.createImport(t, r.namespace, name, v1beta1.ImageImportSpec{TargetImage: r.image, From: r.bad.Reference("other")})
	imp := r.s.awaitImport(t, r.namespace, name, func(imp *v1beta1.ImageImport) bool { return imp.Status.NextAttemptTime != nil })
	got := outcomeOf(imp.Status.Conditions)
	message, left, _ := strings.Cut(got.Message, " for another ")
	if _, err := time.ParseDuration(left); err != nil {
		t.Errorf("the condition of another import does not say how long: %v", err)
	}
	got.Message = strings.ReplaceAll(message, r.bad.Reference("other"), "OTHER")
	r.compare(t, "the condition of another import", outcome{metav1.ConditionUnknown, r.reason, "attempt 1 of 10 waits: OTHER:latest: HOST asked to be left alone"}, got)
	if diff := cmp.Diff(map[string]int{}, r.bad.Requests()); diff != "" || len(imp.Status.ImportAttempts) != 0 {
		t.Errorf("%d attempts, want none; requests (-want +got):\n%s", len(imp.Status.ImportAttempts), diff)
	}
}

// compareImported looks at the history that the import was recorded in.
func (r *faultRun) compareImported(t *testing.T, after *v1beta1.Image) {
	t.Helper()
	entries := after.Status.HashReferences
	if len(entries) != 3 {
		t.Fatalf("%d entries, want the two of before and another", len(entries))
	}
	if diff := cmp.Diff(r.before.Status.HashReferences, entries[1:]); diff != "" {
		t.Errorf("the earlier entries (-before +after):\n%s", diff)
	}
	imp := r.s.finished(t, r.namespace, r.importName())
	if n := len(imp.Status.ImportAttempts); n != 1 {
		t.Errorf("%d attempts, want one", n)
	}
	r.s.pull(t, entries[0].ImageReference)
	if r.recorded == older {
		r.s.mustImport(t, r.namespace, r.image, v1beta1.ImageImportSpec{From: r.from}, v1beta1.ReasonImported)
		if n := len(r.s.image(t, r.namespace, r.image).Status.HashReferences); n != 4 {
			t.Errorf("%d entries after another import, want four", n)
		}
	}
}

// heal lets the source work and waits for the import to succeed by itself.
func (r *faultRun) heal(t *testing.T) {
	t.Helper()
	r.bad.Misbehave(nil)
	imp := r.s.finished(t, r.namespace, r.importName())
	r.compare(t, "the healed ImageImport's condition", outcome{metav1.ConditionTrue, v1beta1.ReasonImported, "FROM means DIGEST"},
		outcomeOf(imp.Status.Conditions))
	if n := len(r.s.image(t, r.namespace, r.image).Status.HashReferences); n != 3 {
		t.Errorf("%d entries, want three", n)
	}
}

// askDirectly resolves by an importer that reaches the source by a proxy, and must not reach it at its own address.
func (r *faultRun) askDirectly(t *testing.T) {
	t.Helper()
	proxy := lab.Proxy(t, r.bad.Host)
	imports := importer.New(importer.Options{RootCAs: lab.Roots(t), Proxy: func(req *http.Request) (*url.URL, error) {
		if req.URL.Hostname() == lab.Domain {
			return proxy, nil
		}
		return nil, nil
	}})
	ref, err := importer.ParseReference(r.from)
	if err != nil {
		t.Fatal(err)
	}
	_, err = imports.Resolve(t.Context(), importer.Source{Reference: ref, Keychain: keychain.None}, "")
	var failure *importer.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got %v, want an *importer.Error", err)
	}
	r.compare(t, "the error", outcome{metav1.ConditionFalse, r.reason, r.message},
		outcome{metav1.ConditionFalse, string(failure.Kind), failure.Error()})
	if failure.Kind.Terminal() != (r.recorded == ended) {
		t.Errorf("terminal: %t, and the table says: %s", failure.Kind.Terminal(), r.recorded)
	}
}

func (r *faultRun) compare(t *testing.T, what string, want, got outcome) {
	t.Helper()
	got.Message = r.placeholders(got.Message)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// placeholders stand in messages for what differs from run to run.
func (r *faultRun) placeholders(message string) string {
	message = strings.ReplaceAll(message, r.from, "FROM")
	return withoutNumbers(strings.ReplaceAll(message, r.host, "HOST"))
}

// placeholders stand in messages about any reference of a source for what differs from run to run.
func placeholders(message string, out *lab.Source) string {
	message = strings.ReplaceAll(message, out.Reference(""), "SOURCE/")
	return withoutNumbers(strings.ReplaceAll(message, out.Host, "HOST"))
}

// withoutNumbers puts placeholders for digests and sizes.
func withoutNumbers(message string) string {
	for _, p := range []struct{ pattern, placeholder string }{
		{`sha256:[0-9a-f]{64}`, "DIGEST"},
		{`[0-9]+ of [0-9]+ bytes`, "N of M bytes"},
		{`more than its [0-9]+ bytes`, "more than its N bytes"},
		{`has [0-9]+ bytes where its index says [0-9]+`, "has N bytes where its index says M"},
	} {
		message = regexp.MustCompile(p.pattern).ReplaceAllString(message, p.placeholder)
	}
	return message
}

// TestFaultsAreDocumented compares the table of docs/reliability.md with the cases of TestFaults.
func TestFaultsAreDocumented(t *testing.T) {
	t.Parallel()
	const (
		name  = "../../docs/reliability.md"
		begin = "<!-- begin: the cases of test/integration/fault_test.go, written by TestFaultsAreDocumented -->\n"
		end   = "<!-- end -->\n"
	)
	content := string(must(os.ReadFile(name))(t))
	before, rest, found := strings.Cut(content, begin)
	table, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", name)
	}
	want := faultTable()
	if *update {
		if err := os.WriteFile(name, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("the table is not what the tests prove; write it anew by go test -tags integration ./test/integration -run TestFaultsAreDocumented -update (-want +got):\n%s", diff)
	}
}

// faultTable returns the cases in Markdown.
func faultTable() string {
	var table strings.Builder
	table.WriteString("\n| fault | what the user sees | what is recorded |\n|---|---|---|\n")
	for i := range faultCases {
		c := &faultCases[i]
		fmt.Fprintf(&table, "| %s | `%s`: %s | %s |\n", c.name, c.reason, strings.ReplaceAll(c.message, "|", `\|`), c.recorded)
	}
	table.WriteString("\n")
	return table.String()
}
