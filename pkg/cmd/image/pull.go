// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"tagger.dev/tagger/pkg/cmd/image/local"
)

// pullOptions are the flags of one `kubectl image pull`.
type pullOptions struct{ transferOptions }

func newPullCommand(cluster *cluster, streams genericiooptions.IOStreams, clock clock.Clock) *cobra.Command {
	o := &pullOptions{transferOptions{cluster: cluster, streams: streams, clock: clock}}
	cmd := &cobra.Command{
		Use:                   "pull NAME[:TAG|@DIGEST] [--to=DESTINATION] [--via=auto|registry|apiserver] [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Pull an image of the cluster to this machine",
		Long: `Pull an image of the cluster to this machine: the current one of the image NAME, or the one of a tag or a digest, such as
'kubectl image history NAME -o wide' shows them.

NAME may be NAMESPACE/NAME, or HOST:PORT/NAMESPACE/NAME as in a reference. The image gets into the store of podman or
docker under the same name, unless --to says otherwise:

  containers-storage:NAME[:TAG]     podman's and buildah's store
  docker-daemon:NAME[:TAG]          docker's store
  oci:FOLDER[:REFERENCE]            a folder in the OCI layout; what it has already is not fetched again
  oci-archive:FILE[:REFERENCE]      such a folder as an archive
  docker-archive:FILE[:REFERENCE]   an archive for 'docker load' or 'podman load'

What is pulled by digest gets the tag sha256-, followed by the first 12 digits, where --to names none.

Of an image for several platforms an engine's store and docker's archive get the one for this machine's architecture; OCI
layouts and archives get all. Each byte is verified.

No account is needed but that of the kubeconfig, with the right to get images/layers. The image comes from the registry
port of the cluster or, where that cannot be reached, through kube-apiserver.

Exit codes: 0 when the image was pulled, 1 when that failed, 130 when the command was interrupted.`,
		Example: `  # Pull the current myapp into podman or docker
  kubectl image pull myapp

  # Pull it into docker by another name
  kubectl image pull team/myapp --to=docker-daemon:debug:1

  # Pull what ran before, to myapp:sha256-5a3771f19d8e
  kubectl image pull myapp@sha256:5a3771f19d8e0b9fe1eb3b4f9ee6d0a4a3fbd1a4ba0b7bb1cc6d3c08e0f8e2f7

  # Pull all platforms into a folder
  kubectl image pull myapp --to=oci:./myapp`,
		Args:              imageName,
		ValidArgsFunction: cluster.completeNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.here.add(cmd, "to", "The `DESTINATION` of the image. Absent: podman's or docker's store, whichever runs here.")
	o.platform.add(cmd, "Pull one platform only, as OS/ARCHITECTURE. Absent: all, or linux and this machine's architecture where only one fits.")
	o.route.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *pullOptions) run(cmd *cobra.Command, arg string) error {
	ctx := cmd.Context()
	name, err := parseName(arg)
	if err != nil {
		return usageError(cmd, "%w", err)
	}
	what, err := o.read(cmd, name)
	if err != nil {
		return err
	}
	session, to, platform := what.session, what.here, what.platform
	name = what.name
	if to == nil {
		if to, err = intoStore(ctx, name); err != nil {
			return stopped(ctx, err)
		}
	}
	if name.tag == "" {
		*to = to.Tagged(name.tagHere())
	}

	display := newDisplay(o.streams.ErrOut, "pulling", name.name, o.clock)
	defer display.close()
	routes := &routes{routeFlags: o.route, session: session, clock: o.clock, say: display.say, answerTimeout: answerTimeout}
	route, err := routes.find(ctx, name)
	if err != nil {
		return stopped(ctx, err)
	}
	display.say(fmt.Sprintf("pulling %s to %s by way of %s", name, to, route.words))
	display.start()
	root, err := o.resolve(ctx, route, name, *to, platform)
	if err != nil {
		return transferError(ctx, session, name, toPull, err)
	}
	transfer, err := newTransfer(ctx, route, root, display, o.clock)
	if err != nil {
		return transferError(ctx, session, name, toPull, err)
	}
	done := "pulled to " + to.String()
	if present(ctx, transfer, *to) {
		done = "is there already, as " + to.String()
	} else if err := o.move(ctx, session, transfer, name, *to); err != nil {
		return err
	}
	display.close()
	return o.output.print(o.streams.Out, newTransferred(name, route, root, transfer.total(), to.String()), done)
}

// resolve returns what is to be pulled.
func (o *pullOptions) resolve(ctx context.Context, route *route, name remoteName, to local.Location, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	root, err := route.Resolve(ctx, name.version())
	if err != nil {
		return root, err
	}
	if platform == nil {
		if to.TakesIndex() || root.MediaType != ocispec.MediaTypeImageIndex && root.MediaType != "application/vnd.docker.distribution.manifest.list.v2+json" {
			return root, nil
		}
		platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	part, err := optionsFor(platform).MapRoot(ctx, route, root)
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return root, err
	}
	if err != nil {
		return root, &failure{
			err:  fmt.Errorf("there is no %s/%s in %s", platform.OS, platform.Architecture, name),
			hint: "Choose another with --platform=OS/ARCHITECTURE, or pull all of them with --to=oci:FOLDER",
		}
	}
	part.Platform, part.Annotations = nil, nil // they are of the list
	return part, nil
}

// move moves the image to where it belongs.
func (o *pullOptions) move(ctx context.Context, session *session, transfer *transfer, name remoteName, to local.Location) error {
	parent := ""
	if !to.InStore() {
		parent = filepath.Dir(to.Path) // a disk that has the place for the archive has it for what is in it
	}
	scratch := ""
	if to.Transport != local.OCI {
		var err error
		if scratch, err = os.MkdirTemp(parent, ".kubectl-image-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(scratch) }()
	}
	destination, err := local.Create(to, scratch)
	if err != nil {
		return stopped(ctx, err)
	}
	defer destination.Close()
	if err := transfer.pull(ctx, destination); err != nil {
		if to.Transport != local.OCI { // a layout keeps what it got
			err = stopped(ctx, err)
		}
		return transferError(ctx, session, name, toPull, err)
	}
	if err := destination.Finish(ctx, transfer.root, name.onHere(), name.tagHere()); err != nil {
		return stopped(ctx, fmt.Errorf("writing %s: %w", to, err))
	}
	return nil
}

// present says whether an engine has the image already, by that very name.
func present(ctx context.Context, transfer *transfer, to local.Location) bool {
	if !to.InStore() {
		return false
	}
	id := local.ID(ctx, to)
	if id == "" {
		return false
	}
	body, err := content.FetchAll(ctx, transfer, transfer.root)
	if err != nil {
		return false
	}
	var manifest ocispec.Manifest
	if json.Unmarshal(body, &manifest) != nil {
		return false
	}
	return id == transfer.root.Digest.Encoded() || id == manifest.Config.Digest.Encoded()
}

// intoStore returns the container engine that an image goes to where nothing is said.
func intoStore(ctx context.Context, name remoteName) (*local.Location, error) {
	engines := local.Engines(ctx)
	switch len(engines) {
	case 0:
		return nil, &failure{err: fmt.Errorf("neither podman nor docker runs here to take %s", name.onHere()),
			hint: "Say where to put it, for example: --to=oci:" + name.name}
	case 1:
		return &local.Location{Transport: engines[0], Reference: name.onHere()}, nil
	}
	return nil, &failure{err: errors.New("podman and docker both run here"),
		hint: "Say which is to have it: --to=" + strings.Join(engines, ":"+name.onHere()+" or --to=") + ":" + name.onHere()}
}
