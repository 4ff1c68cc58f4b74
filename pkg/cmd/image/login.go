// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/util/homedir"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// The programs whose files a login writes.
const (
	forDocker = "docker"
	forPodman = "podman"
)

// loginOptions are the flags of one `kubectl image login`.
type loginOptions struct {
	cluster *cluster
	streams genericiooptions.IOStreams
	getenv  func(string) string

	program  string
	authfile string
	helper   bool
}

func newLoginCommand(cluster *cluster, streams genericiooptions.IOStreams, getenv func(string) string) *cobra.Command {
	o := &loginOptions{cluster: cluster, streams: streams, getenv: getenv}
	cmd := &cobra.Command{
		Use:                   "login [--for=docker|podman] [--authfile=FILE] [--credential-helper] [options]",
		DisableFlagsInUseLine: true,
		Short:                 "Let docker, podman and others into the registry port of the cluster",
		Long: `Let docker, podman and others into the registry port of the cluster, as whom the kubeconfig names.

The cluster gives a token that is good for an hour at most, and only there. It is written where docker and podman keep
what 'docker login' and 'podman login' are told, and is never printed: to docker's config.json, which podman, buildah,
skopeo, crane, oras, regctl, helm and cosign read as well, or to podman's auth.json. When it has ended, log in again.

With --credential-helper no token is written: these programs then ask the plugin for one whenever they need it, by a
program ` + CredentialProgram + ` in the PATH, which is the plugin by another name:

  sudo ln --symbolic "$(command -v kubectl-image)" /usr/local/bin/` + CredentialProgram + `

It asks the cluster of the current context of the kubeconfig.

Where the registry port's certificate is of the cluster's own authority, that is written to where podman, buildah and
skopeo look for it, and it is said what else to do for docker.`,
		Example: `  # Log in, then pull with docker what runs in the cluster
  kubectl image login
  docker pull "$(kubectl get image myapp -o jsonpath='{.status.hashReferences[0].imageReference}')"

  # Log podman in for good
  kubectl image login --for=podman --credential-helper`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(cmd, "no arguments are expected, not %q", args)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.program, "for", "", `Whose file to write: "docker" or "podman". Absent: podman's where that is installed and docker is not, else docker's.`)
	flags.StringVar(&o.authfile, "authfile", "", "The `FILE` to write. Absent: $REGISTRY_AUTH_FILE or auth.json for podman, config.json in $DOCKER_CONFIG or ~/.docker for docker.")
	flags.BoolVar(&o.helper, "credential-helper", false, "Write no token, but that the plugin is asked for one whenever it is needed.")
	completeFlag(cmd, "for", forDocker, forPodman)
	return cmd
}

func (o *loginOptions) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	switch o.program {
	case "":
		o.program = forDocker
		if installed(forPodman) && !installed(forDocker) {
			o.program = forPodman
		}
	case forDocker, forPodman:
	default:
		return usageError(cmd, "--for must be %q or %q, not %q", forDocker, forPodman, o.program)
	}
	file, err := o.file()
	if err != nil {
		return err
	}
	session, err := o.cluster.connect()
	if err != nil {
		return err
	}
	token, err := session.registryToken(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	host := token.Status.Registry.Host
	if host == "" {
		return &failure{err: errors.New("the cluster does not say where its registry port is"),
			hint: "Its administrator says so by --registry-external-host of tagger-apiserver."}
	}
	if o.helper {
		err = o.writeHelper(file, host)
	} else {
		err = o.writeToken(ctx, file, host, token)
	}
	if err != nil {
		return stopped(ctx, fmt.Errorf("writing %s: %w", file, err))
	}
	return o.trust(host, token.Status.Registry.CABundle)
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// file returns the file that keeps the credentials of the program.
func (o *loginOptions) file() (string, error) {
	switch {
	case o.authfile != "":
		return o.authfile, nil
	case o.program == forPodman && o.getenv("REGISTRY_AUTH_FILE") != "":
		return o.getenv("REGISTRY_AUTH_FILE"), nil
	case o.program == forPodman && runtime.GOOS == "linux" && o.getenv("XDG_RUNTIME_DIR") != "":
		return filepath.Join(o.getenv("XDG_RUNTIME_DIR"), "containers", "auth.json"), nil
	case o.program == forPodman && runtime.GOOS == "linux":
		return fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()), nil
	case o.program == forPodman:
		return o.inHome(".config", "containers", "auth.json")
	case o.getenv("DOCKER_CONFIG") != "":
		return filepath.Join(o.getenv("DOCKER_CONFIG"), "config.json"), nil
	default:
		return o.inHome(".docker", "config.json")
	}
}

