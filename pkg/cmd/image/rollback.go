// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned/scheme"
)

// rollbackOptions are the flags of one `kubectl image rollback`.
type rollbackOptions struct {
	cluster *cluster
	streams genericiooptions.IOStreams
	print   *genericclioptions.PrintFlags

	to     string
	dryRun string
}

func newRollbackCommand(cluster *cluster, streams genericiooptions.IOStreams, clock clock.PassiveClock) *cobra.Command {
	o := &rollbackOptions{
		cluster: cluster, streams: streams,
		print: genericclioptions.NewPrintFlags("").WithTypeSetter(scheme.Scheme),
	}
	cmd := &cobra.Command{
		Use:                   "rollback NAME [--to=DIGEST|N] [--dry-run=none|server] [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Go back to an earlier digest of an image's history",
		Long: `Go back to an earlier digest of an image's history, by default to the one before the current.

What is gone back to is looked for first: at the mirror, where it was mirrored, else at the source. When it cannot be
pulled any more nothing is changed. Otherwise it becomes the first entry of the history, and the one before it the
second, so that another rollback returns to that.

Where the image is refreshed on a schedule, that is suspended, so that no refresh undoes the rollback. An import that
is asked for does undo it.

Exit codes: 0 when the image is at the digest now, also if it was before, 1 when not, 130 when the command was interrupted.`,
		Example: `  # Go back to what ran before
  kubectl image rollback myapp

  # Go back to a digest, as 'kubectl image history myapp' shows it
  kubectl image rollback myapp --to=sha256:5a3771f19d8e

  # Go back to the third entry of the history
  kubectl image rollback myapp --to=3

  # See what would be gone back to, without looking whether it is still there
  kubectl image rollback myapp --dry-run=server

  # Go back, and print what to run
  kubectl image rollback myapp -o jsonpath='{.status.hashReference.imageReference}'`,
		Args:              imageName,
		ValidArgsFunction: cluster.completeNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.to, "to", "", "What to go back to: a `DIGEST`, of which the beginning does, or the number of an entry, as 'kubectl image history' shows them. Absent: 2, the entry before the current one.")
	flags.StringVar(&o.dryRun, "dry-run", "none", `Must be "none" or "server". With "server" nothing is changed, and nothing looked for at the mirror or the source.`)
	o.print.AddFlags(cmd)
	completeFlagBy(cmd, "to", cluster.completeHistory(clock))
	completeFlag(cmd, "dry-run", "none", "server")
	completeFlag(cmd, "output", o.print.AllowedFormats()...)
	return cmd
}

func (o *rollbackOptions) run(cmd *cobra.Command, name string) error {
	spec, err := rollbackTo(o.to)
	if err != nil {
		return usageError(cmd, "%w", err)
	}
	if cmd.Flags().Changed("to") && o.to == "" {
		return usageError(cmd, "--to must not be empty")
	}
	var options metav1.CreateOptions
	switch o.dryRun {
	case "none":
	case "server":
		options.DryRun = []string{metav1.DryRunAll}
	default:
		return usageError(cmd, `--dry-run must be "none" or "server", not %q`, o.dryRun)
	}
	printer, err := o.printer()
	if err != nil {
		return usageError(cmd, "%w", err)
	}
	session, err := o.cluster.connect()
	if err != nil {
		return err
	}
	rollback, err := session.Images(session.namespace).Rollback(cmd.Context(), name, &v1beta1.ImageRollback{Spec: spec}, options)
	if err != nil {
		if cmd.Context().Err() != nil {
			return interruption("a rollback that was under way may have been done; see: kubectl image history " + name + " --namespace " + session.namespace)
		}
		return err
	}
	return printer.PrintObj(rollback, o.streams.Out)
}

// rollbackTo reads --to: a number, or else a digest, which the server looks at.
func rollbackTo(to string) (v1beta1.ImageRollbackSpec, error) {
	if to == "" || strings.Contains(to, ":") {
		return v1beta1.ImageRollbackSpec{Digest: to}, nil
	}
	number, err := strconv.ParseInt(to, 10, 32)
	if err != nil {
		return v1beta1.ImageRollbackSpec{}, fmt.Errorf("--to must be a digest, such as sha256:5a3771f19d8e, or a number, not %q", to)
	}
	return v1beta1.ImageRollbackSpec{Number: ptr.To(int32(number))}, nil
}

// printer returns what prints the outcome.
func (o *rollbackOptions) printer() (printers.ResourcePrinter, error) {
	if *o.print.OutputFormat == "" && *o.print.TemplatePrinterFlags.TemplateArgument == "" {
		return printers.ResourcePrinterFunc(o.printWords), nil
	}
	return o.print.ToPrinter()
}

// printWords prints for people what came of a rollback.
func (o *rollbackOptions) printWords(obj runtime.Object, out io.Writer) error {
	rollback := obj.(*v1beta1.ImageRollback)
	verb := "rolled back to"
	if rollback.Status.Unchanged {
		verb = "unchanged, it was already at"
	}
	ref := ptr.Deref(rollback.Status.HashReference, v1beta1.HashReference{})
	line := fmt.Sprintf("image.%s/%s %s %s", v1beta1.GroupName, rollback.Name, verb, fullDigestOf(ref.ImageReference))
	dryRun := o.dryRun == "server"
	if rollback.Status.RefreshSuspended {
		line += "; its refresh is suspended"
		if !dryRun {
			line += fmt.Sprintf(", resume it with: kubectl patch image %s --namespace %s --type merge --patch '{\"spec\":{\"suspend\":false}}'",
				rollback.Name, rollback.Namespace)
		}
	}
	if dryRun {
		line += " (server dry run)"
	}
	return printers.WriteEscaped(out, line+"\n")
}

// fullDigestOf returns the digest of a reference.
func fullDigestOf(reference string) string {
	if _, digest, found := strings.Cut(reference, "@"); found {
		return digest
	}
	return unknown
}
