// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/distribution"
)

// copyBufferSize is what is written to a file at once, in bytes.
const copyBufferSize = 128 << 10

// Repository is one repository of the store as one import writes to it. Its
// methods may be called concurrently, Commit when the others are done.
//
// The first content that it pushes or mounts makes a lease, which holds that
// and all further content until Commit, or until it expires when Commit never
// comes.
type Repository struct {
	store *Store
	name  distribution.Repository

	mu    sync.Mutex
	lease leases.Lease // the zero Lease while there is none
}

// namespaced returns ctx for calls to containerd in the namespace of repo.
func (s *Store) namespaced(ctx context.Context, repo distribution.Repository) (context.Context, error) {
	if err := repo.Validate(); err != nil {
		return nil, err
	}
	id, err := s.namespaceID(ctx, repo.Namespace)
	if err != nil {
		return nil, err
	}
	return namespaces.WithNamespace(ctx, id), nil
}

// leased returns ctx for calls to containerd whose content is to be held.
func (r *Repository) leased(ctx context.Context) (context.Context, error) {
	ctx, err := r.store.namespaced(ctx, r.name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lease.ID == "" {
		r.lease, err = r.store.leases.Create(ctx, leases.WithID(rand.Text()), leases.WithExpiration(r.store.leaseDuration))
		if err != nil {
			return nil, fmt.Errorf("leasing content for %s: %w", r.name, err)
		}
	}
	return leases.WithLease(ctx, r.lease.ID), nil
}

// Mount reports whether the repository holds desc, after taking it over from
// another repository of the same namespace where that is possible. Content
// whose file is gone or damaged is not held.
func (r *Repository) Mount(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	plain, err := r.store.namespaced(ctx, r.name)
	if err != nil {
		return false, err
	}
	// Looking first spares content that is not there, the common case, a
	// write.
	if ok, err := r.mountable(plain, desc); err != nil || !ok {
		return false, err
	}
	ctx, err = r.leased(ctx)
	if err != nil {
		return false, err
	}
	if err := r.store.keep(ctx, desc.Digest); err != nil {
		return false, fmt.Errorf("mounting %s in %s: %w", desc.Digest, r.name, err)
	}
	// And looking again once the lease holds it: a collection may have come
	// between.
	if ok, err := r.mountable(ctx, desc); err != nil || !ok {
		return false, err
	}
	if err := r.store.label(ctx, desc.Digest, map[string]string{repositoryLabel(r.name.Name): "true"}); err != nil {
		return false, fmt.Errorf("mounting %s in %s: %w", desc.Digest, r.name, err)
	}
	return true, nil
}

// mountable reports whether the namespace has all of desc. A manifest that was
// only ever pushed as a blob is not enough: nobody has read what it refers to.
func (r *Repository) mountable(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	info, err := r.store.content.Info(ctx, desc.Digest)
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("mounting %s in %s: %w", desc.Digest, r.name, err)
	case info.Size != desc.Size, isManifest(desc.MediaType) && info.Labels[mediaTypeLabel] == "":
		return false, nil
	}
	intact, err := r.store.files.intact(ctx, desc.Digest, info.Size)
	if err != nil {
		return false, fmt.Errorf("mounting %s in %s: %w", desc.Digest, r.name, err)
	}
	if !intact {
		klog.FromContext(ctx).Info("Content is damaged or gone from the disk and has to be sent again", "digest", desc.Digest)
	}
	return intact, nil
}

// Push stores the content of desc, which it reads from r to its end. Content of
// another length or digest is refused with errdefs.ErrFailedPrecondition, a
// manifest that cannot be read as its media type with
// errdefs.ErrInvalidArgument. Errors of the reader and of the file system, a
// full disk for one, keep their identity.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, reader io.Reader) error {
	if err := r.push(ctx, desc, reader); err != nil {
		return fmt.Errorf("pushing %s to %s: %w", desc.Digest, r.name, err)
	}
	return nil
}

