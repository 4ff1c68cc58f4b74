// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e && linux

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The sections of the document which are for all clients.
const (
	sharedSection  = "Before"
	refusalSection = "When it is refused"
)

// A block of the document is commands, and what they are for.
type block struct{ section, kind, text string }

// clientsDocument is docs/clients.md.
type clientsDocument struct {
	blocks []block
	// refusals are how a refused push and pull are put, by client.
	refusals map[string]map[string]string
}

// readClientsDocument finds the blocks that begin with "```bash KIND", and the rows of the table of refusals.
func readClientsDocument(t *testing.T) *clientsDocument {
	t.Helper()
	text, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	d := &clientsDocument{refusals: map[string]map[string]string{}}
	var section string
	var open *block
	for line := range strings.Lines(string(text)) {
		heading, isHeading := strings.CutPrefix(line, "## ")
		kind, isBlock := strings.CutPrefix(line, "```bash ")
		switch {
		case open != nil && strings.HasPrefix(line, "```"):
			d.blocks = append(d.blocks, *open)
			open = nil
		case open != nil:
			open.text += line
		case isHeading:
			section = strings.TrimSpace(heading)
		case section == refusalSection && strings.HasPrefix(line, "| "):
			if cells := strings.Split(line, "|"); len(cells) == 5 {
				for client := range strings.SplitSeq(cells[1], ",") {
					d.refusals[strings.TrimSpace(client)] = map[string]string{"push": strings.Trim(cells[2], " `"), "pull": strings.Trim(cells[3], " `")}
				}
			}
		case isBlock:
			open = &block{section: section, kind: strings.TrimSpace(kind)}
		}
	}
	for _, b := range d.blocks {
		if !slices.Contains(kindsOf[b.section == sharedSection], b.kind) {
			t.Errorf("nothing runs the block %q of section %q:\n%s", b.kind, b.section, b.text)
		}
	}
	return d
}

// kindsOf are the kinds of blocks that there are in the shared section, and in the others.
var kindsOf = map[bool][]string{
	true:  {"plugin", "account", "trust", "trust-by-variable"},
	false: {"login", "prepare", "push", "pull", "list", "delete", "token", "mirror", "sign", "verify", "sign-by-tag", "verify-by-tag"},
}

// find returns the blocks of a kind in a section, in their order.
func (d *clientsDocument) find(section, kind string) []block {
	var found []block
	for _, b := range d.blocks {
		if b.section == section && b.kind == kind {
			found = append(found, b)
		}
	}
	return found
}

// refusal is how the table puts that something is refused to a client, or else to all of its section.
func (d *clientsDocument) refusal(c *client, kind string) string {
	if row, ok := d.refusals[c.name]; ok {
		return row[kind]
	}
	return d.refusals[c.section][kind]
}

// A machine is where somebody works: folders that nobody else uses, and nothing of whoever runs the tests.
type machine struct {
	*person
	test       *clientTest
	home, work string
	env        []string
	// before is run before all other commands.
	before string
}

