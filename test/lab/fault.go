// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What requests are for.
const (
	Manifests = "manifests"
	Blobs     = "blobs"
	Referrers = "referrers"
)

// Fault answers a request in place of the registry, or has the registry answer.
type Fault func(w http.ResponseWriter, r *http.Request, registry http.Handler)

// Answering answers everything with a status and a body.
func Answering(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Basic lets only those in who have a user name and a password.
func Basic(user, password string) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if u, p, _ := r.BasicAuth(); u == user && p == password {
			registry.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="outside"`)
		Answering(http.StatusUnauthorized, "application/json", `{"errors":[{"code":"UNAUTHORIZED"}]}`)(w, r, registry)
	}
}

// WithHeader adds a header to the answers of a fault.
func WithHeader(key, value string, f Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		w.Header().Set(key, value)
		f(w, r, registry)
	}
}

// Only lets a fault answer the requests for a subject (Manifests, Blobs, Referrers), by any method but HEAD, and the
// registry all others.
func Only(wanted string, f Fault) Fault {
	return When(func(r *http.Request) bool { return r.Method != http.MethodHead && subject(r) == wanted }, f)
}

// At lets a fault answer the requests for one object, by its digest or tag and by any method.
func At(object string, f Fault) Fault {
	return When(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/"+object) }, f)
}

// When lets a fault answer some requests, and the registry all others.
func When(wanted func(*http.Request) bool, f Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if wanted(r) {
			f(w, r, registry)
			return
		}
		registry.ServeHTTP(w, r)
	}
}

// Times lets a fault answer so many requests, and heals then.
func Times(n int32, f Fault) Fault {
	var answered atomic.Int32
	return When(func(*http.Request) bool { return answered.Add(1) <= n }, f)
}

// After has the registry answer, and does something once when it has for the first time.
func After(do func()) Fault {
	once := sync.OnceFunc(do)
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		// What is done is done before the client knows the answer.
		answer := record(r, registry)
		once()
		answer.send(w, answer.body)
	}
}

// Altering changes the body of the registry's answer and nothing of its header. A body that becomes shorter than the header
// says ends with the connection; one that becomes longer is sent without a length.
func Altering(change func([]byte) []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		answer := record(r, registry)
		body := change(answer.body)
		if len(body) > len(answer.body) {
			answer.header.Del("Content-Length")
		}
		answer.send(w, body)
	}
}

// Flip changes one bit in the middle, for Altering.
func Flip(body []byte) []byte {
	changed := bytes.Clone(body)
	changed[len(changed)/2] ^= 1
	return changed
}

// Half leaves the first half, for Altering.
func Half(body []byte) []byte { return body[:len(body)/2] }

// Longer adds a byte, for Altering.
func Longer(body []byte) []byte { return append(bytes.Clone(body), 0) }

// CuttingAfter sends the header and so many bytes of the registry's answer, and cuts the connection.
func CuttingAfter(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		record(r, registry).begin(w, n)
		panic(http.ErrAbortHandler)
	}
}

// HangingAfter sends the header and so many bytes of the registry's answer, and nothing more until the client has gone; with
// -1 not even the header.
func HangingAfter(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		if n >= 0 {
			record(r, registry).begin(w, n)
		}
		<-r.Context().Done()
	}
}

// Trickling sends the registry's answer in equal parts, one at a time with a pause before each.
func Trickling(parts int, pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		answer := record(r, registry)
		answer.begin(w, 0)
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		size := len(answer.body)/parts + 1
		for rest := answer.body; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
			if _, err := w.Write(rest[:min(size, len(rest))]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

// Redirecting answers with a redirect to a URL.
func Redirecting(url string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, url, http.StatusTemporaryRedirect)
	}
}

// Looping redirects every request to itself.
func Looping(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect) //nolint:gosec // that is the fault
}

// Endless sends so many bytes of white space as a document of a media type, saying beforehand how many, or not.
func Endless(mediaType string, size int, announced bool) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", mediaType)
		if announced {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		if r.Method == http.MethodHead {
			return
		}
		part := bytes.Repeat([]byte(" "), 1<<20)
		for sent := 0; sent < size; sent += len(part) {
			if _, err := w.Write(part[:min(len(part), size-sent)]); err != nil {
				return
			}
		}
	}
}

// Tokens wants bearer tokens of a service of the source's own. The first token expires after so many requests, while the
// client still believes in it; the next one lasts.
func Tokens(uses int32) Fault {
	var served, issued atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, registry http.Handler) {
		const first, lasting = "first-token", "lasting-token"
		if r.URL.Path == "/token" {
			token := lasting
			if issued.Add(1) == 1 {
				token = first
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"token":"`+token+`","expires_in":3600}`)
			return
		}
		switch r.Header.Get("Authorization") {
		case "Bearer " + first:
			if served.Add(1) <= uses {
				registry.ServeHTTP(w, r)
				return
			}
		case "Bearer " + lasting:
			registry.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/token",service="outside"`)
		Answering(http.StatusUnauthorized, "application/json", `{"errors":[{"code":"UNAUTHORIZED"}]}`)(w, r, registry)
	}
}

// answer is what a registry would have answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func record(r *http.Request, registry http.Handler) *answer {
	recorder := httptest.NewRecorder()
	registry.ServeHTTP(recorder, r)
	return &answer{recorder.Code, recorder.Header(), recorder.Body.Bytes()}
}

func (a *answer) send(w http.ResponseWriter, body []byte) {
	for key, values := range a.header {
		w.Header()[key] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body)
}

// begin sends the header and the first n bytes, and makes sure that they leave.
func (a *answer) begin(w http.ResponseWriter, n int) {
	a.send(w, a.body[:min(n, len(a.body))])
	w.(http.Flusher).Flush()
}

// patience is how long a test waits for somebody to come to a gate; machines that test are often busy.
const patience = time.Minute

// Gate is a fault that lets nobody pass until it is opened.
type Gate struct {
	reached chan struct{}
	opened  chan struct{}
	open    func()
}

// NewGate returns a gate that is opened at the latest when the test ends.
func NewGate(t testing.TB) *Gate {
	g := &Gate{reached: make(chan struct{}, 1), opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	t.Cleanup(g.open)
	return g
}

// Open lets everybody pass from now on.
func (g *Gate) Open() { g.open() }

// Reached has an element once somebody waits.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Fault is the gate as one.
func (g *Gate) Fault(w http.ResponseWriter, r *http.Request, registry http.Handler) {
	select {
	case g.reached <- struct{}{}:
	default:
	}
	select {
	case <-g.opened:
		registry.ServeHTTP(w, r)
	case <-r.Context().Done():
	}
}

// Await waits until somebody waits at the gate.
func (g *Gate) Await(t testing.TB) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.reached:
	case <-timer.C:
		t.Fatal("nobody asked for what lies behind the gate")
	}
}