func (r *Repository) push(ctx context.Context, desc ocispec.Descriptor, reader io.Reader) error {
	ctx, err := r.leased(expectDigest(ctx, desc.Digest))
	if err != nil {
		return err
	}
	labels := map[string]string{repositoryLabel(r.name.Name): "true"}
	var subject digest.Digest
	if isManifest(desc.MediaType) {
		manifest, err := readManifest(desc, reader)
		if err != nil {
			return err
		}
		more, err := manifestLabels(desc, manifest)
		if err != nil {
			return err
		}
		maps.Copy(labels, more)
		subject = subjectOf(manifest)
		reader = bytes.NewReader(manifest)
	}
	// This comes first: an import that is cut off in between sends the referrer
	// again, and would not miss the label of what it finds.
	if subject != "" {
		if err := r.refer(ctx, desc.Digest, subject); err != nil {
			return err
		}
	}
	if err := r.store.write(ctx, desc, reader, labels); err != nil {
		return err
	}
	// What was there already keeps its labels, and gets these.
	return r.store.label(ctx, desc.Digest, labels)
}

// refer lets a manifest, which need not be there yet, be found by its subject, and
// be held by it, where the repository has that.
func (r *Repository) refer(ctx context.Context, referrer, subject digest.Digest) error {
	if _, err := r.store.held(ctx, r.name, subject); errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	return r.store.label(ctx, subject, map[string]string{referrerLabelPrefix + referrer.String(): referrer.String()})
}

