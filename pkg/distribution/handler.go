// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"tagger.dev/tagger/pkg/limit"
)

const (
	// maxRequests is how many requests are served at once, and
	// maxRequestsOfNamespace how many of them of one namespace: clients that do not
	// read what they asked for, many to a connection, are to leave others room.
	maxRequests            = 4096
	maxRequestsOfNamespace = 2048
	// maxForms is how many requests for tokens by POST are served at once: anybody
	// can send the form of one, slowly.
	maxForms = 256
	// maxListings is how many lists of tags and of referrers are made and sent at once,
	// each of which lies in memory, and maxListingsOfNamespace how many of them for one
	// namespace.
	maxListings            = 32
	maxListingsOfNamespace = 8
)

// DefaultTakeTimeout is how long nothing may be taken of an answer where the Options do not say.
const DefaultTakeTimeout = 2 * time.Minute

// Options of an endpoint. The zero value has the defaults.
type Options struct {
	// MaxManifestBytes is how large a pushed manifest may be. Default 4 MiB, which
	// the specification asks for at least.
	MaxManifestBytes int64
	// MaxBlobBytes is how large a pushed blob may be. Default: as large as it likes.
	MaxBlobBytes int64
	// StallTimeout ends a request whose body does not go on, and one with a manifest
	// that has not come by then. Default one minute.
	StallTimeout time.Duration
	// TakeTimeout ends a request of whose answer nothing is taken. Default DefaultTakeTimeout. What is sent before and after the
	// handler, and for several streams of HTTP/2 at once, is bounded by the server: WriteTimeout and HTTP2Config.WriteByteTimeout.
	TakeTimeout time.Duration
	// Tokens gives tokens of the handshake, for the service of the name Service.
	// Default: none, and Basic alone is offered.
	Tokens  Tokens
	Service string
}

func (o Options) withDefaults() Options {
	o.MaxManifestBytes = cmp.Or(o.MaxManifestBytes, defaultManifestBytes)
	o.MaxBlobBytes = cmp.Or(o.MaxBlobBytes, math.MaxInt64)
	o.StallTimeout = cmp.Or(o.StallTimeout, time.Minute)
	o.TakeTimeout = cmp.Or(o.TakeTimeout, DefaultTakeTimeout)
	return o
}

// New returns the endpoint over backend, guarded by authz. It serves every
// path that it is given: what lies outside /v2/ is answered as unknown.
//
// Logs go to the logger of the request's context.
func New(backend Backend, authz Authorizer, options Options) http.Handler {
	options = options.withDefaults()
	return &handler{
		backend: backend, authz: authz, options: options,
		requests: limit.NewKeyed(maxRequests), namespaceRequests: limit.NewKeyed(maxRequestsOfNamespace),
		manifests: limit.NewKeyed(manifestPlaces(options.MaxManifestBytes)), namespaceManifests: limit.NewKeyed(maxManifestsOfNamespace),
		listings: limit.NewKeyed(maxListings), namespaceListings: limit.NewKeyed(maxListingsOfNamespace),
		forms: limit.NewKeyed(maxForms),
	}
}

type handler struct {
	backend Backend
	authz   Authorizer
	options Options
	// requests has the places of requests, manifests those of manifests that are pushed and of digests that are deleted, listings those of lists, and the
	// others the same for each namespace. What takes a place of forms takes none of requests.
	requests, namespaceRequests, manifests, namespaceManifests, listings, namespaceListings, forms *limit.Keyed
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	controller := http.NewResponseController(w)
	response := &movingResponse{ResponseWriter: w, controller: controller, timeout: h.options.TakeTimeout}
	response.begin(r)
	defer response.leave()
	h.serve(response, r, controller)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, controller *http.ResponseController) {
	header := w.Header()
	header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	header.Set("X-Content-Type-Options", "nosniff")
	places := h.requests
	if r.Method == http.MethodPost && r.URL.Path == tokenPath {
		places = h.forms
	}
	release, ok := places.TryAcquire("")
	if !ok {
		writeError(w, ErrTooMany)
		return
	}
	defer release()
	// The server looks at the request that it made to see whether a body is left, or
	// was never asked for.
	r = r.WithContext(r.Context())
	leave := func() {}
	switch r.Body {
	case nil, http.NoBody:
		r.Body = http.NoBody
	default:
		body := &movingBody{ReadCloser: r.Body, controller: controller, timeout: h.options.StallTimeout}
		r.Body, leave = body, body.leave
	}

	respond, err := h.handle(header, r)
	leave()
	if err != nil {
		// A caller that went away is no failure of the server.
		if kind := asError(err); (kind == ErrInternal || kind == ErrUnavailable) && r.Context().Err() == nil {
			klog.FromContext(r.Context()).Error(err, "Serving a registry request failed", "method", r.Method)
		}
		h.challenge(header, r, asError(err))
		writeError(w, err)
		return
	}
	respond(w)
}

