// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "crypto/sha512" // a digest of that kind is among the content

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// Media types of docker.
const (
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	schema1        = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// publication is content that a test has put at a source, with the bytes of all that is to be mirrored.
type publication struct {
	t         *testing.T
	out       *lab.Source
	algorithm digest.Algorithm

	manifests, blobs map[string][]byte // by digest
	absent           []string          // digests of blobs that stay where they are
}

func (p *publication) blob(mediaType string, content []byte) ocispec.Descriptor {
	d := p.out.PutBlob("app", mediaType, content, p.algorithm)
	p.blobs[d.Digest.String()] = content
	return d
}

// layer puts a layer there that no other is like.
func (p *publication) layer(mediaType string, compress func([]byte) []byte) ocispec.Descriptor {
	return p.blob(mediaType, compress(archive(p.t, rand.Text())))
}

// foreign returns the descriptor of a layer that is to be had elsewhere.
func (p *publication) foreign(mediaType string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(mediaType), Size: 10, URLs: []string{"https://127.0.0.1:1/layer"}}
	p.absent = append(p.absent, d.Digest.String())
	return d
}

func (p *publication) manifest(tag, mediaType string, document any) ocispec.Descriptor {
	raw := must(json.MarshalIndent(document, "", " "))(p.t) // as no client would write it anew
	d := p.out.PutManifest(p.t, "app", tag, mediaType, raw, p.algorithm)
	p.manifests[d.Digest.String()] = raw
	return d
}

// image puts an image there whose config says its architecture.
func (p *publication) image(tag, mediaType, configType, architecture string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	config := []byte(`{"os":"linux","architecture":"` + architecture + `","rootfs":{"type":"layers","diff_ids":[]}}`)
	m := ocispec.Manifest{MediaType: mediaType, Config: p.blob(configType, config), Layers: layers}
	m.SchemaVersion = 2
	d := p.manifest(tag, mediaType, m)
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
	return d
}

func (p *publication) ociImage(tag string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	return p.image(tag, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, "amd64", layers...)
}

func (p *publication) index(tag, mediaType string, children ...ocispec.Descriptor) ocispec.Descriptor {
	index := ocispec.Index{MediaType: mediaType, Manifests: children}
	index.SchemaVersion = 2
	return p.manifest(tag, mediaType, index)
}

// archive is a layer with one file.
func archive(t *testing.T, content string) []byte {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if content != "" {
		if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		must(w.Write([]byte(content)))(t)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer.Bytes()
}

func uncompressed(layer []byte) []byte { return layer }

func gzipped(layer []byte) []byte {
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	_, _ = w.Write(layer)
	_ = w.Close()
	return compressed.Bytes()
}

// zstandard makes a frame of RFC 8878 with one raw block of a layer of 256 bytes to 64 KiB.
func zstandard(layer []byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x60}
	frame = binary.LittleEndian.AppendUint16(frame, uint16(len(layer)-256)) // an archive of one small file
	header := uint32(len(layer))<<3 | 1
	return append(append(frame, byte(header), byte(header>>8), byte(header>>16)), layer...)
}

