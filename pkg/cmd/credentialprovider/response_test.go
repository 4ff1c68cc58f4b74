// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package credentialprovider

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// now is when the tests are.
var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// signed returns what looks like a token with these claims.
func signed(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + ".c2lnbmVk"
}

// expiring returns a token that ends after some time.
func expiring(after time.Duration) string {
	return signed(fmt.Sprintf(`{"aud":["tagger.dev"],"exp":%d}`, now.Add(after).Unix()))
}

func TestRun(t *testing.T) {
	t.Parallel()
	const answer = `{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Registry",` +
		`"cacheDuration":%q,"auth":{%q:{"username":"serviceaccount","password":%q}}}` + "\n"
	ask := func(image, token string) string {
		return fmt.Sprintf(`{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":%q,"serviceAccountToken":%q}`, image, token)
	}
	hour := expiring(time.Hour)
	tests := []struct {
		name    string
		args    []string
		request string
		want    string
		err     string // a part of it
	}{
		{name: "a token of an hour", request: ask("tagger.tagger.svc:5000/a/app", hour), want: fmt.Sprintf(answer, "10m0s", "tagger.tagger.svc:5000", hour)},
		{name: "without a port", request: ask("images.example.com/a/app", hour), want: fmt.Sprintf(answer, "10m0s", "images.example.com", hour)},
		{name: "an address", request: ask("10.96.0.7:5000/a/app", hour), want: fmt.Sprintf(answer, "10m0s", "10.96.0.7:5000", hour)},
		{name: "an address of IPv6", request: ask("[fd00::7]:5000/a/app", hour), want: fmt.Sprintf(answer, "10m0s", "[fd00::7]:5000", hour)},
		{name: "this machine", request: ask("localhost/a/app", hour), want: fmt.Sprintf(answer, "10m0s", "localhost", hour)},
		{name: "with a tag and a digest", request: ask("images.example.com/app:v1@sha256:00", hour), want: fmt.Sprintf(answer, "10m0s", "images.example.com", hour)},
		{name: "ends soon", request: ask("images.example.com/a/app", expiring(5*time.Minute)), want: fmt.Sprintf(answer, "4m0s", "images.example.com", expiring(5*time.Minute))},
		{name: "ends at once", request: ask("images.example.com/a/app", expiring(time.Minute)), want: fmt.Sprintf(answer, "0s", "images.example.com", expiring(time.Minute))},
		{name: "has ended", request: ask("images.example.com/a/app", expiring(-time.Hour)), want: fmt.Sprintf(answer, "0s", "images.example.com", expiring(-time.Hour))},
		{name: "never ends", request: ask("images.example.com/a/app", signed(`{}`)), want: fmt.Sprintf(answer, "0s", "images.example.com", signed(`{}`))},
		{name: "ends in another age", request: ask("images.example.com/a/app", signed(`{"exp":1e300}`)), want: fmt.Sprintf(answer, "10m0s", "images.example.com", signed(`{"exp":1e300}`))},
		{name: "claims that are none", request: ask("images.example.com/a/app", signed(`[]`)), want: fmt.Sprintf(answer, "0s", "images.example.com", signed(`[]`))},
		{name: "a token of another form", request: ask("images.example.com/a/app", "sha256~abc"), want: fmt.Sprintf(answer, "0s", "images.example.com", "sha256~abc")},
		{name: "a token with two parts", request: ask("images.example.com/a/app", "a.b"), want: fmt.Sprintf(answer, "0s", "images.example.com", "a.b")},
		{name: "what a later kubelet adds", request: strings.Replace(ask("images.example.com/a/app", hour), "{", `{"more":{"a":[1]},"serviceAccountAnnotations":{"a":"b"},`, 1),
			want: fmt.Sprintf(answer, "10m0s", "images.example.com", hour)},

		{name: "no token", request: ask("images.example.com/a/app", ""), err: "serviceAccountToken is empty for an image of images.example.com: set tokenAttributes"},
		{name: "an earlier version", request: strings.Replace(ask("images.example.com/a/app", hour), "io/v1", "io/v1beta1", 1), err: `apiVersion is "credentialprovider.kubelet.k8s.io/v1beta1": set`},
		{name: "another kind", request: strings.Replace(ask("images.example.com/a/app", hour), "Request", "Response", 1), err: `kind is "CredentialProviderResponse"`},
		{name: "nothing", err: "no JSON object"},
		{name: "an empty object", request: "{}", err: `apiVersion is ""`},
		{name: "more than one object", request: ask("images.example.com/a/app", hour) + "{}", err: "no JSON object"},
		{name: "another type", request: strings.Replace(ask("images.example.com/a/app", hour), `"`+hour+`"`, "12345678", 1), err: "no JSON object"},
		{name: "too large", request: ask("images.example.com/a/app", strings.Repeat("x", maxRequest)), err: "larger than 1048576 bytes"},
		{name: "no image", request: ask("", hour), err: "does not begin with a registry"},
		{name: "no registry", request: ask("library/nginx", hour), err: `image "library/nginx" does not begin with a registry`},
		{name: "no repository", request: ask("images.example.com/", hour), err: "does not begin with a registry"},
		{name: "nothing but a registry", request: ask("images.example.com:5000", hour), err: "does not begin with a registry"},
		{name: "a pattern", request: ask("*.example.com/a/app", hour), err: "does not begin with a registry"},
		{name: "a pattern of a class", request: ask("[a-z].example.com/a/app", hour), err: "does not begin with a registry"},
		{name: "a scheme", request: ask("https://images.example.com/a/app", hour), err: "does not begin with a registry"},
		{name: "a user", request: ask("user@images.example.com/a/app", hour), err: "does not begin with a registry"},

		{name: "its version", args: []string{"--version"}, want: "v0.0.0-unstamped\n"},
		{name: "help", args: []string{"--help"}, want: usage},
		{name: "an argument", args: []string{"get-credentials"}, err: "leave out args"},
		{name: "two arguments", args: []string{"--version", "x"}, err: "leave out args"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var stdout bytes.Buffer
			err := Run(tt.args, strings.NewReader(tt.request), &stdout, now)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want an error with %q", err, tt.err)
				} else if strings.Contains(err.Error(), hour) || strings.Contains(err.Error(), "12345678") {
					t.Errorf("the error has the token in it: %v", err)
				}
			} else if err != nil {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, stdout.String()); diff != "" {
				t.Errorf("unexpected response (-want +got):\n%s", diff)
			}
		})
	}
	if err := Run(nil, iotest.ErrReader(iotest.ErrTimeout), &bytes.Buffer{}, now); err == nil {
		t.Error("a request that cannot be read is answered")
	}
}

