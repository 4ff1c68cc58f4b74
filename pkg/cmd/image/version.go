// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/version"
)

// versionOptions are the flags of one `kubectl image version`.
type versionOptions struct {
	cluster *cluster
	streams genericiooptions.IOStreams

	client bool
	output string
}

// versions are what `kubectl image version` prints.
type versions struct {
	ClientVersion apimachineryversion.Info `json:"clientVersion"`
	ServerVersion *serverVersion           `json:"serverVersion,omitempty"`
}

// serverVersion is what a server says of itself.
type serverVersion struct {
	GitVersion string `json:"gitVersion"`
}

func newVersionCommand(cluster *cluster, streams genericiooptions.IOStreams) *cobra.Command {
	o := &versionOptions{cluster: cluster, streams: streams}
	cmd := &cobra.Command{
		Use:                   "version [--client] [--output=json|yaml] [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Print the versions of the plugin and of Tagger in the cluster",
		Example: `  # Print both
  kubectl image version

  # Print that of the plugin, and ask no server
  kubectl image version --client`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(cmd, "no arguments are expected, not %q", args)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	cmd.Flags().BoolVar(&o.client, "client", false, "Print the version of the plugin only, without asking the server.")
	cmd.Flags().StringVarP(&o.output, "output", "o", "", `Output format, "json" or "yaml".`)
	completeFlag(cmd, "output", "json", "yaml")
	return cmd
}

func (o *versionOptions) run(cmd *cobra.Command) error {
	format := o.words
	switch o.output {
	case "":
	case "json":
		format = func(v versions) ([]byte, error) {
			out, err := json.MarshalIndent(v, "", "  ")
			return append(out, '\n'), err
		}
	case "yaml":
		format = func(v versions) ([]byte, error) { return yaml.Marshal(v) }
	default:
		return usageError(cmd, `--output must be "json" or "yaml", not %q`, o.output)
	}
	known := versions{ClientVersion: version.Info()}
	var unanswered error
	if !o.client {
		if known.ServerVersion, unanswered = o.server(cmd.Context()); cmd.Context().Err() != nil {
			return interruption("nothing was changed")
		}
	}
	out, err := format(known)
	if err == nil {
		err = printers.WriteEscaped(o.streams.Out, string(out))
	}
	return errors.Join(err, unanswered)
}

func (*versionOptions) words(v versions) ([]byte, error) {
	out := fmt.Appendf(nil, "Client Version: %s\n", v.ClientVersion.GitVersion)
	if v.ServerVersion != nil {
		out = fmt.Appendf(out, "Server Version: %s\n", v.ServerVersion.GitVersion)
	}
	return out, nil
}

// server asks Tagger for its version. Its API description has it, which passes kube-apiserver as it is, where /version is of
// Kubernetes.
func (o *versionOptions) server(ctx context.Context) (*serverVersion, error) {
	session, err := o.cluster.connect()
	if err != nil {
		return nil, err
	}
	answer, err := session.RESTClient().Get().AbsPath("/openapi/v3/apis", v1beta1.SchemeGroupVersion.String()).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var description struct {
		Info struct {
			Version string `json:"version"`
		} `json:"info"`
	}
	if err := json.Unmarshal(answer, &description); err != nil || description.Info.Version == "" {
		return nil, errors.New("the server does not say its version")
	}
	return &serverVersion{GitVersion: description.Info.Version}, nil
}
