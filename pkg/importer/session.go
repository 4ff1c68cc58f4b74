// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// session is one call's access to a source.
type session struct {
	*Importer
	src         Source
	credentials []Credential // ends with the anonymous one
	// unread says which credentials could not be read; nil where all could.
	unread error
	// withheld: whatever credentials there are, this source may see none of them.
	withheld bool
	// asked: a request was sent.
	asked atomic.Bool
}

func (i *Importer) open(ctx context.Context, src Source) (*session, error) {
	if err := i.admit(ctx, src); err != nil {
		return nil, err
	}
	s := &session{Importer: i, src: src}
	endpoint := url.URL{Host: src.Reference.Endpoint()}
	exposed := src.Insecure && !isLoopback(endpoint.Hostname())
	credentials, err := src.Keychain.Credentials(ctx, src.Reference)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e, credentials = failure(Unavailable, err, "the credentials for %s cannot be read", src.Reference.Host()), nil
		}
		if credentials == nil && !exposed {
			return nil, e
		}
		s.unread = e
	}
	for _, c := range credentials {
		if !exposed || c.InsecureTransport {
			s.credentials = append(s.credentials, c)
		}
	}
	s.withheld = exposed && len(s.credentials) == 0
	s.credentials = append(s.credentials, Credential{})
	return s, nil
}

func (s *session) route() route {
	return route{s.src.Scope, s.src.Reference.Endpoint(), s.src.Reference.repository, s.src.Insecure}
}

// object is something in the repository of a source.
type object struct {
	below string // "manifests", "blobs" or "referrers"
	name  string
	query string // as in an URL, without the question mark
}

// do asks for an object and answers with status 200 alone; everything else is an
// *Error. The credentials are tried in turn for as long as access is refused,
// beginning with the one that was accepted last.
func (s *session) do(ctx context.Context, method string, of object) (*http.Response, error) {
	var refused error
	credentials := s.credentials
	if last, ok := s.clients.accepted.Get(s.route()); ok {
		credentials = preferring(credentials, last.(Credential))
	}
	for _, credential := range credentials {
		asking := client{s.src.Reference.Registry(), credential}
		if pause := s.pauses.err(asking, s.src.Reference.Endpoint()); pause != nil && refused == nil {
			pause.Paused = !s.asked.Load()
			return nil, pause
		} else if pause != nil {
			break
		}
		s.asked.Store(true)
		resp, err := s.try(ctx, credential, method, of)
		if err == nil {
			s.clients.accepted.Add(s.route(), credential)
			return resp, nil
		}
		s.pauses.note(asking, err)
		switch kind := KindOf(err); {
		case kind == RateLimited && refused != nil:
			continue // that a credential is wrong is what somebody has to know
		case kind != Unauthorized:
			return nil, err
		}
		if refused == nil {
			refused = err
		}
	}
	if s.withheld && s.unread == nil {
		remedy := "use a certificate that verifies"
		if s.options.InsecureRemedy != "" {
			remedy += ", or " + s.options.InsecureRemedy
		}
		return nil, failure(Unauthorized, refused, "%s refuses anonymous access, and gets no credentials because the source is insecure; %s", s.src.Reference.Endpoint(), remedy)
	}
	if s.unread != nil {
		return nil, failure(Unauthorized, errors.Join(refused, s.unread), "%s; and %s", refused, s.unread)
	}
	return nil, refused
}

// preferring returns credentials with first in front, if it is among them.
func preferring(credentials []Credential, first Credential) []Credential {
	ordered := make([]Credential, 0, len(credentials))
	for _, c := range credentials {
		if c == first {
			ordered = append([]Credential{c}, ordered...)
		} else {
			ordered = append(ordered, c)
		}
	}
	return ordered
}

