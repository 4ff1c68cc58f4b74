// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// TestKubeConfig: which Kubernetes is extended is clear without a warning. It is not parallel, for the environment and klog belong to
// the process.
func TestKubeConfig(t *testing.T) {
	const kubeconfig = `{"apiVersion": "v1", "kind": "Config", "current-context": "it", "clusters": [{"name": "it", "cluster":
{"server": "https://kube.example"}}], "contexts": [{"name": "it", "context": {"cluster": "it"}}]}`
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path, serviceHost string
		want                    string // the host; of a failure a part
	}{
		{name: "a kubeconfig", path: path, want: "https://kube.example"},
		{name: "a kubeconfig in a Pod", path: path, serviceHost: "192.0.2.1", want: "https://kube.example"},
		{name: "no such kubeconfig", path: path + "x", want: "--kubeconfig: "},
		{name: "neither", want: "give --kubeconfig, or --standalone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", tt.serviceHost)
			t.Setenv("KUBERNETES_SERVICE_PORT", "443")
			logged := &bytes.Buffer{}
			state := klog.CaptureState()
			t.Cleanup(state.Restore)
			flags := flag.NewFlagSet("", flag.ContinueOnError)
			klog.InitFlags(flags)
			if err := flags.Parse([]string{"-logtostderr=false"}); err != nil {
				t.Fatal(err)
			}
			klog.SetOutput(logged)
			o := NewOptions()
			o.Core.CoreAPIKubeconfigPath = tt.path
			config, err := o.kubeConfig()
			klog.Flush()
			got := ""
			if config != nil {
				got = config.Host
			}
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, tt.want) || logged.Len() > 0 {
				t.Errorf("got %q, logged %q; want %q and no word", got, logged, tt.want)
			}
		})
	}
}
