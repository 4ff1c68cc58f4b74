// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const proxySubsystem = "tagger_images_proxy"

var (
	proxyInFlight = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem:      proxySubsystem,
		Name:           "requests_in_flight",
		Help:           "Requests to images/proxy that are served now.",
		StabilityLevel: metrics.ALPHA,
	})
	proxyRefused = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem:      proxySubsystem,
		Name:           "refused_total",
		Help:           "Requests to images/proxy that were answered 429, by the limit that was reached: user, namespace or total.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"limit"})
	proxyReceived = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem:      proxySubsystem,
		Name:           "received_bytes_total",
		Help:           "Bytes of the bodies of requests to images/proxy.",
		StabilityLevel: metrics.ALPHA,
	})
	proxySent = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem:      proxySubsystem,
		Name:           "sent_bytes_total",
		Help:           "Bytes of the bodies of answers by images/proxy.",
		StabilityLevel: metrics.ALPHA,
	})

	registerProxyMetrics = sync.OnceFunc(func() {
		legacyregistry.MustRegister(proxyInFlight, proxyRefused, proxyReceived, proxySent)
	})
)
