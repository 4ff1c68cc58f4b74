// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/importer"
)

// TestCannotPull holds which status tells why a reference cannot be pulled.
func TestCannotPull(t *testing.T) {
	t.Parallel()
	if err := cannotPull("myapp", nil); err != nil {
		t.Errorf("nothing is wrong, and yet: %v", err)
	}
	for kind, want := range map[importer.Kind]int32{
		importer.NotFound:            http.StatusConflict,
		importer.Unauthorized:        http.StatusConflict,
		importer.TLS:                 http.StatusConflict,
		importer.Blocked:             http.StatusConflict,
		importer.Invalid:             http.StatusConflict,
		importer.UnsupportedManifest: http.StatusConflict,
		importer.DigestMismatch:      http.StatusConflict,
		importer.MirrorUnauthorized:  http.StatusConflict,
		importer.RateLimited:         http.StatusServiceUnavailable,
		importer.Unavailable:         http.StatusServiceUnavailable,
		importer.MirrorUnavailable:   http.StatusServiceUnavailable,
		importer.Timeout:             http.StatusGatewayTimeout,
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			var status *apierrors.StatusError
			err := cannotPull("myapp", &importer.Error{Kind: kind, Err: errors.New("this happened"), RetryAfter: time.Hour})
			if !errors.As(err, &status) || status.ErrStatus.Code != want {
				t.Fatalf("error %v, want status %d", err, want)
			}
			if text := fmt.Sprintf("nothing was changed: this happened (%s)", kind); !strings.Contains(err.Error(), text) {
				t.Errorf("error %v, want it with %q", err, text)
			}
			if !apierrors.HasStatusCause(err, metav1.CauseType(kind)) {
				t.Errorf("the causes %v do not have the reason", status.ErrStatus.Details.Causes)
			}
			if _, retry := apierrors.SuggestsClientDelay(err); retry {
				t.Error("clients are told to wait and try again by themselves")
			}
		})
	}
}
