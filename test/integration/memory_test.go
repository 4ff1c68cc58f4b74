// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestMemoryIsBounded imports, several at once, what would fill the memory of a server that trusts what it is sent. The bounds, by
// how much the most memory that the server ever had may grow, are in docs/reliability.md. They are generous: whoever keeps a
// document that is to be refused, or a blob that is to be passed on, exceeds them by far, and a garbage collector that is late
// does not.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux says how much memory a process had at most")
	}
	const (
		atOnce   = 6
		blobSize = 512 << 20
		config   = "application/vnd.example.config.v1+json"
	)
	// largest puts an index there that is as large, with all that it names, as is allowed.
	largest := func(t *testing.T, out *lab.Source) lab.Fault {
		t.Helper()
		var children []ocispec.Descriptor
		for i := range 7 {
			m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: out.PutBlob("app", config, []byte("{}"), digest.SHA256),
				Annotations: map[string]string{"padding": strings.Repeat(strconv.Itoa(i), 4<<20-1000)}}
			m.SchemaVersion = 2
			children = append(children, out.PutManifest(t, "app", "", m.MediaType, must(json.Marshal(m))(t), digest.SHA256))
		}
		putIndex(t, out, "latest", children...)
		return nil
	}
	hugeBlob := func(t *testing.T, out *lab.Source) lab.Fault {
		t.Helper()
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: out.PutBlob("app", config, []byte("{}"), digest.SHA256),
			Layers: []ocispec.Descriptor{out.PutZeros(t, "app", ocispec.MediaTypeImageLayer, blobSize)}}
		m.SchemaVersion = 2
		out.PutManifest(t, "app", "latest", m.MediaType, must(json.Marshal(m))(t), digest.SHA256)
		return nil
	}
	tests := []struct {
		name  string
		fault func(*testing.T, *lab.Source) lab.Fault
		want  string // reason
		most  int    // MiB
	}{
		{"manifest of 64 MiB", always(lab.Endless(ociJSON, 64<<20, true)), v1beta1.ReasonUnsupportedManifest, 200},
		{"manifest of 64 MiB without a length", always(lab.Endless(ociJSON, 64<<20, false)), v1beta1.ReasonUnsupportedManifest, 200},
		{"10,000 children", manyChildren(10_000), v1beta1.ReasonUnsupportedManifest, 200},
		{"100 levels", deepIndex(100), v1beta1.ReasonUnsupportedManifest, 200},
		{"huge blob", hugeBlob, v1beta1.ReasonImported, 100},
		{"as large as allowed", largest, v1beta1.ReasonImported, 600},
	}
	s := start(t, t.TempDir())
	namespace := newNamespace()
	small := lab.New(t, lab.TrustedTLS)
	small.Push(t, "app", newIndex(t, ociTypes))
	s.mustImport(t, namespace, "small", v1beta1.ImageImportSpec{From: small.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
	for n, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { // one after the other: each is measured
			before := s.mostMemory(t)
			out := lab.New(t, lab.TrustedTLS)
			out.Misbehave(tt.fault(t, out))
			name := func(i int) string { return fmt.Sprintf("case-%d-%d", n, i) }
			for i := range atOnce {
				s.createImport(t, namespace, name(i), v1beta1.ImageImportSpec{TargetImage: name(i), From: out.Reference("app"), Mirror: ptr.To(true)})
			}
			for i := range atOnce {
				if diff := cmp.Diff(tt.want, outcomeOf(s.finished(t, namespace, name(i)).Status.Conditions).Reason); diff != "" {
					t.Errorf("reason of %s (-want +got):\n%s", name(i), diff)
				}
			}
			after := s.mostMemory(t)
			t.Logf("at most %d MiB before, and %d MiB with %d such imports at once: %d MiB more", before, after, atOnce, after-before)
			if after-before > tt.most {
				t.Errorf("memory grew by %d MiB, and at most %d are promised", after-before, tt.most)
			}
		})
	}
}

// mostMemory returns the most memory that the process had in its life, in MiB.
func (s *server) mostMemory(t *testing.T) int {
	t.Helper()
	status := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid)))(t)
	found := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	return must(strconv.Atoi(string(found[1])))(t) >> 10
}
