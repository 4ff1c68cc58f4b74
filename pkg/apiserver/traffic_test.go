// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"
)

// TestCounted has requests of all kinds counted, those of odd methods as one.
func TestCounted(t *testing.T) {
	t.Parallel()
	handler := newCounted("test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = io.WriteString(w, "four")
	}))
	for _, method := range []string{http.MethodGet, http.MethodPut, "BREW", "WHEN"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/", strings.NewReader("sixsix")))
	}
	gathered, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range gathered {
		for _, metric := range family.GetMetric() {
			if labels := metric.GetLabel(); testutil.LabelsMatch(metric, map[string]string{"endpoint": "test"}) {
				key := strings.TrimPrefix(family.GetName(), registrySubsystem+"_")
				for _, label := range labels {
					if label.GetName() != "endpoint" {
						key += " " + label.GetValue()
					}
				}
				got[key] = metric.GetCounter().GetValue()
			}
		}
	}
	for key, want := range map[string]float64{
		"requests_total 200 GET": 1, "requests_total 418 PUT": 1, "requests_total 418 other": 2, "received_bytes_total": 24, "sent_bytes_total": 16,
	} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v; all: %v", key, got[key], want, got)
		}
	}
}
