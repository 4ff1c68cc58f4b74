// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command hello is all that the demo's image contains: it says which version and platform of it runs.
package main

import (
	"fmt"
	"runtime"
)

// version is set by the linker.
var version = "unknown"

func main() {
	fmt.Printf("Hello from version %s on %s/%s.\n", version, runtime.GOOS, runtime.GOARCH)
}
