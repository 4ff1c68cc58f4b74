// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"
	"oras.land/oras-go/v2/errdef"

	"tagger.dev/tagger/pkg/cmd/image/local"
)

// readInterval is how often it is looked how much of an image a container engine has saved.
const readInterval = 500 * time.Millisecond

// pushOptions are the flags of one `kubectl image push`.
type pushOptions struct{ transferOptions }

func newPushCommand(cluster *cluster, streams genericiooptions.IOStreams, clock clock.Clock) *cobra.Command {
	o := &pushOptions{transferOptions{cluster: cluster, streams: streams, clock: clock}}
	cmd := &cobra.Command{
		Use:                   "push NAME[:TAG] [--from=SOURCE] [--via=auto|registry|apiserver] [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Push an image of this machine into the cluster",
		Long: `Push an image of this machine into the cluster, where it becomes the newest entry of the history of the image NAME.

NAME may be NAMESPACE/NAME, or HOST:PORT/NAMESPACE/NAME as in a reference; the tag is latest where none is given. An image
that does not exist in the cluster yet is created. What is pushed is what podman or docker calls so, unless --from says
otherwise:

  containers-storage:NAME[:TAG]     podman's and buildah's store
  docker-daemon:NAME[:TAG]          docker's store
  oci:FOLDER[:REFERENCE]            a folder in the OCI layout
  oci-archive:FILE[:REFERENCE]      such a folder as an archive
  docker-archive:FILE[:REFERENCE]   what 'docker save' wrote

Whatever its tag, what is pushed is the current one from then on, and so what the tag latest is.

An image for several platforms is pushed with all of them. Nothing is changed on the way, but that layers which docker
or podman keeps uncompressed are compressed. What the cluster has is not sent again: a connection that breaks is taken up where it
broke, if the registry can do that, and a push that was interrupted goes on, by whole blobs, when it is repeated.

No account is needed but that of the kubeconfig, with the right to update images/layers. The image goes to the registry
port of the cluster or, where that cannot be reached, through kube-apiserver.

Exit codes: 0 when the image was pushed, 1 when that failed, 130 when the command was interrupted.`,
		Example: `  # Push what podman or docker calls myapp
  kubectl image push myapp

  # Push it by another name, and to another namespace
  kubectl image push team/myapp:v2 --from=docker-daemon:localhost/build:3

  # Push a folder that buildah, BuildKit or skopeo wrote, with all platforms
  kubectl image push myapp --from=oci:./build

  # Push an archive
  kubectl image push myapp --from=docker-archive:myapp.tar

  # Push, and print what to run
  kubectl image push myapp -o reference`,
		Args:              imageName,
		ValidArgsFunction: cluster.completeNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.here.add(cmd, "from", "The `SOURCE` to push. Absent: the image that podman or docker calls as NAME says.")
	o.platform.add(cmd, "Push one platform of the source only, as OS/ARCHITECTURE. Absent: all.")
	o.route.add(cmd)
	o.output.add(cmd)
	return cmd
}

func (o *pushOptions) run(cmd *cobra.Command, arg string) error {
	ctx := cmd.Context()
	name, err := parseName(arg)
	if err != nil {
		return usageError(cmd, "%w", err)
	}
	if name.digest != "" {
		return usageError(cmd, "a push gives a tag, not a digest: %s:TAG", name.typed)
	}
	what, err := o.read(cmd, name)
	if err != nil {
		return err
	}
	session, from, platform := what.session, what.here, what.platform
	name = what.name
	if from == nil {
		if from, err = inStores(ctx, name); err != nil {
			return stopped(ctx, err)
		}
	}

	display := newDisplay(o.streams.ErrOut, "pushing", name.name, o.clock)
	defer display.close()
	routes := &routes{routeFlags: o.route, session: session, clock: o.clock, say: display.say, answerTimeout: answerTimeout}
	route, err := routes.find(ctx, name)
	if err != nil {
		return stopped(ctx, err)
	}
	scratch, err := os.MkdirTemp("", "kubectl-image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	display.say(fmt.Sprintf("pushing %s to %s by way of %s", from, name, route.words))
	display.start()
	source, err := openSource(ctx, *from, scratch, display, o.clock)
	if err != nil {
		return stopped(ctx, err)
	}
	defer func() { _ = source.Close() }() // it was read
	if platform != nil {
		if source.Root, err = optionsFor(platform).MapRoot(ctx, source, source.Root); err != nil {
			if errors.Is(err, errdef.ErrNotFound) {
				err = fmt.Errorf("there is no %s in %s", o.platform.text, from)
			}
			return stopped(ctx, err)
		}
	}
	transfer, err := newTransfer(ctx, source, source.Root, display, o.clock)
	if err == nil {
		err = transfer.push(ctx, newPusher(route.Repository), name.tag)
	}
	if err != nil {
		return transferError(ctx, session, name, toPush, err)
	}
	display.close()
	pushed := newTransferred(name, route, source.Root, transfer.total(), from.String())
	if recorded := session.recorded(ctx, pushed); recorded != "" {
		pushed.Reference = recorded
	}
	return o.output.print(o.streams.Out, pushed, "pushed")
}

// openSource opens what is to be pushed. A container engine takes its time to save an image, and says nothing: it is shown how much
// there is so far.
func openSource(ctx context.Context, from local.Location, scratch string, display display, clock clock.Clock) (*local.Source, error) {
	if !from.InStore() {
		return local.Open(ctx, from, scratch)
	}
	opened, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			display.read(from.Program(), bytesIn(scratch))
			timer := clock.NewTimer(readInterval)
			select {
			case <-opened:
				timer.Stop()
				return
			case <-timer.C():
			}
		}
	}()
	source, err := local.Open(ctx, from, scratch)
	close(opened)
	<-ended
	return source, err
}

