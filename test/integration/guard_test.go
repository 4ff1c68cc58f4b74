// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// TestGuardRails starts servers with guard rails, and imports what these forbid.
func TestGuardRails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, flag string // HOST in it is the source's
		insecure   bool
		mirror     bool
		want       string // of the message
	}{
		{name: "blocked", flag: "--blocked-registries=ghcr.io,HOST", want: "are not allowed here"},
		{name: "not among the allowed", flag: "--allowed-registries=quay.io,*.example.com", want: "are not allowed here"},
		{name: "insecure", flag: "--allow-insecure-sources=false", insecure: true, want: "insecure sources are not allowed here"},
		{name: "loopback", flag: "--allow-loopback-sources=false", want: "at a loopback address, which is refused here"},
		{name: "too large a manifest", flag: "--max-manifest-size=100", want: "its manifest is larger than the 100 bytes allowed"},
		{name: "too large an image", flag: "--max-image-size=100", mirror: true, want: "at most 100 may be mirrored here"},
		{name: "allowed", flag: "--allowed-registries=HOST"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out := lab.New(t, lab.TrustedTLS)
			out.Push(t, "app", newImage(t, ociTypes, "amd64"))
			s := start(t, t.TempDir(), strings.ReplaceAll(tt.flag, "HOST", out.Host))
			namespace := newNamespace()
			imp, err := s.api.TaggerV1beta1().Images(namespace).Import(context.WithoutCancel(t.Context()), "app", &v1beta1.ImageImport{
				Spec: v1beta1.ImageImportSpec{From: out.Reference("app"), Mirror: &tt.mirror, Insecure: &tt.insecure},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := outcomeOf(imp.Status.Conditions)
			if tt.want == "" {
				if got.Status != metav1.ConditionTrue {
					t.Errorf("the import ended %+v, want success", got)
				}
				return
			}
			if got.Status != metav1.ConditionFalse || !strings.Contains(got.Message, tt.want) || imp.Status.CompletionTime == nil {
				t.Errorf("the import ended %+v, want failure for good with %q", got, tt.want)
			}
		})
	}
}