// kinds are all kinds of content, each put under app:latest.
var kinds = []struct {
	name      string
	algorithm digest.Algorithm // sha256 unless it says otherwise
	put       func(p *publication) ocispec.Descriptor
	// cannot says of clients why they cannot pull it, from any registry.
	cannot map[string]string
}{
	{name: "docker schema 2", put: func(p *publication) ocispec.Descriptor {
		return p.image("latest", dockerManifest, dockerConfig, "amd64", p.layer(dockerLayer, gzipped), p.layer(dockerLayer, gzipped))
	}},
	{name: "docker manifest list", put: func(p *publication) ocispec.Descriptor {
		return p.index("latest", dockerList,
			p.image("", dockerManifest, dockerConfig, "amd64", p.layer(dockerLayer, gzipped)),
			p.image("", dockerManifest, dockerConfig, "arm64", p.layer(dockerLayer, gzipped)))
	}},
	{name: "OCI index", put: func(p *publication) ocispec.Descriptor {
		return p.index("latest", ocispec.MediaTypeImageIndex, p.ociImage("", p.layer(ocispec.MediaTypeImageLayerGzip, gzipped)),
			p.ociImage("", p.layer(ocispec.MediaTypeImageLayerGzip, gzipped)))
	}},
	{name: "indexes nested two deep", cannot: map[string]string{"skopeo": "does not copy indexes below indexes"},
		put: func(p *publication) ocispec.Descriptor {
			inner := p.index("", ocispec.MediaTypeImageIndex, p.ociImage("", p.layer(ocispec.MediaTypeImageLayerGzip, gzipped)))
			middle := p.index("", ocispec.MediaTypeImageIndex, inner, p.ociImage("", p.layer(ocispec.MediaTypeImageLayerGzip, gzipped)))
			return p.index("latest", ocispec.MediaTypeImageIndex, middle)
		}},
	{name: "artifact", put: func(p *publication) ocispec.Descriptor {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.thing",
			Config: p.blob("application/vnd.example.config.v1+json", []byte(`{"any":["thing"]}`)),
			Layers: []ocispec.Descriptor{p.blob("text/plain", []byte("anything"))}, Annotations: map[string]string{"a": "b"}}
		m.SchemaVersion = 2
		return p.manifest("latest", m.MediaType, m)
	}},
	{name: "artifact without anything", put: func(p *publication) ocispec.Descriptor {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.thing",
			Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}}
		p.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
		m.SchemaVersion = 2
		return p.manifest("latest", m.MediaType, m)
	}},
	{name: "foreign layers", cannot: map[string]string{"skopeo": "fetches them from where they are"}, put: func(p *publication) ocispec.Descriptor {
		return p.image("latest", dockerManifest, dockerConfig, "amd64", p.foreign(dockerForeign), p.layer(dockerLayer, gzipped))
	}},
	{name: "empty layers", put: func(p *publication) ocispec.Descriptor {
		empty := p.blob(ocispec.MediaTypeImageLayerGzip, gzipped(archive(p.t, "")))
		return p.ociImage("latest", empty, p.layer(ocispec.MediaTypeImageLayerGzip, gzipped), empty)
	}},
	{name: "layer of no bytes", put: func(p *publication) ocispec.Descriptor {
		return p.ociImage("latest", p.blob(ocispec.MediaTypeImageLayer, nil))
	}},
	{name: "zstd", put: func(p *publication) ocispec.Descriptor {
		return p.ociImage("latest", p.layer(ocispec.MediaTypeImageLayerZstd, zstandard))
	}},
	{name: "uncompressed", put: func(p *publication) ocispec.Descriptor {
		return p.ociImage("latest", p.layer(ocispec.MediaTypeImageLayer, uncompressed))
	}},
	{name: "sha512", algorithm: digest.SHA512, cannot: map[string]string{"crane": "knows sha256 alone", "skopeo": "hashes manifests by sha256 alone"},
		put: func(p *publication) ocispec.Descriptor {
			return p.index("latest", ocispec.MediaTypeImageIndex, p.ociImage("", p.layer(ocispec.MediaTypeImageLayerGzip, gzipped)))
		}},
}

