// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package credentialprovider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"tagger.dev/tagger/pkg/version"
)

// maxRequest bounds a request in bytes. A token has some kilobytes, and the annotations of a service account 256 KiB at most.
const maxRequest = 1 << 20

const usage = `Usage: tagger-credential-provider [--help | --version]

The kubelet starts this program when it pulls from Tagger's registry endpoint. It reads a CredentialProviderRequest of
credentialprovider.kubelet.k8s.io/v1, and answers the token of the service account in it as the credential for the registry of the
image. There is nothing to set: which images, and which audience the token has, says the kubelet's CredentialProviderConfig.
`

// Run answers the request that is read from stdin. With an argument it says what the program is.
//
// No error has the token in it: the kubelet logs what this program prints to stderr.
func Run(args []string, stdin io.Reader, stdout io.Writer, now time.Time) error {
	if len(args) > 0 {
		return explain(args, stdout)
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxRequest+1))
	if err != nil {
		return fmt.Errorf("reading the request from stdin: %w", err)
	}
	answer, err := respond(data, now)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(stdout).Encode(answer); err != nil {
		return fmt.Errorf("writing the response to stdout: %w", err)
	}
	return nil
}

// explain answers people, who may have typed it.
func explain(args []string, stdout io.Writer) error {
	text := ""
	switch args[0] {
	case "--version":
		text = version.Info().GitVersion + "\n"
	case "--help", "-h":
		text = usage
	}
	if text == "" || len(args) > 1 {
		return errors.New("there are no arguments but --help and --version: leave out args in the kubelet's CredentialProviderConfig")
	}
	_, err := io.WriteString(stdout, text)
	return err
}
