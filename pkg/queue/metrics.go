// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const (
	subsystem        = "tagger_import"
	releaseSubsystem = "tagger_mirror_releases"
)

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
	takeoversTotal = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem:      subsystem,
		Name:           "takeovers_total",
		Help:           "Imports that were taken over from a server that had stopped to say that it works at them.",
		StabilityLevel: metrics.ALPHA,
	})
	refreshesTotal = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem:      subsystem,
		Name:           "refreshes_total",
		Help:           "Imports that the schedules of Images asked for.",
		StabilityLevel: metrics.ALPHA,
	})
	releasesPending = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem:      releaseSubsystem,
		Name:           "pending",
		Help:           "MirrorReleases that there are: what no Image means any more and the mirror has yet.",
		StabilityLevel: metrics.ALPHA,
	})
	releasesTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: releaseSubsystem,
		Name:      "ended_total",
		Help: "Releases at the mirror that are over, by outcome: released, kept (the Image means it again), unsupported (the mirror " +
			"does not let tags be deleted and keeps it), lost (it could not be written down, and the mirror keeps it).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"outcome"})
	releaseFailuresTotal = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem:      releaseSubsystem,
		Name:           "failures_total",
		Help:           "Attempts to release something at the mirror that failed and are made again.",
		StabilityLevel: metrics.ALPHA,
	})

	registerMetrics = sync.OnceFunc(func() {
		legacyregistry.MustRegister(attemptsTotal, attemptSeconds, mirroredBytes, attemptsInFlight, takeoversTotal, refreshesTotal,
			releasesPending, releasesTotal, releaseFailuresTotal)
	})
)
