// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"testing"
	"time"

	"tagger.dev/tagger/pkg/distribution"
)

// TestAskedFor: a push does not send again what it is told to be there, however long nothing names that.
func TestAskedFor(t *testing.T) {
	t.Parallel()
	ask := func(t *testing.T, s *Store, manifest bool, i item) {
		t.Helper()
		open := s.Blob
		if manifest {
			open = s.Manifest
		}
		content, err := open(t.Context(), app, i.desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	config, old := layer("{}"), layer("0123456789")
	whole := image(t, config, old)
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, s *Store)
		want bool // that it is kept
	}{
		{name: "nobody asks", do: func(*testing.T, *Store) {}},
		{name: "it is read", do: func(t *testing.T, s *Store) { wantRead(t, s, old); wantRead(t, s, config) }},
		{name: "asked for", do: func(t *testing.T, s *Store) { ask(t, s, false, old); ask(t, s, false, config) }, want: true},
		{name: "the manifest is asked for, which holds it", do: func(t *testing.T, s *Store) { ask(t, s, true, whole) }, want: true},
		{name: "asked for long ago", do: func(t *testing.T, s *Store) {
			ask(t, s, true, whole)
			s.now = func() time.Time { return time.Now().Add(askedDuration + time.Minute) }
		}},
		{name: "asked for and deleted", do: func(t *testing.T, s *Store) {
			ask(t, s, true, whole)
			if err := s.DeleteManifest(t.Context(), app, whole.desc.Digest); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			s.pushDuration = -2 * pushLeaseInterval // it was pushed long ago
			pushBlob(t, s, app, config)
			pushBlob(t, s, app, old)
			putManifest(t, s, app, whole)
			s.pushDuration = defaultPushDuration
			s.pushLeases.forget()
			tt.do(t, s)
			collect(t, s)
			err := s.PutManifest(t.Context(), app, whole.desc, whole.data, []string{"v1"})
			if tt.want && err != nil || !tt.want && !errors.Is(err, distribution.ErrManifestBlobUnknown) {
				t.Errorf("what it names is kept: %t, want %t: %v", err == nil, tt.want, err)
			}
		})
	}
}
