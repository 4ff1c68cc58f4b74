// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKind(t *testing.T) {
	t.Parallel()
	type answers struct{ Terminal, SeldomHeals bool }
	want := map[Kind]answers{
		NotFound: {false, true}, Unauthorized: {false, true}, TLS: {false, true},
		Invalid: {true, true}, Blocked: {true, true}, UnsupportedManifest: {true, true},
		RateLimited: {}, Unavailable: {}, Timeout: {}, DigestMismatch: {}, MirrorUnavailable: {}, MirrorUnauthorized: {},
	}
	got := map[Kind]answers{}
	for k := range want {
		got[k] = answers{k.Terminal(), k.SeldomHeals()}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want Kind
	}{
		{name: "none", want: ""},
		{name: "own", err: &Error{Kind: TLS}, want: TLS},
		{name: "wrapped", err: fmt.Errorf("importing: %w", &Error{Kind: NotFound}), want: NotFound},
		{name: "deadline", err: fmt.Errorf("importing: %w", context.DeadlineExceeded), want: Timeout},
		{name: "timeout", err: os.ErrDeadlineExceeded, want: Timeout},
		{name: "cancelled", err: context.Canceled, want: Unavailable},
		{name: "unknown", err: errors.New("x"), want: Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, KindOf(tt.err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestTextsArePrintable: what a host wrote into its own name controls no terminal.
func TestTextsArePrintable(t *testing.T) {
	t.Parallel()
	err := failure(Unavailable, nil, "%s: it failed …", "h\u202e\u009b31m\x1b.invalid\n")
	if got, want := err.Error(), "h??31m?.invalid?: it failed …"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
