// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"
)

// completionTimeout is how long somebody who pressed the tab key waits at most.
const completionTimeout = 5 * time.Second

// maxCompletions is how many there may be to choose from.
const maxCompletions = 500

// CompletionProgram is the name by which kubectl starts what completes the arguments of the plugin: the plugin itself does, where
// it is called so.
const CompletionProgram = "kubectl_complete-image"

// CompletionArgs returns the arguments by which the plugin completes others.
func CompletionArgs(args []string) []string {
	return append([]string{cobra.ShellCompRequestCmd}, args...)
}

func newCompletionCommand(streams genericiooptions.IOStreams) *cobra.Command {
	scripts := map[string]func(*cobra.Command) error{
		"bash":       func(root *cobra.Command) error { return root.GenBashCompletionV2(streams.Out, true) },
		"fish":       func(root *cobra.Command) error { return root.GenFishCompletion(streams.Out, true) },
		"powershell": func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(streams.Out) },
		"zsh":        func(root *cobra.Command) error { return root.GenZshCompletion(streams.Out) },
	}
	shells := []string{"bash", "fish", "powershell", "zsh"}
	return &cobra.Command{
		Use:                   "completion SHELL",
		DisableFlagsInUseLine: true,
		Short:                 "Have the shell complete names of images, entries of histories, and flags",
		Long: `Have the shell complete names of images, entries of histories, and flags.

kubectl completes what is typed after 'kubectl image', where its own completion is set up (see: kubectl completion
--help), by a program ` + CompletionProgram + ` in the PATH. The plugin is that, by another name:

  sudo ln --symbolic "$(command -v kubectl-image)" /usr/local/bin/` + CompletionProgram + `

For those who type 'kubectl-image' instead, this prints a script for their shell: bash, fish, powershell or zsh.`,
		Example: `  # Complete what is typed after kubectl-image, in this bash
  source <(kubectl image completion bash)`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) != 1:
				return usageError(cmd, "one SHELL is expected: bash, fish, powershell or zsh")
			case !slices.Contains(shells, args[0]):
				return usageError(cmd, "there is no completion for the shell %q, but for bash, fish, powershell and zsh", args[0])
			}
			return nil
		},
		ValidArgs: shells,
		RunE:      func(cmd *cobra.Command, args []string) error { return scripts[args[0]](cmd.Root()) },
	}
}

// completeFlag has a flag of a command completed to one of some values.
func completeFlag(cmd *cobra.Command, flag string, values ...string) {
	completeFlagBy(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

func completeFlagBy(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // there is no such flag, or it is completed already
	}
}

// completeNames completes the NAME of an Image, the only argument of a verb.
func (c *cluster) completeNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd, func(ctx context.Context, session *session) (names []string, err error) {
		images, err := session.Images(session.namespace).List(ctx, metav1.ListOptions{Limit: maxCompletions})
		if err != nil {
			return nil, err
		}
		for _, image := range images.Items {
			names = append(names, cobra.CompletionWithDesc(image.Name, image.Spec.From))
		}
		return names, nil
	})
}

// completeHistory completes what a rollback of the Image goes back to.
func (c *cluster) completeHistory(clock clock.PassiveClock) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		entries, directive := c.complete(cmd, func(ctx context.Context, session *session) (entries []string, err error) {
			image, err := session.Images(session.namespace).Get(ctx, args[0], metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			for i, ref := range image.Status.HashReferences {
				entries = append(entries, cobra.CompletionWithDesc(strconv.Itoa(i+1), fmt.Sprintf("%s, imported %s ago",
					digestOf(ref.ImageReference), duration.HumanDuration(clock.Since(ref.ImportedAt.Time)))))
			}
			return entries, nil
		})
		return entries, directive | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeNamespaces completes the name of a namespace.
func (c *cluster) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, func(ctx context.Context, session *session) (names []string, err error) {
		answer, err := session.RESTClient().Get().AbsPath("/api/v1/namespaces").Param("limit", strconv.Itoa(maxCompletions)).
			SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").DoRaw(ctx)
		if err != nil {
			return nil, err
		}
		var namespaces metav1.PartialObjectMetadataList
		if err := json.Unmarshal(answer, &namespaces); err != nil {
			return nil, err
		}
		for _, namespace := range namespaces.Items {
			names = append(names, namespace.Name)
		}
		return names, nil
	})
}

// completeContexts completes the name of a context of the kubeconfig.
func (c *cluster) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	config, err := c.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for name := range config.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}

// complete asks the API for what there is. Where that fails there is nothing to choose from.
func (c *cluster) complete(cmd *cobra.Command, ask func(context.Context, *session) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	session, err := c.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	found, err := ask(ctx, session)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil, cobra.ShellCompDirectiveError
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
