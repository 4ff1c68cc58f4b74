// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bench measures what a server needs. `make bench` runs it, alone on the machine, and prints the figures; nothing is
// asserted about them.
package bench
