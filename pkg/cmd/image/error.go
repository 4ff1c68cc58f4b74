// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

const (
	exitFailure = 1
	// exitInterrupted is what shells report of a command that Ctrl-C ended.
	exitInterrupted = 130
)

// failure is an error that says what to do next.
type failure struct {
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// interruption is what a command returns that was interrupted. Its text says what that leaves behind.
type interruption string

func (i interruption) Error() string { return "interrupted: " + string(i) }

// usageError is a failure that points to the help of a command.
func usageError(cmd *cobra.Command, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hint: fmt.Sprintf("See '%s --help' for usage.", cmd.CommandPath())}
}

// explain returns the line that reports an error, a hint that may be empty, and the exit code.
func explain(err error) (message, hint string, code int) {
	if interrupted := interruption(""); errors.As(err, &interrupted) {
		return interrupted.Error(), "", exitInterrupted
	}
	message, hint = describe(err)
	return "error: " + message, hint, exitFailure
}

// describe says in a line what went wrong, and maybe what to do. What a server or the way there says is worded as kubectl
// words it.
func describe(err error) (message, hint string) {
	message = err.Error()
	known, unreached := (*failure)(nil), (*url.Error)(nil)
	switch {
	case errors.As(err, &known):
		hint = known.hint
	case apierrors.IsUnauthorized(err):
		message = fmt.Sprintf("You must be logged in to the server (%s)", message)
	case apierrors.IsInvalid(err) && needsFrom(err):
		hint = "Say where to import it from: --from=REFERENCE"
	case servesNoAPI(err):
		message = fmt.Sprintf("the server does not serve %s", v1beta1.SchemeGroupVersion)
		hint = "Is Tagger installed there? See: kubectl get apiservice v1beta1.tagger.dev"
	case errors.As(err, &unreached) && utilnet.IsConnectionRefused(err):
		message = fmt.Sprintf("The connection to the server %s was refused - did you specify the right host or port?", host(unreached))
	case errors.As(err, &unreached):
		message = fmt.Sprintf("Unable to connect to the server: %v", unreached.Err)
	}
	return message, hint
}

// needsFrom reports whether a refused import lacks a source.
func needsFrom(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(cause metav1.StatusCause) bool {
		return cause.Field == "spec.from" && cause.Type == metav1.CauseTypeFieldValueRequired
	})
}

// servesNoAPI says whether a server answered 404 without being asked for an object: it does not know the path.
func servesNoAPI(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// host returns the host that a request was for.
func host(err *url.Error) string {
	if u, parseErr := url.Parse(err.URL); parseErr == nil {
		return u.Host
	}
	return "of the kubeconfig"
}
