// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/generated/clientset/versioned/scheme"
)

// handOff is the deadline of the request that starts an import. The server answers two seconds before it at the latest, with
// the import as far as it came: soon enough to show progress, and why the first attempt failed before the second one begins, two
// seconds later; and with time to spare for the admission of what is created.
const handOff = 4 * time.Second

// importOptions are the flags of one `kubectl image import`.
type importOptions struct {
	cluster *cluster
	streams genericiooptions.IOStreams
	clock   clock.Clock
	print   *genericclioptions.PrintFlags

	from             string
	mirror, insecure bool
	wait             bool
	dryRun           string
}

func newImportCommand(cluster *cluster, streams genericiooptions.IOStreams, clock clock.Clock) *cobra.Command {
	o := &importOptions{
		cluster: cluster, streams: streams, clock: clock,
		print: genericclioptions.NewPrintFlags("").WithTypeSetter(scheme.Scheme),
	}
	cmd := &cobra.Command{
		Use:                   "import NAME [--from=REFERENCE] [--mirror] [--insecure-source] [--wait] [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Import an image: record what its tag means now, and mirror it where asked",
		Long: `Import an image: record which digest its tag means now and, where the Image is mirrored, copy it into the mirror.

What is not given is as the Image says. An Image that does not exist is created when --from is given.

The command follows the import to its end, or to the first attempt that failed for a reason that seldom heals by
itself: nothing is there, access is refused, or the certificate does not verify. The cluster goes on trying then, up to
ten times, as it does when the command is interrupted: what ends an import is to delete its ImageImport.

Exit codes: 0 when the image was imported or is unchanged, 1 when that failed, 130 when the command was interrupted.`,
		Example: `  # Import the image myapp from where its spec says
  kubectl image import myapp

  # Create the image myapp, and mirror it into the cluster
  kubectl image import myapp --from=quay.io/company/myapp:latest --mirror

  # Start an import without waiting for its end
  kubectl image import myapp --wait=false

  # Print what to run
  kubectl image import myapp -o jsonpath='{.status.hashReference.imageReference}'`,
		Args:              imageName,
		ValidArgsFunction: cluster.completeNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.from, "from", "", "The `REFERENCE` to import from, as docker takes it, for example quay.io/company/myapp:latest. Absent: as the Image says.")
	flags.BoolVar(&o.mirror, "mirror", false, "Copy the image into the mirror, all platforms. Absent: as the Image says; --mirror=false does not.")
	flags.BoolVar(&o.insecure, "insecure-source", false, "The source may be reached over plain HTTP or TLS that does not verify. Absent: as the Image says.")
	flags.BoolVar(&o.wait, "wait", false, "Wait until the import ended, however often an attempt fails; --wait=false waits a few seconds at most, and fails only if the import has ended by then. Absent: wait until it ended or an attempt failed for a reason that seldom heals by itself.")
	flags.StringVar(&o.dryRun, "dry-run", "none", `Must be "none" or "server". With "server" the reference is resolved, and nothing is stored or copied.`)
	o.print.AddFlags(cmd)
	completeFlag(cmd, "from")
	completeFlag(cmd, "dry-run", "none", "server")
	completeFlag(cmd, "output", o.print.AllowedFormats()...)
	return cmd
}

func (o *importOptions) run(cmd *cobra.Command, name string) error {
	ctx, given := cmd.Context(), cmd.Flags().Changed
	requested := &v1beta1.ImageImport{Spec: v1beta1.ImageImportSpec{TargetImage: name, From: o.from}}
	if given("from") && o.from == "" {
		return usageError(cmd, "--from must not be empty")
	}
	if given("mirror") {
		requested.Spec.Mirror = &o.mirror
	}
	if given("insecure-source") {
		requested.Spec.Insecure = &o.insecure
	}
	var options metav1.CreateOptions
	switch o.dryRun {
	case "none":
	case "server":
		options.DryRun = []string{metav1.DryRunAll}
	default:
		return usageError(cmd, `--dry-run must be "none" or "server", not %q`, o.dryRun)
	}
	until := settled
	if given("wait") {
		until = ended
	}
	printer, err := o.printer()
	if err != nil {
		return usageError(cmd, "%w", err)
	}
	session, err := o.cluster.connect()
	if err != nil {
		return err
	}

	display := newDisplay(o.streams.ErrOut, "importing", name, o.clock)
	defer display.close()
	imp, err := session.startImport(ctx, requested, options, display)
	if err != nil {
		if ctx.Err() != nil {
			return interruption("an import that began nevertheless is shown by: kubectl get imageimports --namespace " + session.namespace)
		}
		return err
	}
	follow := len(options.DryRun) == 0 && (!given("wait") || o.wait)
	follower := newFollower(session.ImageImports(session.namespace), imp, display, o.clock)
	if follow {
		if err := follower.follow(ctx, until); err != nil {
			return followError(ctx, follower.imp, err)
		}
	} else if !ended(imp) {
		follower.reportAttempts()
	}
	display.close()

	imp = follower.imp
	failed := importError(imp)
	if !follow && !ended(imp) {
		failed = nil
	}
	if failed == nil || !o.inWords() {
		if err := printer.PrintObj(imp, o.streams.Out); err != nil {
			return err
		}
	}
	return failed
}

