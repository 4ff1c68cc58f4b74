// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image is the kubectl plugin kubectl-image: its verbs, one file each, with what they share of flags, help, errors
// and progress. It is a client of the API and nothing more: it imports no server code, keeps no files of its own, and finds the
// cluster exactly as kubectl does.
//
// What the verbs have in common: standard output carries the result alone, everything else goes to standard error; a failure is
// one line that begins with "error:", maybe with a hint below it, and exit code 1; an interrupt is exit code 130.
package image

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/version"
)

// NewCommand returns the plugin's root command, which reads from and writes to the given streams, and reads the environment by
// getenv.
func NewCommand(streams genericiooptions.IOStreams, getenv func(string) string) *cobra.Command {
	return newCommand(streams, getenv, clock.RealClock{})
}

func newCommand(streams genericiooptions.IOStreams, getenv func(string) string, clock clock.Clock) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "kubectl-image",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl image"},
		Short:       "Import, push and pull images of the cluster, and look at what their tags meant",
		Long: `Import, push and pull images of the cluster, and look at what their tags meant.

An Image follows one tag of a registry, or is what was pushed. An import records which digest the tag means and, where the
Image is mirrored, copies the image into the mirror of the cluster; a push brings an image of this machine there, and a
pull takes one out. A rollback goes back to an earlier digest.`,
		Version:           version.Info().GitVersion,
		Args:              noVerb,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	cmd.SetIn(streams.In)
	cmd.SetOut(streams.Out)
	cmd.SetErr(streams.ErrOut)
	cmd.SetUsageTemplate(usageTemplate)
	cmd.SetVersionTemplate("{{.Version}}\n")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, "%w", err) })

	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag()
	flags.AddFlags(cmd.PersistentFlags())
	cluster := &cluster{flags: flags, warnings: streams.ErrOut}
	cmd.AddCommand(newImportCommand(cluster, streams, clock), newHistoryCommand(cluster, streams, clock),
		newRollbackCommand(cluster, streams, clock), newPushCommand(cluster, streams, clock), newPullCommand(cluster, streams, clock),
		newLoginCommand(cluster, streams, getenv), newCredentialCommand(cluster, streams),
		newVersionCommand(cluster, streams), newCompletionCommand(streams), newOptionsCommand())
	completeFlagBy(cmd, "namespace", cluster.completeNamespaces)
	completeFlagBy(cmd, "context", cluster.completeContexts)
	return cmd
}

// Execute runs the plugin's root command with the arguments of the process, reports how it failed, and returns the exit code.
func Execute(ctx context.Context, cmd *cobra.Command) int {
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	message, hint, code := explain(err)
	if hint != "" {
		message += "\n" + hint
	}
	// Whatever a server answered must not control the terminal.
	if err := printers.WriteEscaped(cmd.ErrOrStderr(), message+"\n"); err != nil {
		return exitFailure
	}
	return code
}

// newOptionsCommand returns the command that lists what all commands understand, as `kubectl options` does.
func newOptionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "options",
		Short:                 "List the options of all commands",
		Hidden:                true,
		DisableFlagsInUseLine: true,
		Args:                  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "The following options can be passed to any command:\n\n%s",
				cmd.InheritedFlags().FlagUsagesWrapped(usageWidth))
			return err
		},
	}
}

// noVerb refuses arguments that name no verb.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2 // mistyped letters
	if suggestions := cmd.SuggestionsFor(args[0]); len(suggestions) > 0 {
		return usageError(cmd, "unknown command %q, did you mean %q?", args[0], suggestions[0])
	}
	return usageError(cmd, "unknown command %q", args[0])
}

// imageName takes the NAME of an Image as the only argument.
func imageName(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usageError(cmd, "the NAME of an image is required")
	case len(args) > 1:
		return usageError(cmd, "one NAME is expected, not %d arguments: %q", len(args), args)
	case args[0] == "":
		return usageError(cmd, "the NAME of an image must not be empty")
	}
	return nil
}

// usageWidth is the width that lists of flags are wrapped at, below as well.
const usageWidth = 110

// usageTemplate lays help out as kubectl does: the options of all commands are apart.
const usageTemplate = `{{if .HasExample}}Examples:
{{.Example}}

{{end}}{{if .HasAvailableSubCommands}}Commands:
{{range .Commands}}{{if .IsAvailableCommand}}  {{rpad .Name .NamePadding}} {{.Short}}
{{end}}{{end}}
{{end}}Options:
{{.LocalNonPersistentFlags.FlagUsagesWrapped 110 | trimTrailingWhitespaces}}

Usage:
  {{if .HasParent}}{{.UseLine}}{{else}}{{.CommandPath}} COMMAND [options]{{end}}
{{if .HasAvailableSubCommands}}
Use "{{.CommandPath}} COMMAND --help" for more information about a command.{{end}}
Use "{{.Root.CommandPath}} options" for a list of the options that all commands take.
`