// handle does all that can fail before the first byte of a response is sent,
// and returns what sends it; with an error header may have something to say as
// well. A panic of the backend or the authorizer is an error like any other.
func (h *handler) handle(header http.Header, r *http.Request) (respond func(http.ResponseWriter), err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()

	if h.options.Tokens != nil && r.URL.Path == tokenPath {
		return h.token(r)
	}
	req, err := parseRequest(r.Method, r.URL.EscapedPath())
	if err != nil {
		return nil, err
	}
	creds, err := credentialsOf(r)
	if err != nil {
		return nil, err
	}
	ctx, err := h.authz.Authorize(r.Context(), creds, req.repo, req.action)
	if err != nil {
		return nil, fmt.Errorf("authorizing %s: %w", req.path(), h.refusal(r.Context(), creds, req, err))
	}
	release, ok := h.namespaceRequests.TryAcquire(req.repo.Namespace)
	if !ok {
		return nil, ErrTooMany
	}
	defer func() {
		if respond == nil {
			release()
		}
	}()
	send, err := h.dispatch(ctx, header, r, creds, req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.method, req.path(), err)
	}
	return func(w http.ResponseWriter) {
		defer release()
		send(w)
	}, nil
}

// refusal tells who may read a repository that it is there.
func (h *handler) refusal(ctx context.Context, creds Credentials, req request, err error) error {
	if req.action == ActionPull || !errors.Is(err, ErrDenied) {
		return err
	}
	if _, pullErr := h.authz.Authorize(ctx, creds, req.repo, ActionPull); pullErr == nil {
		return ErrForbidden
	}
	return err
}

// dispatch does what an authorised request asks for.
func (h *handler) dispatch(ctx context.Context, header http.Header, r *http.Request, creds Credentials, req request) (func(http.ResponseWriter), error) {
	switch req.kind {
	case kindUploads:
		return h.startUpload(ctx, r, creds, req)
	case kindUpload:
		return h.upload(ctx, header, r, req)
	case kindManifest, kindBlob:
		switch req.action {
		case ActionPush:
			return h.putManifest(ctx, r, req)
		case ActionDelete:
			return h.remove(ctx, req)
		}
		content, err := h.open(ctx, req)
		if err != nil {
			return nil, err
		}
		return func(w http.ResponseWriter) { serveContent(w, r, content) }, nil
	case kindReferrers, kindTags:
		return h.list(ctx, r, req)
	default:
		return servePing, nil
	}
}

// list makes a list, which has its place until it is sent.
func (h *handler) list(ctx context.Context, r *http.Request, req request) (respond func(http.ResponseWriter), err error) {
	release, err := h.place(ctx, "lists are asked for", limit.Place{Of: h.namespaceListings, Key: req.repo.Namespace}, limit.Place{Of: h.listings})
	if err != nil {
		return nil, err
	}
	defer func() {
		if respond == nil {
			release()
		}
	}()
	var send func(http.ResponseWriter)
	if req.kind == kindTags {
		tags, err := h.backend.Tags(ctx, req.repo)
		if err != nil {
			return nil, err
		}
		if send, err = listTags(r, req.repo, tags); err != nil {
			return nil, err
		}
	} else {
		referrers, err := h.backend.Referrers(ctx, req.repo, req.digest)
		if err != nil {
			return nil, err
		}
		send = func(w http.ResponseWriter) { serveReferrers(w, r, referrers) }
	}
	return func(w http.ResponseWriter) {
		defer release()
		send(w)
	}, nil
}

// place waits until there is room for what lies in memory, of which there is too much.
func (h *handler) place(ctx context.Context, what string, places ...limit.Place) (release func(), err error) {
	return WaitForPlaces(ctx, h.options.StallTimeout, what, places...)
}

// WaitForPlaces waits until there is room for what lies in memory, for so long at most. What says, for the client, of what
// there is too much then: "manifests are pushed".
func WaitForPlaces(ctx context.Context, timeout time.Duration, what string, places ...limit.Place) (release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	release, err = limit.AcquireAll(waiting, places...)
	if err != nil && ctx.Err() == nil {
		return nil, Explain(ErrTooMany, "too many %s at this moment: try again later", what)
	}
	return release, err
}

