// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command tagger-apiserver serves the tagger.dev API group, runs imports, and serves the registry endpoint.
package main

import (
	"fmt"
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"

	"tagger.dev/tagger/cmd/tagger-apiserver/app"
)

func main() {
	if err := cli.RunNoErrOutput(app.NewCommand(genericapiserver.SetupSignalContext())); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