// startImport creates the import that is asked for, and returns it as far as it came until the hand-off.
func (s *session) startImport(ctx context.Context, imp *v1beta1.ImageImport, options metav1.CreateOptions,
	display display) (*v1beta1.ImageImport, error) {
	// Before the request is written, whoever logs the user in may need the terminal.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { display.start() }})
	request := s.RESTClient().Post().
		Namespace(s.namespace).Resource("images").Name(imp.Spec.TargetImage).SubResource("import").
		VersionedParams(&options, scheme.ParameterCodec).
		Body(imp)
	if len(options.DryRun) == 0 { // a dry run has nothing to hand off
		timeout := handOff
		if s.timeout > 0 {
			timeout = min(timeout, s.timeout)
		}
		// For the server alone: a login may take the client longer.
		request = request.Timeout(0).Param("timeout", timeout.String())
	}
	result := &v1beta1.ImageImport{}
	return result, request.Do(ctx).Into(result)
}

// inWords says whether the result is printed for people.
func (o *importOptions) inWords() bool {
	return *o.print.OutputFormat == "" && *o.print.TemplatePrinterFlags.TemplateArgument == ""
}

// printer returns what prints the import when it is not waited for any longer.
func (o *importOptions) printer() (printers.ResourcePrinter, error) {
	if o.inWords() {
		return printers.ResourcePrinterFunc(o.printWords), nil
	}
	return o.print.ToPrinter()
}

// printWords prints for people what an import led to that has not failed.
func (o *importOptions) printWords(obj runtime.Object, out io.Writer) error {
	imp := obj.(*v1beta1.ImageImport)
	if !ended(imp) {
		return printers.WriteEscaped(out, fmt.Sprintf("imageimport.%s/%s created\n", v1beta1.GroupName, imp.Name))
	}
	verb, dryRun := "imported from", ""
	switch {
	case o.dryRun == "server": // which mirrors nothing
		dryRun = " (server dry run)"
	case imported(imp).Reason == v1beta1.ReasonUnchanged:
		verb = "unchanged at"
	case ptr.Deref(imp.Spec.Mirror, false):
		verb = "imported and mirrored from"
	}
	ref := ptr.Deref(imp.Status.HashReference, v1beta1.HashReference{})
	return printers.WriteEscaped(out, fmt.Sprintf("image.%s/%s %s %s%s\n  %s\n",
		v1beta1.GroupName, imp.Spec.TargetImage, verb, ref.From, dryRun, ref.ImageReference))
}

// ended says whether an import is over, for good or for bad.
func ended(imp *v1beta1.ImageImport) bool { return imp.Status.CompletionTime != nil }

// settled says whether waiting longer for an import makes little sense: it ended, or its last attempt failed for a reason
// that seldom heals by itself.
func settled(imp *v1beta1.ImageImport) bool {
	return ended(imp) || v1beta1.ReasonSeldomHeals(imported(imp).Reason)
}

// imported returns the condition of an import; it is empty when nothing was said yet.
func imported(imp *v1beta1.ImageImport) metav1.Condition {
	if condition := meta.FindStatusCondition(imp.Status.Conditions, v1beta1.ConditionImported); condition != nil {
		return *condition
	}
	return metav1.Condition{}
}

// importError returns why an import that is not waited for any longer has failed, or nil.
func importError(imp *v1beta1.ImageImport) error {
	condition := imported(imp)
	if condition.Status == metav1.ConditionTrue {
		return nil
	}
	message := condition.Message
	attempts := len(imp.Status.ImportAttempts)
	if attempts > 0 { // the condition says more than that when another attempt follows
		message = imp.Status.ImportAttempts[attempts-1].Reason
	}
	prefix := fmt.Sprintf("importing %s: %s (%s", imp.Spec.TargetImage, message, condition.Reason)
	switch {
	case !ended(imp):
		return &failure{
			err:  fmt.Errorf("%s, attempt %d of %d)", prefix, attempts, tagger.MaxImportAttempts),
			hint: insecureHint(message) + "The cluster goes on trying, ten times in all, until the ImageImport is deleted; look at it with: " + lookAt(imp),
		}
	case attempts > 1:
		return fmt.Errorf("%s, after %d attempts)", prefix, attempts)
	default:
		return errors.New(prefix + ")")
	}
}

// insecureHint is how to ask for what a message advises where a certificate does not verify.
func insecureHint(message string) string {
	if !strings.Contains(message, "insecure: true") {
		return ""
	}
	return "Import with --insecure-source if the source is meant to be reached so.\n"
}

// followError says what became of an import that could not be followed to its end.
func followError(ctx context.Context, imp *v1beta1.ImageImport, err error) error {
	switch {
	case ctx.Err() != nil:
		return interruption("the import goes on in the cluster; look at it with: " + lookAt(imp) + "; end it with: " + end(imp))
	case errors.Is(err, errGone):
		return fmt.Errorf("importing %s: %w: %s", imp.Spec.TargetImage, err, imp.Name)
	default:
		message, _ := describe(err)
		return &failure{
			err:  fmt.Errorf("could not follow the import of %s: %s", imp.Spec.TargetImage, message),
			hint: "What became of it is shown by: " + lookAt(imp),
		}
	}
}

// lookAt is the command that shows an import.
func lookAt(imp *v1beta1.ImageImport) string {
	return fmt.Sprintf("kubectl describe imageimport %s --namespace %s", imp.Name, imp.Namespace)
}

// end is the command that ends an import.
func end(imp *v1beta1.ImageImport) string {
	return fmt.Sprintf("kubectl delete imageimport %s --namespace %s", imp.Name, imp.Namespace)
}
