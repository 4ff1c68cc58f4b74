// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import "os"

// privateDir creates dir where it is absent, and keeps everybody else out of it
// in any case: what lies below is protected by this directory alone.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}
