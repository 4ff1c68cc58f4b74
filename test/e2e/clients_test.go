// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/cluster"
	"tagger.dev/tagger/test/lab"
)

// A client is a program by which people push and pull. What it is told is in a section of the document.
type client struct {
	name, section string
	programs      []string
	// image is the Image that it pushes.
	image string
	// plugin says that kubectl image login lets it in, variable that it is told by one whom to trust.
	plugin, variable bool
	// needs says why it cannot be tested here.
	needs func(t *testing.T) error
	// prepare makes what it needs on a machine.
	prepare func(t *testing.T, m *machine)
	// pushes and pulls are the kinds of blocks that the document has for that; push and pull, where they are empty.
	pushes, pulls string
	// digest is a script that prints, last of all, the digest of what was pulled.
	digest string
	// reader says that somebody who may pull and not push tries to.
	reader bool
	// signs says that an image is there before its push, which adds no entry to the history, and is verified where it was made.
	signs bool
	// deletes says what its deletion of a tag does to the entry of the history: it stays, or goes.
	deletes string
}

const (
	digestOfLayout = `grep --only-matching 'sha256:[0-9a-f]\{64\}' pulled/index.json | sort --unique`
	digestOfChart  = `helm show chart "oci://$HOST/$NS/mychart" 2>&1 | sed -n 's/^Digest: //p'`
)

var clients = []client{
	{name: "crane", section: "crane", programs: []string{"crane"}, image: "myapp", reader: true, plugin: true, variable: true, prepare: withLayout,
		digest: digestOfLayout, deletes: "stays"},
	{name: "regctl", section: "regctl", programs: []string{"regctl"}, image: "myapp", plugin: true, variable: true, prepare: withLayout,
		digest: digestOfLayout, deletes: "stays"},
	{name: "skopeo", section: "skopeo", programs: []string{"skopeo"}, image: "myapp", reader: true, plugin: true, prepare: withLayout,
		digest: digestOfLayout, deletes: "goes"},
	{name: "oras", section: "oras", programs: []string{"oras"}, image: "myapp", plugin: true, variable: true, prepare: withLayout,
		digest: `oras resolve --oci-layout pulled:v1`, deletes: "goes"},
	{name: "buildah", section: "buildah", programs: []string{"buildah"}, image: "myapp", plugin: true, prepare: withFile,
		needs:  works("buildah", "info"),
		digest: `buildah inspect --type image --format '{{.FromImageDigest}}' "$HOST/$NS/myapp:v1"`},
	{name: "podman", section: "podman", programs: []string{"podman"}, image: "myapp", plugin: true, prepare: withFile,
		needs:  works("podman", "info"),
		digest: `podman image inspect --format '{{.Digest}}' "$HOST/$NS/myapp:v1"`},
	{name: "containerd", section: "containerd", programs: []string{"containerd", "ctr"}, image: "myapp", needs: root, prepare: withContainerd,
		digest: `ctr images ls "name==$HOST/$NS/myapp:v1" | grep --only-matching 'sha256:[0-9a-f]\{64\}'`},
	{name: "helm3", section: "helm", programs: []string{"helm3"}, image: "mychart", plugin: true, variable: true, prepare: withHelm("helm3"),
		digest: digestOfChart},
	{name: "helm4", section: "helm", programs: []string{"helm4"}, image: "mychart", plugin: true, variable: true, prepare: withHelm("helm4"),
		digest: digestOfChart},
	{name: "cosign", section: "cosign", programs: []string{"cosign", "crane"}, image: "myapp", plugin: true, variable: true, prepare: withLayout,
		pushes: "sign", pulls: "verify", digest: `echo "$DIGEST"`, signs: true},
	{name: "cosign by tag", section: "cosign", programs: []string{"cosign", "crane"}, image: "myapp", plugin: true, variable: true, prepare: withLayout,
		pushes: "sign-by-tag", pulls: "verify-by-tag", digest: `echo "$DIGEST"`, signs: true},
	{name: "curl", section: "curl", programs: []string{"curl"}, image: "myapp", variable: true,
		digest: `echo "sha256:$(sha256sum pulled.json | cut -d ' ' -f 1)"`},
}

