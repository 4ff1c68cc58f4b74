// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"net/http"
	"net/url"
	"strings"
)

// Under serves an endpoint of New below a prefix of the path, like /some/where, of
// which the endpoint does not know. Locations and links in its answers are relative
// to the path of the request, so that they lead there whoever stands in between:
// kube-apiserver, for one, has others lead to the host that it sent the request to.
// A path that does not begin with the prefix is unknown to the endpoint. How the path
// was escaped is forgotten, as proxies forget it.
func Under(prefix string, endpoint http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, prefix)
		if !ok {
			path = ""
		}
		below := r.WithContext(r.Context())
		below.URL = &url.URL{Path: path, RawQuery: r.URL.RawQuery}
		endpoint.ServeHTTP(&underWriter{ResponseWriter: w, path: path}, below)
	})
}

// underWriter makes the paths relative that a response leads to.
type underWriter struct {
	http.ResponseWriter
	path string // of the request
	done bool
}

// Unwrap lets an http.ResponseController find what is wrapped.
func (w *underWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *underWriter) WriteHeader(status int) {
	w.lead()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *underWriter) Write(p []byte) (int, error) {
	w.lead()
	return w.ResponseWriter.Write(p)
}

func (w *underWriter) lead() {
	if w.done {
		return
	}
	w.done = true
	for key, before := range map[string]string{"Location": "", "Link": "<"} {
		if target, ok := strings.CutPrefix(w.Header().Get(key), before+pathPrefix); ok {
			w.Header().Set(key, before+relative(w.path, pathPrefix+target))
		}
	}
}

// relative returns a reference to an absolute path that is relative to another one, RFC
// 3986, section 4.2. It begins with a dot: a digest could be taken for a scheme.
func relative(from, to string) string {
	for {
		directory, rest, ok := strings.Cut(from, "/")
		if below, found := strings.CutPrefix(to, directory+"/"); ok && found {
			from, to = rest, below
			continue
		}
		if up := strings.Count(from, "/"); up > 0 {
			return strings.Repeat("../", up) + to
		}
		return "./" + to
	}
}
