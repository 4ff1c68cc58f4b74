// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// digestOf returns the digest that an entry of a history names.
func digestOf(ref *v1beta1.HashReference) digest.Digest {
	return digest.Digest(ref.ImageReference[strings.LastIndex(ref.ImageReference, "@")+1:])
}

// addToHistory returns the history with ref in it: entries are ordered by when their tag was resolved, newest first. A digest
// that an entry beside ref's place names already adds none: the same digest again refreshes the entry, and an older sighting of
// it says nothing new. At most limit entries are kept.
func addToHistory(history []v1beta1.HashReference, ref v1beta1.HashReference, limit int) []v1beta1.HashReference {
	at := 0
	for at < len(history) && ref.ResolvedAt.Before(&history[at].ResolvedAt) {
		at++
	}
	switch {
	case at < len(history) && digestOf(&history[at]) == digestOf(&ref):
		history = slices.Clone(history)
		history[at] = refresh(history[at], ref)
	case at > 0 && digestOf(&history[at-1]) == digestOf(&ref):
		history = slices.Clone(history)
	default:
		history = slices.Insert(slices.Clone(history), at, ref)
	}
	return history[:min(len(history), limit)]
}

// notInTheFuture returns the history as it is to be added to now. An entry that was resolved by a clock that was ahead would lie in
// front of everything until that time has come: what was seen since is newer.
func notInTheFuture(history []v1beta1.HashReference, now time.Time, seen metav1.MicroTime) []v1beta1.HashReference {
	history = slices.Clone(history)
	for i := range history {
		if history[i].ResolvedAt.After(now) {
			history[i].ResolvedAt = seen
		}
	}
	return history
}

// refresh returns an entry after its digest was seen again. What lies at the mirror stays what to run, also when the import did
// not ask for a mirror.
func refresh(entry, seen v1beta1.HashReference) v1beta1.HashReference {
	if seen.ImageReference == seen.SourceReference && entry.ImageReference != entry.SourceReference {
		seen.ImageReference = entry.ImageReference
	}
	return seen
}

// entryOfImport returns the entry of a history that an import recorded or refreshed, nil where there is none.
func entryOfImport(history []v1beta1.HashReference, importUID types.UID) *v1beta1.HashReference {
	for i := range history {
		if history[i].ImportUID == importUID {
			return &history[i]
		}
	}
	return nil
}

// current returns the reference that an Image means now, empty where it means none yet.
func current(image *v1beta1.Image) string {
	if len(image.Status.HashReferences) == 0 {
		return ""
	}
	return image.Status.HashReferences[0].ImageReference
}

// recorded returns what was recorded for an import, nil when nothing was.
func recorded(status *v1beta1.ImageStatus, importUID types.UID) *v1beta1.HashReference {
	return entryOfImport(status.RecordedImports, importUID)
}

// entryOf returns the newest entry of a history that names a digest, nil when none does.
func entryOf(history []v1beta1.HashReference, dgst digest.Digest) *v1beta1.HashReference {
	for i := range history {
		if digestOf(&history[i]) == dgst {
			return &history[i]
		}
	}
	return nil
}
