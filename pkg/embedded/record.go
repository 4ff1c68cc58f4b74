// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tagger.dev/tagger/pkg/distribution"
)

// records are the records of the content of a namespace as containerd's database has them, by the layout that its package
// metadata documents. They are read here one label at a time: containerd itself reads all labels of what it is asked for, and of
// all content of a namespace at once to look through that. The zero records are empty.
type records struct{ bucket *bolt.Bucket }

// record is that of one content.
type record struct{ bucket, labels *bolt.Bucket }

// view calls fn with the records of the namespace of ctx, in the transaction of ctx if there is one.
func (s *Store) view(ctx context.Context, fn func(records) error) error {
	return s.viewBucket(ctx, func(bucket *bolt.Bucket) error { return fn(records{bucket}) }, "content", "blob")
}

// eachTag calls fn with the tags of a repository, in their order, until that says that it has enough. Ctx is of its namespace.
func (s *Store) eachTag(ctx context.Context, repo distribution.Repository, fn func(tag string) (more bool)) error {
	return s.viewBucket(ctx, func(bucket *bolt.Bucket) error {
		if bucket == nil {
			return nil
		}
		prefix := []byte(imageName(repo, ""))
		cursor := bucket.Cursor()
		for key, _ := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = cursor.Next() {
			if !fn(string(key[len(prefix):])) {
				return nil
			}
		}
		return nil
	}, "images")
}

// viewBucket calls fn with a bucket of the namespace of ctx, nil where there is none, in the transaction of ctx if there is one.
func (s *Store) viewBucket(ctx context.Context, fn func(*bolt.Bucket) error, path ...string) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	do := func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("v1"))
		for _, key := range append([]string{namespace}, path...) {
			if bucket == nil {
				break
			}
			bucket = bucket.Bucket([]byte(key))
		}
		return fn(bucket)
	}
	if tx, ok := boltutil.Transaction(ctx); ok {
		return do(tx)
	}
	return s.db.View(do)
}

// get returns the record of some content, if there is one.
func (r records) get(dgst digest.Digest) (record, bool) {
	if r.bucket == nil {
		return record{}, false
	}
	return newRecord(r.bucket.Bucket([]byte(dgst)))
}

// each calls fn with all records, until that fails.
func (r records) each(fn func(digest.Digest, record) error) error {
	if r.bucket == nil {
		return nil
	}
	return r.bucket.ForEachBucket(func(key []byte) error {
		found, _ := newRecord(r.bucket.Bucket(key))
		return fn(digest.Digest(key), found)
	})
}

func newRecord(bucket *bolt.Bucket) (record, bool) {
	if bucket == nil {
		return record{}, false
	}
	return record{bucket, bucket.Bucket([]byte("labels"))}, true
}

// size is that of the content, in bytes.
func (r record) size() int64 {
	size, _ := binary.Varint(r.bucket.Get([]byte("size")))
	return size
}

// has reports whether there is a label, which none is with an empty value.
func (r record) has(label string) bool {
	return r.labels != nil && len(r.labels.Get([]byte(label))) > 0
}

// names reports whether the content is a manifest that names other content. Of those that earlier versions have stored it goes
// through the labels, whose keys end in the place of a name in the manifest.
func (r record) names(dgst digest.Digest) bool {
	if r.has(referenceLabel(dgst, false)) || r.has(referenceLabel(dgst, true)) {
		return true
	}
	if r.labels == nil {
		return false
	}
	cursor := r.labels.Cursor()
	for _, prefix := range []string{referenceLabelPrefix, optionalReferenceLabelPrefix} {
		end := []byte(prefix + ":") // comes after the digits
		for key, value := cursor.Seek([]byte(prefix + "0")); key != nil && bytes.Compare(key, end) < 0; key, value = cursor.Next() {
			if string(value) == dgst.String() {
				return true
			}
		}
	}
	return false
}
