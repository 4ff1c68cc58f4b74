// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"io"
	"time"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/rest"

	taggerv1beta1 "tagger.dev/tagger/pkg/generated/clientset/versioned/typed/tagger/v1beta1"
	"tagger.dev/tagger/pkg/version"
)

// cluster is the cluster that kubectl's own flags and files name.
type cluster struct {
	flags    *genericclioptions.ConfigFlags
	warnings io.Writer
}

// session is the API as a command uses it.
type session struct {
	taggerv1beta1.TaggerV1beta1Interface
	namespace string
	// timeout is how long the user lets a request take; 0 for as long as it needs.
	timeout time.Duration
	config  *rest.Config
}

// connect returns the API in the namespace that the command is about. Nothing is sent yet.
func (c *cluster) connect() (*session, error) {
	namespace, _, err := c.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	config, err := c.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = version.UserAgent("kubectl-image")
	config.WarningHandler = rest.NewWarningWriter(c.warnings, rest.WarningWriterOptions{
		Deduplicate: true,
		Color:       printers.AllowsColorOutput(c.warnings),
	})
	client, err := taggerv1beta1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &session{TaggerV1beta1Interface: client, namespace: namespace, timeout: config.Timeout, config: config}, nil
}