// TestClients runs the commands of docs/clients.md. Each client is used by two people, who may do all in their own namespace and
// nothing in that of the other.
func TestClients(t *testing.T) {
	t.Parallel()
	x := extend(t, start(t, cluster.Config{ControlPlaneOnly: true}), "--registry-audiences", "tagger.dev")
	document := readClientsDocument(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.require(t)
			(&clientTest{tagger: x, client: c, document: document, said: map[string]string{}, digests: map[string]string{}}).run(t)
		})
	}
}

// require skips the test of a client that is not installed, or fails it where TAGGER_REQUIRE_CLIENTS is set.
func (c *client) require(t *testing.T) {
	t.Helper()
	var errs []error
	for _, program := range c.programs {
		_, err := exec.LookPath(program)
		errs = append(errs, err)
	}
	if c.needs != nil && errors.Join(errs...) == nil {
		errs = append(errs, c.needs(t))
	}
	if err := errors.Join(errs...); err != nil {
		lacks(t, err, !errors.Is(err, errNoRoot))
	}
}

// clientTest is the test of one client.
type clientTest struct {
	*tagger
	client
	document *clientsDocument
	// said is how each refusal was put first, by what was refused.
	said map[string]string
	// digests are those of the current entries, by namespace.
	digests map[string]string
}

// blocks returns those of a kind that the document has for the client.
func (s *clientTest) blocks(kind string) []block {
	switch {
	case kind == "push" && s.pushes != "":
		kind = s.pushes
	case kind == "pull" && s.pulls != "":
		kind = s.pulls
	}
	return s.document.find(s.section, kind)
}

func (s *clientTest) run(t *testing.T) {
	name := strings.ReplaceAll(s.name, " ", "-")
	alice, bob := s.person(t, name+"-a"), s.person(t, name+"-b")
	for i, way := range s.ways() {
		t.Run(way.name, func(t *testing.T) {
			s.untrusted(t, alice, way)
			a := s.signIn(t, alice, way)
			if i == 0 {
				s.refused(t, a, bob) // where there is nothing yet
				b := s.signIn(t, bob, way)
				s.allowed(t, b, way)
				defer s.refused(t, b, alice)
			}
			s.refused(t, a, bob)
			s.allowed(t, a, way)
			s.mirrors(t, way, alice, bob)
			s.rest(t, a)
		})
	}
	if s.reader {
		t.Run("who may read", func(t *testing.T) { s.reads(t, s.signIn(t, alice, s.ways()[0]), bob) })
	}
	if blocks := s.blocks("token"); len(blocks) > 0 {
		t.Run("no login", func(t *testing.T) {
			m := s.machine(t, alice)
			m.must(t, alice.namespace, append(s.trust(), blocks...)...)
			for _, b := range blocks {
				if out, err := m.try(t, bob.namespace, b); err == nil || !strings.Contains(out, "not allowed to you") {
					t.Errorf("%s is not refused: %v\n%s", b.text, err, out)
				}
			}
		})
	}
}

// A way is how a client logs in.
type way struct {
	name  string
	login []block
}

func (s *clientTest) ways() []way {
	var ways []way
	if s.plugin {
		ways = append(ways, way{"kubectl image login", s.document.find(sharedSection, "plugin")})
	}
	logins := s.blocks("login")
	for i, login := range logins {
		name := "own login"
		if i > 0 {
			name += fmt.Sprintf(" %d", i+1)
		}
		ways = append(ways, way{name, append(s.document.find(sharedSection, "trust"), login)})
	}
	if len(ways) == 0 {
		ways = append(ways, way{"no login", s.trust()})
	}
	return ways
}

func (s *clientTest) trust() []block { return s.document.find(sharedSection, "trust") }

// signIn logs somebody in on a machine, and makes what they will push.
func (s *clientTest) signIn(t *testing.T, p *person, way way) *machine {
	t.Helper()
	m := s.machine(t, p)
	m.must(t, m.namespace, way.login...)
	m.must(t, m.namespace, s.blocks("prepare")...)
	return m
}