// bytesIn returns how many bytes the files of a folder have, as far as they are there.
func bytesIn(folder string) (sum int64) {
	files, _ := os.ReadDir(folder)
	for _, file := range files {
		if info, err := file.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// recorded returns what the history of an Image says is to be run of what was pushed; nothing where that cannot be read.
func (s *session) recorded(ctx context.Context, pushed transferred) string {
	image, err := s.Images(pushed.Namespace).Get(ctx, pushed.Image, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	for _, entry := range image.Status.HashReferences {
		if fullDigestOf(entry.ImageReference) == pushed.Digest.String() {
			return entry.ImageReference
		}
	}
	return ""
}

// stopped returns an error, or that the user ended the command.
func stopped(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return interruption("nothing was changed")
	}
	return err
}

// inStores returns which container engine has an image that is called as the user typed.
func inStores(ctx context.Context, name remoteName) (*local.Location, error) {
	engines := local.Engines(ctx)
	var found []local.Location
	for _, transport := range engines {
		if where := (local.Location{Transport: transport, Reference: name.onHere()}); local.Has(ctx, where) {
			found = append(found, where)
		}
	}
	switch {
	case len(engines) == 0:
		return nil, &failure{err: fmt.Errorf("neither podman nor docker runs here that %s could be of", name.onHere()),
			hint: "Say what to push: --from=" + strings.Join(local.Transports(), ":…|") + ":…"}
	case len(found) == 0:
		return nil, &failure{err: fmt.Errorf("there is no image %s in %s", name.onHere(), strings.Join(engines, " or ")),
			hint: "Say what to push, where it is called otherwise: --from=" + engines[0] + ":IMAGE"}
	case len(found) > 1:
		return nil, &failure{err: fmt.Errorf("podman and docker both have an image %s", name.onHere()),
			hint: fmt.Sprintf("Say which to push: --from=%s or --from=%s", found[0], found[1])}
	}
	return &found[0], nil
}
