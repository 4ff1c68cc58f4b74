// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command tagger-credential-provider lets a node pull from Tagger's registry endpoint in the name of the Pod that it pulls for. The
// kubelet starts it, as its configuration of credential providers says, and hands it a token of the Pod's service account.
package main

import (
	"fmt"
	"os"
	"time"

	"tagger.dev/tagger/pkg/cmd/credentialprovider"
)

func main() {
	if err := credentialprovider.Run(os.Args[1:], os.Stdin, os.Stdout, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "tagger-credential-provider:", err)
		os.Exit(1)
	}
}