func (s *clientTest) machine(t *testing.T, p *person) *machine {
	t.Helper()
	m := &machine{person: p, test: s, home: t.TempDir(), work: t.TempDir()}
	run, tmp, storage := filepath.Join(m.home, "run"), filepath.Join(m.home, "tmp"), filepath.Join(m.home, "storage.conf")
	policy := filepath.Join(m.home, ".config", "containers", "policy.json")
	for _, folder := range []string{run, tmp, filepath.Dir(policy)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{
		storage: fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(m.home, "store"), filepath.Join(run, "store")),
		policy:  `{"default": [{"type": "insecureAcceptAnything"}]}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + m.home, "TMPDIR=" + tmp, "XDG_RUNTIME_DIR=" + run, //nolint:forbidigo // of the tests
		"CONTAINERS_STORAGE_CONF=" + storage, "KUBECONFIG=" + p.kubeconfig, "HOST=" + s.registry, "TOKEN=" + p.token, "COSIGN_PASSWORD=of the key"}
	if s.variable {
		for _, b := range s.document.find(sharedSection, "trust-by-variable") {
			m.before += b.text
		}
	}
	if s.prepare != nil && p.token != "" {
		s.prepare(t, m)
	}
	return m
}

// try runs blocks by bash, with a namespace in NS, and returns all that they print.
func (m *machine) try(t *testing.T, namespace string, blocks ...block) (string, error) {
	t.Helper()
	if len(blocks) == 0 {
		return "", nil
	}
	script := m.before
	for _, b := range blocks {
		script += b.text
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = m.work, append(m.env, "NS="+namespace, "DIGEST="+cmp.Or(m.test.digests[namespace], "sha256:"+strings.Repeat("0", 64)))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// Programs that it started end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if strings.Contains(out.String(), m.token) && m.token != "" {
		t.Errorf("the token is printed by:\n%s", script)
	}
	return out.String(), err
}

// must is try for what has to succeed.
func (m *machine) must(t *testing.T, namespace string, blocks ...block) string {
	t.Helper()
	out, err := m.try(t, namespace, blocks...)
	if err != nil {
		texts := ""
		for _, b := range blocks {
			texts += b.text
		}
		t.Fatalf("as %s, for %s: %v\n%s\n%s", m.namespace, namespace, err, texts, out)
	}
	return out
}

// withFile makes the program that an image is built of.
func withFile(t *testing.T, m *machine) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.work, "app"), []byte(t.Name()+m.home), 0o700); err != nil {
		t.Fatal(err)
	}
}

// withLayout makes an image for two platforms in an OCI layout, myapp, that is not made again.
func withLayout(t *testing.T, m *machine) {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range []v1.Platform{{OS: "linux", Architecture: runtime.GOARCH}, {OS: "linux", Architecture: "riscv64"}} {
		image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
		image, err := mutate.ConfigFile(image, &v1.ConfigFile{OS: platform.OS, Architecture: platform.Architecture, RootFS: v1.RootFS{Type: "layers"}})
		if err != nil {
			t.Fatal(err)
		}
		layers, err := randomImage(t).Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, layer := range layers {
			compressed, err := tarball.LayerFromOpener(layer.Uncompressed, tarball.WithMediaType(types.OCILayer))
			if err != nil {
				t.Fatal(err)
			}
			if image, err = mutate.AppendLayers(image, compressed); err != nil {
				t.Fatal(err)
			}
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	path, err := layout.Write(filepath.Join(m.work, "myapp"), empty.Index)
	if err == nil {
		err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"}))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// withHelm has a version of helm called helm.
func withHelm(version string) func(*testing.T, *machine) {
	return func(t *testing.T, m *machine) {
		t.Helper()
		program, err := exec.LookPath(version)
		if err == nil {
			bin := filepath.Join(m.home, "bin")
			err = errors.Join(os.Mkdir(bin, 0o700), os.Symlink(program, filepath.Join(bin, "helm")))
			m.before = `PATH=~/bin:$PATH` + "\n" + m.before
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// withContainerd starts a containerd, without what the kubelet asks of it, that keeps to the folders of the machine.
func withContainerd(t *testing.T, m *machine) {
	t.Helper()
	withLayout(t, m)
	config, socket := filepath.Join(m.home, "containerd.toml"), filepath.Join(m.home, "containerd.sock")
	content := os.Expand(containerdConfig, func(string) string { return m.home })
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &safeBuffer{}
	cmd := exec.Command("containerd", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := m.test.Spawn(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of containerd:\n%s", log)
		}
	})
	m.env = append(m.env, "CONTAINERD_ADDRESS="+socket)
	eventually(t, "containerd answers", func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "ctr", "--address", socket, "version")
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}

// containerdConfig is that of a containerd without what the kubelet asks of it. Nobody sees content that is not their own.
const containerdConfig = `version = 3
root = "$DIR/containerd"
state = "$DIR/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]

[debug]
  level = "warn"

[grpc]
  address = "$DIR/containerd.sock"

[ttrpc]
  address = "$DIR/containerd.sock.ttrpc"

[plugins.'io.containerd.internal.v1.opt']
  path = "$DIR/opt"
`

var errNoRoot = errors.New("containerd needs root")

func root(*testing.T) error {
	if os.Geteuid() != 0 {
		return errNoRoot
	}
	return nil
}

// works returns why a program does not work on this machine, by what it says when it is asked.
func works(program string, args ...string) func(t *testing.T) error {
	return func(t *testing.T) error {
		t.Helper()
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "store"), "--runroot", filepath.Join(dir, "run")}, args...)...)
		cmd.Env = append(cmd.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s does not work here: %w: %s", program, err, out)
		}
		return nil
	}
}
