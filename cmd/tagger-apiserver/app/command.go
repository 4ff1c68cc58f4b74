// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package app is the command line of tagger-apiserver: flags become options, options a configuration of package apiserver.
package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/term"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/version"
)

// NewCommand returns the command; the server that it runs stops when ctx ends.
func NewCommand(ctx context.Context) *cobra.Command {
	options := NewOptions()
	cmd := &cobra.Command{
		Use:   "tagger-apiserver",
		Short: "Serve container images as a native Kubernetes API",
		Long: `tagger-apiserver serves Image and ImageImport, API group tagger.dev, runs the imports that they ask for, and serves the
images that it mirrored at the registry port.

In a cluster it extends the Kubernetes API by an APIService, and asks kube-apiserver who may do what.

With --standalone it needs no Kubernetes: etcd, the image store, a certificate authority and an administrator's kubeconfig
live in the data directory.

  tagger-apiserver --standalone --data-dir ./data
  KUBECONFIG=./data/kubeconfig kubectl get images`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Info().GitVersion,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := options.Run.ComponentGlobalsRegistry.Set(); err != nil {
				return err
			}
			if err := logsapi.ValidateAndApply(options.Logs, nil); err != nil {
				return err
			}
			options.Complete(cmd.Flags().Changed)
			if errs := options.Validate(); len(errs) > 0 {
				return errors.Join(errs...)
			}
			return run(cmd.Context(), options)
		},
	}
	cmd.SetContext(ctx)
	sections := options.Flags()
	globalflag.AddGlobalFlags(sections.FlagSet("global"), cmd.Name())
	for _, flags := range sections.FlagSets {
		cmd.Flags().AddFlagSet(flags)
	}
	columns, _, _ := term.TerminalSize(cmd.OutOrStdout())
	cliflag.SetUsageAndHelpFunc(cmd, sections, columns)
	return cmd
}

// run serves until ctx ends. A stop that was asked for is no error.
func run(ctx context.Context, options *Options) error {
	var p process
	defer p.close()
	build := newInCluster
	if options.Standalone {
		build = newStandalone
	}
	server, err := build(ctx, options, &p)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) { // asked to stop while it started
		return nil
	}
	if err != nil {
		return err
	}
	if err := server.Run(ctx); err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	klog.FromContext(ctx).Info("Stopped")
	return nil
}