// allowed has somebody push to their own namespace, and pull that elsewhere.
func (s *clientTest) allowed(t *testing.T, m *machine, way way) {
	t.Helper()
	var signed v1beta1.HashReference
	if s.signs {
		m.must(t, m.namespace, s.document.find("crane", "push")...)
		signed = s.current(t, m.namespace)
	}
	m.must(t, m.namespace, s.blocks("push")...)
	entry := s.current(t, m.namespace)
	if s.signs && entry.ImageReference != signed.ImageReference {
		t.Errorf("the signature of %s is the entry %s", signed.ImageReference, entry.ImageReference)
	}
	pushed := s.digests[m.namespace]
	short := pushed[len("sha256:"):][:12]
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"get", "image", s.image}, []string{short, "Pushed"}},
		{[]string{"image", "history", s.image}, []string{short, entry.From}},
	} {
		out, err := kubectl(t, s.Cluster, append(tt.args, "-n", m.namespace)...)
		for _, want := range tt.want {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("kubectl %s does not show %s: %v\n%s", strings.Join(tt.args, " "), want, err, out)
			}
		}
	}
	elsewhere := m
	if !s.signs {
		elsewhere = s.signIn(t, m.person, way)
	}
	elsewhere.must(t, m.namespace, s.blocks("pull")...)
	pulled := strings.Fields(elsewhere.must(t, m.namespace, block{text: s.digest}))
	if len(pulled) == 0 || pulled[len(pulled)-1] != pushed {
		t.Errorf("pulled %q, pushed was %s", pulled, pushed)
	}
}