// open asks the backend for the content that a request names.
func (h *handler) open(ctx context.Context, req request) (Content, error) {
	if req.kind == kindBlob {
		return h.backend.Blob(ctx, req.repo, req.digest)
	}
	dgst := req.digest
	if dgst == "" {
		if strings.HasPrefix(req.tag, reservedTagPrefix) {
			return nil, ErrManifestUnknown
		}
		desc, err := h.backend.Resolve(ctx, req.repo, req.tag)
		if err != nil {
			return nil, err
		}
		dgst = desc.Digest
	}
	return h.backend.Manifest(ctx, req.repo, dgst)
}

func servePing(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "{}") // an error here means that the client is gone
}

// serveReferrers sends the index of referrers, of one artifact type where that is
// asked for.
func serveReferrers(w http.ResponseWriter, r *http.Request, referrers []ocispec.Descriptor) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: referrers}
	if wanted := r.URL.Query().Get("artifactType"); wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		index.Manifests = slices.DeleteFunc(slices.Clone(referrers), func(d ocispec.Descriptor) bool { return d.ArtifactType != wanted })
	}
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{} // clients expect a list
	}
	serveJSON(w, ocispec.MediaTypeImageIndex, index)
}

// serveJSON sends a document.
func serveJSON(w http.ResponseWriter, mediaType string, document any) {
	w.Header().Set("Content-Type", mediaType)
	_ = json.NewEncoder(w).Encode(document) //nolint:errchkjson // of plain types; an error means that the client is gone
}

// listTags returns what sends a page of tags, without those that are reserved.
func listTags(r *http.Request, repo Repository, tags []string) (func(http.ResponseWriter), error) {
	query := r.URL.Query()
	last := query.Get("last")
	tags = slices.DeleteFunc(slices.Clone(tags), func(tag string) bool {
		return strings.HasPrefix(tag, reservedTagPrefix) || tag <= last && last != ""
	})
	more := false
	if query.Has("n") {
		n, err := strconv.Atoi(query.Get("n"))
		if err != nil || n < 0 {
			return nil, ErrPaginationInvalid
		}
		if more = n < len(tags); more {
			tags = tags[:n]
		}
	}
	if tags == nil {
		tags = []string{} // clients expect a list
	}
	return func(w http.ResponseWriter) {
		if more && len(tags) > 0 {
			next := url.Values{"n": {query.Get("n")}, "last": {tags[len(tags)-1]}}
			w.Header().Set("Link", "<"+pathPrefix+repo.String()+"/tags/list?"+next.Encode()+`>; rel="next"`)
		}
		serveJSON(w, "application/json", map[string]any{"name": repo.String(), "tags": tags})
	}, nil
}

// serveContent sends content and closes it. Ranges, preconditions and HEAD are
// net/http's, RFC 9110; the entity tag is the digest, which no two contents
// share.
func serveContent(w http.ResponseWriter, r *http.Request, content Content) {
	defer content.Close()
	desc := content.Descriptor()
	mediaType := desc.MediaType
	if mediaType == "" {
		mediaType = "application/octet-stream"
	}
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Docker-Content-Digest", desc.Digest.String())
	header.Set("Etag", `"`+desc.Digest.String()+`"`)

	if elsewhere, ok := content.(Stream); ok {
		serveStream(w, r, elsewhere)
		return
	}
	source := &observedReaderAt{ReaderAt: content}
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(source, 0, desc.Size))
	if source.err != nil {
		klog.FromContext(r.Context()).Error(source.err, "Reading content failed", "digest", desc.Digest)
		// The status line is out. To end here in good order would leave it to
		// the client to count; HTTP/2 has an error for it.
		panic(http.ErrAbortHandler)
	}
}

// observedReaderAt remembers the error that ended reading, which
// http.ServeContent keeps to itself. It serves one request.
type observedReaderAt struct {
	io.ReaderAt
	err error
}

func (o *observedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.ReaderAt.ReadAt(p, off)
	if err != nil && (!errors.Is(err, io.EOF) || n < len(p)) {
		o.err = err
	}
	return n, err
}

// credentialsOf reads the Authorization header. One that is neither Basic nor
// Bearer, or has no token, is refused: somebody who tried to authenticate must not silently be
// taken for anonymous.
func credentialsOf(r *http.Request) (Credentials, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return Credentials{}, nil
	}
	if username, password, ok := r.BasicAuth(); ok && password != "" {
		return Credentials{Username: username, Token: password}, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && token != "" {
		return Credentials{Token: token}, nil
	}
	return Credentials{}, fmt.Errorf("malformed Authorization header: %w", ErrUnauthenticated)
}