// FuzzRespond: whatever comes, what is answered is the token for the registry at the start of the image's name, which is no pattern
// and has no path, and no error has the token in it.
func FuzzRespond(f *testing.F) {
	for _, image := range []string{"tagger.tagger.svc:5000/a/app", "[fd00::7]:5000/a/app", "*.example.com/a/app", "nginx", "a.b//", ""} {
		for _, token := range []string{expiring(time.Hour), signed(`{"exp":1e300}`), signed(`{"exp":-1}`), "a.b.c", ""} {
			f.Add([]byte(fmt.Sprintf(`{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":%q,"serviceAccountToken":%q}`, image, token)))
		}
	}
	f.Add([]byte(`{"apiVersion":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var asked request
		known := json.Unmarshal(data, &asked) == nil
		answer, err := respond(data, now)
		if err != nil {
			said := asked.APIVersion + asked.Kind + asked.Image
			if token := asked.ServiceAccountToken; known && len(token) > 8 && strings.Contains(err.Error(), token) && !strings.Contains(said, token) &&
				!strings.Contains("credentialprovider.kubelet.k8s.io/v1 CredentialProviderRequest CredentialProviderConfig tokenAttributes requireServiceAccount serviceAccountToken matchImages registry", token) {
				t.Errorf("the error has the token in it: %v", err)
			}
			return
		}
		if len(answer.Auth) != 1 {
			t.Fatalf("%d credentials", len(answer.Auth))
		}
		for registry, credential := range answer.Auth {
			if !strings.HasPrefix(asked.Image, registry+"/") || registry == "" || strings.ContainsAny(registry, "/*?@\\ ") || credential.Password != asked.ServiceAccountToken || credential.Password == "" {
				t.Errorf("%q for %q", registry, asked.Image)
			}
		}
		if kept, err := time.ParseDuration(answer.CacheDuration); err != nil || kept < 0 || kept > maxCached {
			t.Errorf("kept for %s: %v", answer.CacheDuration, err)
		}
	})
}