// readManifest reads a manifest into memory, and checks it here already because
// only what has the digest may be parsed.
func readManifest(desc ocispec.Descriptor, reader io.Reader) ([]byte, error) {
	if desc.Size < 0 || desc.Size > maxManifestSize {
		return nil, fmt.Errorf("%w: a manifest of %d bytes", errdefs.ErrInvalidArgument, desc.Size)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	manifest, err := io.ReadAll(io.LimitReader(reader, desc.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(manifest)) != desc.Size || desc.Digest.Algorithm().FromBytes(manifest) != desc.Digest {
		return nil, fmt.Errorf("%w: the content has another length or digest", errdefs.ErrFailedPrecondition)
	}
	return manifest, nil
}

// write copies content into the store, through a writer of its own: two of the
// same digest do not meet before their commits, and there the second finds it
// done.
func (s *Store) write(ctx context.Context, desc ocispec.Descriptor, reader io.Reader, labels map[string]string) (err error) {
	if err := s.space.check(desc.Size); err != nil {
		return err
	}
	if err := s.quota.check(ctx, desc.Size); err != nil {
		return err
	}
	reader, done := s.bounded(ctx, reader)
	defer done()
	var ingester interface {
		content.Ingester
		content.IngestManager
	} = s.content
	ref := rand.Text()
	w, err := ingester.Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		// The record is there. Its file may not be, or may be damaged, so that
		// the bytes go to where the files are: they are checked, and put in
		// place if they are missed.
		ingester, ref = s.files, directRefPrefix+ref
		w, err = ingester.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Size: desc.Size}))
	}
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		closeErr := w.Close()
		// The caller may be gone, the rest must go all the same. A commit that
		// failed may have dropped it already.
		abortErr := ingester.Abort(context.WithoutCancel(ctx), ref)
		if errdefs.IsNotFound(abortErr) {
			abortErr = nil
		}
		err = errors.Join(err, closeErr, abortErr)
	}()

	n, err := io.CopyBuffer(w, io.LimitReader(reader, desc.Size+1), make([]byte, copyBufferSize))
	if err != nil {
		return err
	}
	if n != desc.Size {
		return fmt.Errorf("%w: the content has another length than %d", errdefs.ErrFailedPrecondition, desc.Size)
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// label adds labels to content, unless it has them.
func (s *Store) label(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	info, err := s.content.Info(ctx, dgst)
	if err != nil {
		return err
	}
	var paths []string
	for key, value := range labels {
		if info.Labels[key] != value {
			paths = append(paths, "labels."+key)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	_, err = s.content.Update(ctx, content.Info{Digest: dgst, Labels: labels}, paths...)
	return err
}

// Complete reports whether root and everything below it can be read from this
// repository. It looks at every file, and reads none.
func (r *Repository) Complete(ctx context.Context, root digest.Digest) (bool, error) {
	ctx, err := r.store.namespaced(ctx, r.name)
	if err != nil {
		return false, err
	}
	seen := map[digest.Digest]bool{root: true}
	for todo := []digest.Digest{root}; len(todo) > 0; {
		dgst := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		info, err := r.store.held(ctx, r.name, dgst)
		switch {
		case errdefs.IsNotFound(err):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("looking at %s in %s: %w", dgst, r.name, err)
		case dgst == root && info.Labels[mediaTypeLabel] == "":
			return false, nil
		}
		for key, value := range info.Labels {
			child := digest.Digest(value)
			if strings.HasPrefix(key, referenceLabelPrefix) && !strings.HasPrefix(key, optionalReferenceLabelPrefix) && !seen[child] {
				seen[child] = true
				todo = append(todo, child)
			}
		}
	}
	return true, nil
}

// held returns the record of content that repo holds in the namespace of ctx
// and that can be read back; errdefs.ErrNotFound otherwise.
func (s *Store) held(ctx context.Context, repo distribution.Repository, dgst digest.Digest) (content.Info, error) {
	info, err := s.content.Info(ctx, dgst)
	if err != nil {
		return content.Info{}, err
	}
	if info.Labels[repositoryLabel(repo.Name)] == "" {
		return content.Info{}, fmt.Errorf("%s is not in %s: %w", dgst, repo, errdefs.ErrNotFound)
	}
	intact, err := s.files.intact(ctx, dgst, info.Size)
	if err != nil {
		return content.Info{}, err
	}
	if !intact {
		return content.Info{}, fmt.Errorf("%s is damaged: %w", dgst, errdefs.ErrNotFound)
	}
	return info, nil
}

// Commit points each tag at its manifest, all of them or none, and ends the
// protection of what was pushed and mounted through r. It fails with
// errdefs.ErrFailedPrecondition unless everything below the manifests is there.
func (r *Repository) Commit(ctx context.Context, tags map[string]digest.Digest) error {
	inside, err := r.store.namespaced(ctx, r.name)
	if err != nil {
		return err
	}
	targets := map[string]ocispec.Descriptor{}
	for tag, root := range tags {
		complete, err := r.Complete(ctx, root)
		if err != nil {
			return err
		}
		if !complete {
			return fmt.Errorf("committing %s to %s: %w: content is missing", root, r.name, errdefs.ErrFailedPrecondition)
		}
		info, err := r.store.held(inside, r.name, root)
		if err != nil {
			return err
		}
		targets[tag] = ocispec.Descriptor{MediaType: info.Labels[mediaTypeLabel], Digest: root, Size: info.Size}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.store.db.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(inside, tx)
		for tag, target := range targets {
			if err := r.store.tag(ctx, imageName(r.name, tag), target); err != nil {
				return err
			}
		}
		if r.lease.ID == "" {
			return nil
		}
		return r.store.leases.Delete(ctx, r.lease)
	})
	if err != nil {
		return fmt.Errorf("committing to %s: %w", r.name, err)
	}
	r.lease = leases.Lease{}
	return nil
}

// Tagged implements importer.Destination.
func (r *Repository) Tagged(ctx context.Context, digests []digest.Digest, leftOut func(tag string) bool) ([]digest.Digest, error) {
	tagged, err := r.store.tagged(ctx, r.name)
	if errors.Is(err, distribution.ErrNameUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing tags of %s: %w", r.name, err)
	}
	return slices.DeleteFunc(slices.Clone(digests), func(dgst digest.Digest) bool {
		return !slices.ContainsFunc(tagged, func(image images.Image) bool {
			return image.Target.Digest == dgst && !leftOut(strings.TrimPrefix(image.Name, imageName(r.name, "")))
		})
	}), nil
}

// Untag removes tags, those that are there. In a namespace that is gone there are
// none.
func (r *Repository) Untag(ctx context.Context, tags ...string) error {
	ctx, err := r.store.namespaced(ctx, r.name)
	if errors.Is(err, distribution.ErrNameUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := r.store.images.Delete(ctx, imageName(r.name, tag)); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("untagging %q of %s: %w", tag, r.name, err)
		}
	}
	return nil
}

// tag makes or moves an image record.
func (s *Store) tag(ctx context.Context, name string, target ocispec.Descriptor) error {
	image := images.Image{Name: name, Target: target}
	_, err := s.images.Create(ctx, image)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.images.Update(ctx, image, "target")
	}
	return err
}