// pullers pull a reference by digest with all that belongs to it into a directory, whatever files they make of it.
var pullers = map[string]func(t *testing.T, s *server, p *publication, repository, dgst, dir string){
	// crane writes images anew when it pulls them, and is asked for each manifest and blob.
	"crane": func(t *testing.T, s *server, p *publication, repository, _, dir string) {
		t.Helper()
		for verb, objects := range map[string]map[string][]byte{"manifest": p.manifests, "blob": p.blobs} {
			for dgst := range objects {
				content := s.run(t, "crane", verb, repository+"@"+dgst)
				if err := os.WriteFile(filepath.Join(dir, dgst), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	},
	"regctl": func(t *testing.T, s *server, _ *publication, repository, dgst, dir string) {
		t.Helper()
		s.run(t, "regctl", "image", "copy", repository+"@"+dgst, "ocidir://"+dir)
	},
	"skopeo": func(t *testing.T, s *server, _ *publication, repository, dgst, dir string) {
		t.Helper()
		s.run(t, "skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-cert-dir", filepath.Join(s.home, "certs"),
			"--src-authfile", filepath.Join(s.home, "config.json"), "docker://"+repository+"@"+dgst, "dir:"+dir)
	},
	"oras": func(t *testing.T, s *server, _ *publication, repository, dgst, dir string) {
		t.Helper()
		s.run(t, "oras", "copy", "--no-tty", repository+"@"+dgst, "--to-oci-layout", dir+":latest")
	},
}

// TestClientsPullEveryKind mirrors every kind of content, closes the source, and pulls by digest with every client what was
// there. Not a byte may differ.
func TestClientsPullEveryKind(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			p := &publication{t: t, out: lab.New(t, lab.TrustedTLS), algorithm: kind.algorithm, manifests: map[string][]byte{}, blobs: map[string][]byte{}}
			if p.algorithm == "" {
				p.algorithm = digest.SHA256
			}
			root := kind.put(p).Digest.String()
			imp := s.mustImport(t, namespace, "app", v1beta1.ImageImportSpec{From: p.out.Reference("app"), Mirror: ptr.To(true)}, v1beta1.ReasonImported)
			p.out.Close()
			repository := s.registry + "/" + namespace + "/app"
			if diff := cmp.Diff(repository+"@"+root, imp.Status.HashReference.ImageReference); diff != "" {
				t.Errorf("imageReference (-want +got):\n%s", diff)
			}

			s.compareServed(t, namespace, p)
			want := maps.Clone(p.manifests)
			maps.Copy(want, p.blobs)
			for _, client := range slices.Sorted(maps.Keys(pullers)) {
				t.Run(client, func(t *testing.T) {
					if why := kind.cannot[client]; why != "" {
						t.Logf("not tried: %s %s", client, why)
						return
					}
					require(t, client)
					dir := t.TempDir()
					pullers[client](t, s, p, repository, root, dir)
					if diff := cmp.Diff(want, filesOf(t, dir, want)); diff != "" {
						t.Errorf("what was pulled (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

// compareServed asks the registry port for every object, and for what is not to be there.
func (s *server) compareServed(t *testing.T, namespace string, p *publication) {
	t.Helper()
	ask := func(among, object string) answer {
		t.Helper()
		return must(s.get(t.Context(), "https://"+s.registry+"/v2/"+namespace+"/app/"+among+"/"+object, basic(s.token)))(t)
	}
	for among, objects := range map[string]map[string][]byte{lab.Manifests: p.manifests, lab.Blobs: p.blobs} {
		for dgst, content := range objects {
			if got := ask(among, dgst); got.status != http.StatusOK || got.body != string(content) || got.header.Get("Docker-Content-Digest") != dgst {
				t.Errorf("%s %s: %d, digest %q, %d bytes; want %d bytes", among, dgst, got.status, got.header.Get("Docker-Content-Digest"), len(got.body), len(content))
			}
		}
	}
	for _, dgst := range p.absent {
		if got := ask(lab.Blobs, dgst); got.status != http.StatusNotFound {
			t.Errorf("the blob %s, which may not be copied: %d", dgst, got.status)
		}
	}
}

// filesOf returns the contents of files below a directory whose digest is one of those wanted.
func filesOf(t *testing.T, dir string, wanted map[string][]byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			dgst := algorithm.FromBytes(content).String()
			if original, ok := wanted[dgst]; ok {
				if len(content) == 0 {
					content = original // nil or not
				}
				found[dgst] = content
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSchema1IsRefused imports what no current runtime accepts, and what lists such things.
func TestSchema1IsRefused(t *testing.T) {
	t.Parallel()
	const document = `{"schemaVersion":1,"name":"app","tag":"latest","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}`
	for name, put := range map[string]func(t *testing.T, out *lab.Source){
		"an image": func(t *testing.T, out *lab.Source) {
			t.Helper()
			out.PutManifest(t, "app", "latest", schema1, []byte(document), digest.SHA256)
		},
		"an image of a list": func(t *testing.T, out *lab.Source) {
			t.Helper()
			old := out.PutManifest(t, "app", "", schema1, []byte(document), digest.SHA256)
			putIndex(t, out, "latest", old)
		},
		"served as something newer": func(t *testing.T, out *lab.Source) {
			t.Helper()
			out.PutManifest(t, "app", "latest", dockerManifest, []byte(document), digest.SHA256)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, namespace := shared(t)
			out := lab.New(t, lab.TrustedTLS)
			put(t, out)
			imp := s.importImage(t, namespace, "app", v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: ptr.To(true)})
			got := outcomeOf(imp.Status.Conditions)
			got.Message = strings.TrimPrefix(got.Message, out.Reference("app"))
			want := failed(v1beta1.ReasonUnsupportedManifest,
				":latest: it is a docker image of schema 1, which no current runtime accepts; push it again with a current tool")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}
