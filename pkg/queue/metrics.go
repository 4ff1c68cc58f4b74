// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const subsystem = "tagger_import"

var (
	attemptsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem:      subsystem,
		Name:           "attempts_total",
		Help:           "Attempts of imports by outcome (imported, unchanged, failed) and, for failed ones, the typed reason.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"outcome", "reason"})
	attemptSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem:      subsystem,
		Name:           "attempt_duration_seconds",
		Help:           "How long attempts of imports took, mirroring included, by outcome.",
		Buckets:        metrics.ExponentialBuckets(0.01, 3, 12), // 10 ms to 30 min
		StabilityLevel: metrics.ALPHA,
	}, []string{"outcome"})
	mirroredBytes = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem:      subsystem,
		Name:           "mirrored_bytes_total",
		Help:           "Bytes of blobs that imports copied to the mirror or found there.",
		StabilityLevel: metrics.ALPHA,
	})
	attemptsInFlight = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem:      subsystem,
		Name:           "attempts_in_flight",
		Help:           "Attempts of imports that run now.",
		StabilityLevel: metrics.ALPHA,
	})

	registerMetrics = sync.OnceFunc(func() {
		legacyregistry.MustRegister(attemptsTotal, attemptSeconds, mirroredBytes, attemptsInFlight)
	})
)
