// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned/scheme"
)

// wide is the output format of tables with all columns.
const wide = "wide"

// shortDigest is how many digits of a digest tell the entries of a history apart.
const shortDigest = 12

// historyOptions are the flags of one `kubectl image history`.
type historyOptions struct {
	cluster *cluster
	streams genericiooptions.IOStreams
	clock   clock.PassiveClock
	print   *genericclioptions.PrintFlags
}

func newHistoryCommand(cluster *cluster, streams genericiooptions.IOStreams, clock clock.PassiveClock) *cobra.Command {
	o := &historyOptions{
		cluster: cluster, streams: streams, clock: clock,
		print: genericclioptions.NewPrintFlags("").WithTypeSetter(scheme.Scheme),
	}
	cmd := &cobra.Command{
		Use:                   "history NAME [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Show which digests an image's tag has meant, and since when",
		Long: `Show which digests an image's tag has meant, newest first.

The current one is marked by an asterisk. An import that finds the same digest again refreshes the time of the current
one and adds none; a rollback puts an earlier digest in front once more. The numbers, and the digests as they are shown,
are what 'kubectl image rollback --to' takes.`,
		Example: `  # Show the history of the image myapp
  kubectl image history myapp

  # Show sizes, platforms and sources as well
  kubectl image history myapp -o wide

  # Print what ran before
  kubectl image history myapp -o jsonpath='{.status.hashReferences[1].imageReference}'`,
		Args:              imageName,
		ValidArgsFunction: cluster.completeNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.print.AddFlags(cmd)
	completeFlag(cmd, "output", append(o.print.AllowedFormats(), wide)...)
	output := cmd.Flags().Lookup("output")
	output.Usage = strings.Replace(output.Usage, ").", ", "+wide+"). All but wide print the Image.", 1)
	return cmd
}

func (o *historyOptions) run(cmd *cobra.Command, name string) error {
	printer, err := o.printer()
	if err != nil {
		return usageError(cmd, "%w", err)
	}
	session, err := o.cluster.connect()
	if err != nil {
		return err
	}
	image, err := session.Images(session.namespace).Get(cmd.Context(), name, metav1.GetOptions{})
	if err != nil {
		if cmd.Context().Err() != nil {
			return interruption("nothing was changed")
		}
		return err
	}
	return printer.PrintObj(image, o.streams.Out)
}

// printer returns what prints an Image: its history, unless another format is asked for.
func (o *historyOptions) printer() (printers.ResourcePrinter, error) {
	format := *o.print.OutputFormat
	if format == wide || format == "" && *o.print.TemplatePrinterFlags.TemplateArgument == "" {
		return printers.ResourcePrinterFunc(o.printTable), nil
	}
	return o.print.ToPrinter()
}

// printTable prints the history of an Image for people.
func (o *historyOptions) printTable(obj runtime.Object, out io.Writer) error {
	image := obj.(*v1beta1.Image)
	if len(image.Status.HashReferences) == 0 {
		return printers.WriteEscaped(o.streams.ErrOut,
			fmt.Sprintf("image.%s/%s has no history yet: %s\n", v1beta1.GroupName, image.Name, whyNone(image)))
	}
	return printers.NewTablePrinter(printers.PrintOptions{Wide: *o.print.OutputFormat == wide}).PrintObj(historyTable(image, o.clock.Now()), out)
}

// whyNone says why an Image has no history.
func whyNone(image *v1beta1.Image) string {
	condition := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionImported)
	switch {
	case condition != nil && condition.Status == metav1.ConditionFalse:
		return fmt.Sprintf("the last import failed: %s (%s)", condition.Message, condition.Reason)
	case image.Spec.From == "":
		return "nothing was pushed to it, and it names no source to import from"
	default:
		return "no import of it has ended; see: kubectl get imageimports --namespace " + image.Namespace
	}
}

// historyTable returns the history of an Image as it is seen at a time.
func historyTable(image *v1beta1.Image, now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "#", Type: "string"},
		{Name: "Digest", Type: "string"},
		{Name: "Imported", Type: "string"},
		{Name: "From", Type: "string"},
		{Name: "Size", Type: "string", Priority: 1},
		{Name: "Platforms", Type: "string", Priority: 1},
		{Name: "Media Type", Type: "string", Priority: 1},
		{Name: "Source", Type: "string", Priority: 1},
		{Name: "Image Reference", Type: "string"},
	}}
	for i, ref := range image.Status.HashReferences {
		mark := "  "
		if i == 0 {
			mark = "* "
		}
		size := unknown
		if ref.Size > 0 {
			size = units.BytesSize(float64(ref.Size))
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{
			fmt.Sprintf("%s%d", mark, i+1),
			digestOf(ref.ImageReference),
			duration.HumanDuration(now.Sub(ref.ImportedAt.Time)) + " ago",
			ref.From,
			size,
			orUnknown(strings.Join(ref.Platforms, ",")),
			orUnknown(ref.MediaType),
			orUnknown(ref.SourceReference),
			ref.ImageReference,
		}})
	}
	return table
}

// unknown stands for what is not known, as in kubectl's own tables.
const unknown = "<unknown>"

func orUnknown(text string) string {
	if text == "" {
		return unknown
	}
	return text
}

// digestOf returns the digest of a reference, shortened.
func digestOf(reference string) string {
	_, digest, found := strings.Cut(reference, "@")
	if !found {
		return unknown
	}
	algorithm, hex, _ := strings.Cut(digest, ":")
	return algorithm + ":" + hex[:min(len(hex), shortDigest)]
}
