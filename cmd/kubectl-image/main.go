// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubectl-image is the kubectl plugin for images in a cluster: kubectl finds it in PATH as `kubectl image`. By the name
// kubectl_complete-image it is what completes the arguments of that, and by docker-credential-kubectl-image what docker and podman
// ask for a token.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the ways to log in that a kubeconfig may ask for
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/cmd/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	cmd := image.NewCommand(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Getenv)

	switch strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") {
	case image.CompletionProgram:
		cmd.SetArgs(image.CompletionArgs(os.Args[1:]))
	case image.CredentialProgram:
		cmd.SetArgs(image.CredentialArgs(os.Args[1:]))
	}

	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	cmd.PersistentFlags().AddGoFlag(logging.Lookup("v"))
	os.Exit(image.Execute(ctx, cmd))
}
