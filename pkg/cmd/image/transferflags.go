// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"

	"tagger.dev/tagger/pkg/cmd/image/local"
)

// transferOptions are the flags that a push and a pull have both.
type transferOptions struct {
	cluster *cluster
	streams genericiooptions.IOStreams
	clock   clock.Clock

	route    routeFlags
	here     locationFlag
	platform platformFlag
	output   outputFlag
}

// asked is what a command line asks to be moved.
type asked struct {
	session *session
	name    remoteName
	// here and platform are nil where nothing is said of them.
	here     *local.Location
	platform *ocispec.Platform
}

// read reads the flags, and connects to the cluster when they are good.
func (o *transferOptions) read(cmd *cobra.Command, name remoteName) (a asked, err error) {
	if a.here, err = o.here.parse(cmd); err != nil {
		return a, err
	}
	if a.platform, err = o.platform.parse(cmd); err != nil {
		return a, err
	}
	if err := o.route.validate(cmd, name); err != nil {
		return a, err
	}
	if err := o.output.validate(cmd); err != nil {
		return a, err
	}
	if a.session, err = o.cluster.connect(); err != nil {
		return a, err
	}
	a.name, err = name.inNamespace(cmd, a.session.namespace)
	return a, err
}
