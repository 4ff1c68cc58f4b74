// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
)

const (
	// CredentialProgram is the name by which docker, podman and others start what gives them credentials: the plugin itself does,
	// where it is called so.
	CredentialProgram = "docker-credential-" + helperName
	// helperName is how the files of these programs call it.
	helperName = "kubectl-image"
	// credentialVerb is the hidden verb that the plugin has then.
	credentialVerb = "credential-helper" //nolint:gosec // G101: it is a name
	// notThere is what such programs must say of a host that they do not know, for the client to go on without.
	notThere = "credentials not found in native keychain"
	// maxHost is how much is read of what is asked for, in bytes.
	maxHost = 4096
)

// CredentialArgs returns the arguments by which the plugin gives others credentials.
func CredentialArgs(args []string) []string { return append([]string{credentialVerb}, args...) }

// credential is an answer of the protocol of docker-credential-helpers.
type credential struct {
	ServerURL string `json:"ServerURL"`
	Username  string `json:"Username"`
	Secret    string `json:"Secret"`
}

// newCredentialCommand returns the verb that speaks the protocol of docker-credential-helpers: the host comes on standard input, and
// what is to be said of a failure goes to standard output.
func newCredentialCommand(cluster *cluster, streams genericiooptions.IOStreams) *cobra.Command {
	verbs := []string{"get", "store", "erase", "list"}
	return &cobra.Command{
		Use:    credentialVerb + " get|store|erase|list",
		Short:  "Give docker, podman and others a token for the registry port of the cluster",
		Hidden: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(verbs, args[0]) {
				return usageError(cmd, "one of %q is expected", verbs)
			}
			return nil
		},
		ValidArgs: verbs,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := speakCredential(cmd.Context(), cluster, streams, args[0])
			if unknown := (*unknownHostError)(nil); errors.As(err, &unknown) {
				_, _ = fmt.Fprintln(streams.Out, notThere)
			} else if err != nil {
				message, _ := describe(err)
				_ = printers.WriteEscaped(streams.Out, message+"\n") // which is what the client repeats
			}
			return err
		},
	}
}

// speakCredential does what a verb of the protocol says.
func speakCredential(ctx context.Context, cluster *cluster, streams genericiooptions.IOStreams, verb string) error {
	asked, err := io.ReadAll(io.LimitReader(streams.In, maxHost))
	if err != nil {
		return err
	}
	switch verb {
	case "get":
		return giveCredential(ctx, cluster, streams.Out, strings.TrimSpace(string(asked)))
	case "list":
		_, err := fmt.Fprintln(streams.Out, "{}")
		return err
	case "erase": // there is nothing that stays
		return nil
	default:
		return errors.New("nothing is stored here: the kubeconfig says who you are; remove the host from credHelpers to log in otherwise")
	}
}

// unknownHostError is of a host that is asked for and is not the cluster's.
type unknownHostError struct {
	asked, published string
}

func (e *unknownHostError) Error() string {
	return fmt.Sprintf("the cluster of the current context publishes %q, not %q", e.published, e.asked)
}

// giveCredential answers with a token, where the host is the one that the cluster publishes: it says which that is by a token.
func giveCredential(ctx context.Context, cluster *cluster, out io.Writer, asked string) error {
	session, err := cluster.connect()
	if err != nil {
		return err
	}
	token, err := session.registryToken(ctx)
	if err != nil {
		return err
	}
	host := strings.TrimSuffix(strings.TrimPrefix(asked, "https://"), "/")
	if token.Status.Registry.Host == "" || host != token.Status.Registry.Host {
		return &unknownHostError{asked: host, published: token.Status.Registry.Host}
	}
	return json.NewEncoder(out).Encode(credential{ServerURL: asked, Username: tokenUser, Secret: token.Status.Token}) //nolint:gosec // G117: that is what is asked for
}
