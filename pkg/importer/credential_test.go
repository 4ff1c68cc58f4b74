// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"errors"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tagger.dev/tagger/test/lab"
)

// TestInsecureTransport: an insecure source that is not this machine sees the
// credentials alone that may travel insecurely.
func TestInsecureTransport(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	img := newImage(t, "amd64")
	put(t, registry, "app", "v1", img.manifest.MediaType, img.raw, img.blobs...)
	exposable := alice
	exposable.InsecureTransport = true
	tests := []struct {
		name string
		keys Keychain
		want Kind
		text string
		sent []string // Authorization
	}{
		{name: "withheld", keys: keys{alice, bob}, want: Unauthorized, text: "the source is insecure; use a certificate that verifies, or annotate it", sent: []string{""}},
		{name: "none there are", keys: keys{}, want: Unauthorized, text: "the source is insecure", sent: []string{""}},
		{name: "that one alone which may", keys: keys{bob, exposable}, sent: []string{"", "Basic YWxpY2U6cGE1NQ=="}},
		{name: "unreadable ones are told of when they are missed", keys: failing{&Error{Kind: Unauthorized, Err: errors.New("a Secret is broken")}},
			want: Unauthorized, text: "a Secret is broken", sent: []string{""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var sent []string
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				sent = append(sent, r.Header.Get("Authorization"))
				mu.Unlock()
				basic(registry, alice).ServeHTTP(w, r)
			}))
			proxy := lab.Proxy(t, up.host)
			i := newImporter(t, func(o *Options) {
				o.Proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
				o.InsecureRemedy = "annotate it"
			})
			src := Source{Reference: parse(t, lab.Domain+"/app:v1"), Insecure: true, Scope: "ns", Keychain: tt.keys}
			_, err := i.Resolve(t.Context(), src, "")
			if tt.want == "" && err != nil {
				t.Fatal(err)
			} else if tt.want != "" {
				wantFailure(t, err, src.Reference, tt.want, tt.text)
			}
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(tt.sent, sent); diff != "" {
				t.Errorf("Authorization headers (-want +got):\n%s", diff)
			}
		})
	}
}