// current returns the first entry of the history, and keeps its digest for commands that name it.
func (s *clientTest) current(t *testing.T, namespace string) v1beta1.HashReference {
	t.Helper()
	image, err := s.api.TaggerV1beta1().Images(namespace).Get(t.Context(), s.image, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entry := image.Status.HashReferences[0]
	_, s.digests[namespace], _ = strings.Cut(entry.ImageReference, "@")
	return entry
}

// refused has somebody push to and pull from the namespace of another. They are told the same whether there is something or not,
// which is what the document has.
func (s *clientTest) refused(t *testing.T, m *machine, other *person) {
	t.Helper()
	for _, kind := range []string{"pull", "push"} {
		out, err := m.try(t, other.namespace, s.blocks(kind)...)
		if err == nil {
			t.Errorf("%s may %s at %s:\n%s", m.namespace, kind, other.namespace, out)
			continue
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		said := strings.NewReplacer(s.registry, "HOST", other.namespace, "NS").Replace(changing.ReplaceAllString(lines[len(lines)-1], "…"))
		if s.said[kind] == "" {
			s.said[kind] = said
			if want := s.document.refusal(&s.client, kind); want == "" || !strings.Contains(said, want) {
				t.Errorf("docs/clients.md says that a %s is refused by %q, not\n%s", kind, want, said)
			}
		} else if s.said[kind] != said {
			t.Errorf("a %s is refused by\n%s\nand before by\n%s", kind, said, s.said[kind])
		}
	}
}

// changing is what is different each time: times, and digests.
var changing = regexp.MustCompile(`time="[^"]*"|\d{4}/\d\d/\d\d [0-9:]*|sha256:[0-9a-f]{64}`)

// rest runs what else the document has.
func (s *clientTest) rest(t *testing.T, m *machine) {
	t.Helper()
	for _, list := range s.blocks("list") {
		if out := m.must(t, m.namespace, list); !strings.Contains(out, "v1") {
			t.Errorf("%s prints\n%s", list.text, out)
		}
	}
	deletion := s.blocks("delete")
	if len(deletion) == 0 {
		return
	}
	entries := func() int {
		image, err := s.api.TaggerV1beta1().Images(m.namespace).Get(t.Context(), s.image, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(image.Status.HashReferences)
	}
	before := entries()
	m.must(t, m.namespace, deletion...)
	if after := entries(); (after == before) != (s.deletes == "stays") {
		t.Errorf("%d entries after a deletion, %d before, want that it %s", after, before, s.deletes)
	}
	if out, err := m.try(t, m.namespace, s.blocks("pull")...); err == nil {
		t.Errorf("what was deleted is pulled:\n%s", out)
	}
}

// untrusted has a client meet a server whose authority is not that which it was told.
func (s *clientTest) untrusted(t *testing.T, p *person, way way) {
	t.Helper()
	m := s.machine(t, p)
	authority, err := lab.Authority()
	if err == nil {
		folder := filepath.Join(m.home, ".config", "containers", "certs.d", s.registry)
		err = errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, "ca.crt"), authority, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range way.login {
		if b.kind == "login" {
			_, _ = m.try(t, p.namespace, b) // some ask the server, some do not
		}
	}
	m.must(t, p.namespace, s.blocks("prepare")...)
	if out, err := m.try(t, p.namespace, s.blocks("pull")...); err == nil || !distrust.MatchString(out) {
		t.Errorf("of a server that it does not trust the client says: %v\n%s", err, out)
	}
}

// distrust is how that is put. At loopback cosign tries without TLS then, and says how that ended.
var distrust = regexp.MustCompile(`certificate|HTTP request to an HTTPS server`)

// reads has somebody who may pull from the namespace of another push there: they are told what they lack.
func (s *clientTest) reads(t *testing.T, m *machine, other *person) {
	t.Helper()
	if _, err := kubectl(t, s.Cluster, "create", "rolebinding", "reader", "-n", other.namespace, "--clusterrole", "tagger-pull", "--serviceaccount", m.namespace+":ci"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "they may pull", func(context.Context) error { // what was refused is remembered for a while
		out, err := m.try(t, other.namespace, s.blocks("pull")...)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	const want = "you may read this repository, but not do that: pushes need the right to update images/layers in the namespace"
	if out, err := m.try(t, other.namespace, s.blocks("push")...); err == nil || !strings.Contains(out, want) {
		t.Errorf("a push is refused by %v\n%s", err, out)
	}
}

// mirrors pulls by other names, which the configuration of the client says are served by Tagger.
func (s *clientTest) mirrors(t *testing.T, way way, mine, theirs *person) {
	t.Helper()
	for _, b := range s.blocks("mirror") {
		if out := s.signIn(t, mine, way).must(t, mine.namespace, b); !strings.Contains(out, s.digests[mine.namespace]) {
			t.Errorf("%s is not pulled by\n%s\n%s", s.digests[mine.namespace], b.text, out)
		}
		if out, err := s.signIn(t, theirs, way).try(t, mine.namespace, b); err == nil || !strings.Contains(out, "not found") {
			t.Errorf("%s is not refused by\n%s\n%v: %s", theirs.namespace, b.text, err, out)
		}
	}
}

// A person is a service account that may do everything with Images of its namespace.
type person struct{ namespace, token, kubeconfig string }

func (s *clientTest) person(t *testing.T, namespace string) *person {
	t.Helper()
	if _, err := s.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	admin := s.machine(t, &person{namespace: namespace, kubeconfig: s.Kubeconfig()})
	account := s.document.find(sharedSection, "account")
	out := admin.must(t, namespace, append(account, block{text: `printf '\n%s' "$TOKEN"`})...)
	kubeconfig, err := s.ByToken(s.token(t, namespace, "ci"))
	if err != nil {
		t.Fatal(err)
	}
	p := &person{namespace: namespace, token: out[strings.LastIndexByte(out, '\n')+1:], kubeconfig: kubeconfig}
	user := "system:serviceaccount:" + namespace + ":ci"
	eventually(t, user+" may push", func(ctx context.Context) error {
		review, err := s.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Group: "tagger.dev", Resource: "images", Subresource: "layers", Verb: "update",
			}},
		}, metav1.CreateOptions{})
		if err == nil && !review.Status.Allowed {
			err = errors.New("it may not")
		}
		return err
	})
	return p
}