func (o *loginOptions) inHome(parts ...string) (string, error) {
	home := homedir.HomeDir()
	if home == "" {
		return "", errors.New("it is not known where your home folder is; say where to write with --authfile=FILE")
	}
	return filepath.Join(append([]string{home}, parts...)...), nil
}

// writeToken writes a token as the program itself would after its own login: to what is set there for this host or for all, or
// else to the file.
func (o *loginOptions) writeToken(ctx context.Context, file, host string, token *v1beta1.RegistryToken) error {
	// Not by ourselves, whom an earlier login may have set: we store nothing. What somebody else gives credentials by stays.
	if err := unsetHelper(file, host); err != nil {
		return err
	}
	store, err := credentials.NewStore(followed(file), credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return err
	}
	if err := store.Put(ctx, host, auth.Credential{Username: tokenUser, Password: token.Status.Token}); err != nil {
		return err
	}
	return o.say("logged in to %s until %s, in %s", host, token.Status.ExpirationTimestamp.Local().Format(time.RFC3339), o.read(file))
}

// writeHelper has the programs that read a file ask the plugin.
func (o *loginOptions) writeHelper(file, host string) error {
	if err := setHelper(file, host); err != nil {
		return err
	}
	if !installed(CredentialProgram) {
		if err := o.warn("%s is not in the PATH yet; make it so with: sudo ln --symbolic \"$(command -v kubectl-image)\" /usr/local/bin/%s",
			CredentialProgram, CredentialProgram); err != nil {
			return err
		}
	}
	return o.say("logged in to %s by the credential helper %s, in %s", host, CredentialProgram, o.read(file))
}

// read says who reads a file, where it is one that programs read by themselves.
func (o *loginOptions) read(file string) string {
	switch {
	case o.authfile != "":
		return file
	case o.program == forPodman:
		return file + ", which podman, buildah and skopeo read"
	default:
		return file + ", which docker, podman and others read"
	}
}

// trust has the programs trust the authority of the registry port, as far as that can be done without root.
func (o *loginOptions) trust(host string, authority []byte) error {
	if len(authority) == 0 {
		return nil // it is one that everybody trusts
	}
	if runtime.GOOS == "windows" {
		return o.warn("the registry port's certificate is of the cluster's own authority, which docker and podman must be told to trust")
	}
	folder, err := o.inHome(".config", "containers", "certs.d", host)
	if err != nil {
		return err
	}
	file := filepath.Join(folder, "ca.crt")
	known, err := os.ReadFile(filepath.Clean(file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(known, authority) {
		if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // G301: it is public
			return err
		}
		if err := replaceFile(file, authority, 0o644); err != nil {
			return err
		}
	}
	if err := o.say("podman, buildah and skopeo trust its certificate, by %s", file); err != nil {
		return err
	}
	if !installed(forDocker) && o.program != forDocker {
		return nil
	}
	docker := "/etc/docker/certs.d/" + host
	if runtime.GOOS == "darwin" {
		docker = "~/.docker/certs.d/" + host
		return o.warn("docker trusts it after: mkdir -p %s && cp %s %s/ca.crt, and a restart of docker", docker, file, docker)
	}
	if there, err := os.ReadFile(filepath.Join(docker, "ca.crt")); err == nil && bytes.Equal(there, authority) {
		return nil
	}
	return o.warn("docker trusts it after: sudo install -D --mode 644 %s %s/ca.crt\n"+
		"programs in Go, such as crane, oras, regctl and helm, with: export SSL_CERT_FILE=%s", file, docker, file)
}

func (o *loginOptions) say(format string, args ...any) error {
	return printers.WriteEscaped(o.streams.Out, fmt.Sprintf(format, args...)+"\n")
}

func (o *loginOptions) warn(format string, args ...any) error {
	return printers.WriteEscaped(o.streams.ErrOut, fmt.Sprintf(format, args...)+"\n")
}
