// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"io"
	"net/http"
	"strconv"
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const (
	registrySubsystem = "tagger_registry"
	proxySubsystem    = "tagger_images_proxy"
)

var (
	registryRequests = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem:      registrySubsystem,
		Name:           "requests_total",
		Help:           "Requests to the registry endpoint that were answered, by where they came in: port or proxy, method and status code.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"endpoint", "method", "code"})
	registryReceived = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem:      registrySubsystem,
		Name:           "received_bytes_total",
		Help:           "Bytes of the bodies of requests to the registry endpoint.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"endpoint"})
	registrySent = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem:      registrySubsystem,
		Name:           "sent_bytes_total",
		Help:           "Bytes of the bodies of answers by the registry endpoint.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"endpoint"})
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

	registerTrafficMetrics = sync.OnceFunc(func() {
		legacyregistry.MustRegister(registryRequests, registryReceived, registrySent, proxyInFlight, proxyRefused)
	})
)

// counted counts what requests to a handler, and its answers, amount to.
type counted struct {
	// endpoint is where requests come in: port or proxy.
	endpoint string
	handler  http.Handler
}

func newCounted(endpoint string, handler http.Handler) *counted {
	registerTrafficMetrics()
	return &counted{endpoint, handler}
}

// ServeHTTP implements http.Handler.
func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	response := &countedResponse{ResponseWriter: w, sent: registrySent.WithLabelValues(c.endpoint), code: http.StatusOK}
	defer func() { // also of an answer that ends in the middle, by a panic
		registryRequests.WithLabelValues(c.endpoint, methodLabel(r.Method), strconv.Itoa(response.code)).Inc()
	}()
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context()) // the server looks at the body of its own
		r.Body = countedBody{r.Body, registryReceived.WithLabelValues(c.endpoint)}
	}
	c.handler.ServeHTTP(response, r)
}

// methodLabel returns the method of a request, where that is one of the protocol: anybody can send others.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return method
	default:
		return "other"
	}
}

type countedResponse struct {
	http.ResponseWriter
	sent metrics.CounterMetric
	code int
}

// Unwrap lets an http.ResponseController find what is wrapped.
func (c *countedResponse) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c *countedResponse) WriteHeader(code int) {
	if code >= http.StatusOK {
		c.code = code
	}
	c.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (c *countedResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(float64(n))
	return n, err
}

type countedBody struct {
	io.ReadCloser
	received metrics.CounterMetric
}

// Read implements io.Reader.
func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.received.Add(float64(n))
	return n, err
}
