// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestAuthority(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tests := []struct {
		name string
		// between happens between two openings of the directory.
		between func(d *DataDir) error
		at      time.Time
		// wantSame says whether the second one is the first.
		wantSame bool
		err      bool
	}{
		{name: "kept", between: func(*DataDir) error { return nil }, at: now, wantSame: true},
		{name: "kept for years", between: func(*DataDir) error { return nil }, at: now.AddDate(9, 11, 0), wantSame: true},
		{name: "expired", between: func(*DataDir) error { return nil }, at: now.AddDate(10, 0, 1), err: true},
		{name: "first start was cut short", between: func(d *DataDir) error { return os.Remove(d.CACertPath()) }, at: now},
		{name: "key gone", between: func(d *DataDir) error { return os.Remove(d.file(caKeyFile)) }, at: now, err: true},
		{name: "certificate damaged", between: func(d *DataDir) error { return d.write(caCertFile, []byte("x"), 0o644) }, at: now, err: true},
		{
			name: "key of another",
			between: func(d *DataDir) error {
				other, err := os.ReadFile(d.CACertPath())
				if err != nil {
					return err
				}
				if _, err := d.newAuthority(clock.RealClock{}); err != nil {
					return err
				}
				return d.write(caCertFile, other, 0o644)
			},
			at:  now,
			err: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := openDataDir(t, filepath.Join(t.TempDir(), "data"))
			first, err := d.Authority(clocktesting.NewFakePassiveClock(now))
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.between(d); err != nil {
				t.Fatal(err)
			}
			second, err := d.Authority(clocktesting.NewFakePassiveClock(tt.at))
			if (err != nil) != tt.err {
				t.Fatalf("got error %v, want one: %v", err, tt.err)
			}
			if tt.err {
				return
			}
			if got := bytes.Equal(second.CertificatePEM(), first.CertificatePEM()); got != tt.wantSame {
				t.Errorf("the same authority: got %v, want %v", got, tt.wantSame)
			}
		})
	}
}