// try is do with one credential. An insecure source that does not speak TLS is
// asked in plain HTTP, and remembered as such until that fails.
func (s *session) try(ctx context.Context, credential Credential, method string, of object) (*http.Response, error) {
	host := s.src.Reference.Endpoint()
	if !s.src.Insecure {
		return s.send(ctx, credential, method, "https", of)
	}
	if _, plain := s.clients.plain.Get(host); !plain {
		resp, err := s.send(ctx, credential, method, "https", of)
		if !speaksPlainHTTP(err) && !(onDefaultPort(host) && errors.Is(err, syscall.ECONNREFUSED)) {
			return resp, err
		}
	}
	resp, err := s.send(ctx, credential, method, "http", of)
	var answer *answerError
	if err == nil || errors.As(err, &answer) && answer.status != http.StatusBadRequest {
		s.clients.plain.Add(host, struct{}{})
	} else {
		s.clients.plain.Remove(host) // servers that speak TLS answer 400
	}
	return resp, err
}

// onDefaultPort reports whether https and http mean different ports at host.
func onDefaultPort(host string) bool {
	_, _, err := net.SplitHostPort(host)
	return err != nil
}

func (s *session) send(ctx context.Context, credential Credential, method, scheme string, of object) (*http.Response, error) {
	ref := s.src.Reference
	host := ref.Endpoint()
	ctx = auth.AppendRepositoryScope(ctx, registry.Reference{Registry: ref.host, Repository: ref.repository}, auth.ActionPull)
	if of.below == "blobs" {
		ctx = context.WithValue(ctx, streamed{}, true)
	}
	address := url.URL{Scheme: scheme, Host: host, Path: "/v2/" + ref.repository + "/" + of.below + "/" + of.name, RawQuery: of.query}
	req, err := http.NewRequestWithContext(ctx, method, address.String(), nil)
	if err != nil {
		return nil, classify(err, host)
	}
	switch of.below {
	case "manifests":
		req.Header.Set("Accept", strings.Join(acceptedTypes, ", "))
	case "referrers":
		req.Header.Set("Accept", ocispec.MediaTypeImageIndex)
	}
	_, post := s.clients.post.Get(host)
	key := clientKey{s.src.Scope, host, s.src.Insecure, credential, post}
	resp, err := s.clients.get(key).Do(req)
	if !post && wantsPost(err) && credential.Password != "" {
		key.post = true
		if resp, err = s.clients.get(key).Do(req); err == nil {
			s.clients.post.Add(host, struct{}{})
		}
	} else if post && err != nil {
		s.clients.post.Remove(host) // it may have learned GET
	}
	if err != nil {
		return nil, s.unanswered(ctx, err, host)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, status(resp, asked{
			what: strings.TrimSuffix(of.below, "s") + " " + of.name, whenAbsent: s.whenAbsent(of), known: !credential.anonymous(),
		}, s.options.Clock.Now())
	}
	return resp, nil
}

// wantsPost reports whether a token service does not know GET, by which docker's
// specification has tokens asked for with a password, and may know OAuth2's POST.
func wantsPost(err error) bool {
	var answer *errcode.ErrorResponse
	return errors.As(err, &answer) && answer.Method == http.MethodGet &&
		(answer.StatusCode == http.StatusMethodNotAllowed || answer.StatusCode == http.StatusNotFound)
}

// whenAbsent says what to do when an object of the repository is not found.
func (s *session) whenAbsent(of object) string {
	switch {
	case of.below != "manifests" || of.name != s.src.Reference.object():
		return "the image is incomplete there, or was deleted meanwhile; push it there again"
	case s.src.Reference.digest != "":
		return "check the repository and the digest"
	default:
		return "check the repository and the tag"
	}
}

// unanswered classifies an error of auth.Client.
func (s *session) unanswered(ctx context.Context, err error, host string) error {
	if ctx.Err() != nil {
		return classify(ctx.Err(), host)
	}
	return unanswered(err, host)
}

// unanswered classifies an error of auth.Client. What it neither has from the
// wire nor from an answer is about authentication: a challenge that cannot be
// met with this credential, or a token service that gives no token.
func unanswered(err error, host string) *Error {
	if e := recognise(err, host); e != nil {
		return e
	}
	var sent *url.Error
	if errors.As(err, &sent) {
		return classify(err, host)
	}
	return failure(Unauthorized, err, "%s asks for authentication that cannot be completed; check its token service, and the credentials", host).wantsCredentials()
}
