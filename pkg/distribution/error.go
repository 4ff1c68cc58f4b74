// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Error is a kind of failure that a client is told about. Its values are
// compared with errors.Is and are wrapped with context for the log, as in
// fmt.Errorf("tag %q: %w", tag, ErrManifestUnknown).
type Error int

// The failures that this package, a Backend or an Authorizer report.
const (
	// ErrInternal is what every error that wraps no Error becomes.
	ErrInternal Error = iota
	// ErrNameInvalid: not a repository name.
	ErrNameInvalid
	// ErrNameUnknown: no such repository.
	ErrNameUnknown
	// ErrManifestUnknown: no such tag or manifest in the repository.
	ErrManifestUnknown
	// ErrBlobUnknown: no such blob in the repository.
	ErrBlobUnknown
	// ErrDigestInvalid: not a digest, or of an algorithm that is not served.
	ErrDigestInvalid
	// ErrPaginationInvalid: n is not a number of results.
	ErrPaginationInvalid
	// ErrUnauthenticated: no credentials, or none that are accepted.
	ErrUnauthenticated
	// ErrInsufficientScope: what the caller may do, but not by this token, which is
	// bound to something else.
	ErrInsufficientScope
	// ErrTokenRequestInvalid: not a request for a token of the handshake.
	ErrTokenRequestInvalid
	// ErrTokenTooLarge: so much is known of the caller that no token holds it.
	ErrTokenTooLarge
	// ErrDenied: the caller may not do this. It is written as ErrNameUnknown, or as
	// ErrForbidden to who may read the repository.
	ErrDenied
	// ErrForbidden: the caller may not do this to a repository that it may read.
	ErrForbidden
	// ErrUploadUnknown: no such upload in the repository.
	ErrUploadUnknown
	// ErrUploadInvalid: the upload cannot go on so.
	ErrUploadInvalid
	// ErrRangeInvalid: a chunk that does not begin where the upload ends.
	ErrRangeInvalid
	// ErrSizeInvalid: larger than may be, or of another size than was said.
	ErrSizeInvalid
	// ErrManifestInvalid: not a manifest that is served.
	ErrManifestInvalid
	// ErrManifestBlobUnknown: a manifest that names what is not in the repository.
	ErrManifestBlobUnknown
	// ErrInUse: a manifest of the repository names what was to be deleted.
	ErrInUse
	// ErrReserved: a tag that is not the client's to write.
	ErrReserved
	// ErrConflict: somebody else does the same at this moment.
	ErrConflict
	// ErrTooMany: too much of it at once.
	ErrTooMany
	// ErrUnavailable: not now; another server, or this one later, will do it. What has
	// the content may not answer as it should.
	ErrUnavailable
	// ErrNoSpace: the disk is full.
	ErrNoSpace
	// ErrFull: the namespace has as much as it may.
	ErrFull
	// ErrUnsupported: the method is not served.
	ErrUnsupported
	// ErrEndpointUnknown: the path is none of the specification, or of a part
	// of it that is not served. It is a 404 with another code than
	// NAME_UNKNOWN, by which clients recognise a missing referrers API.
	ErrEndpointUnknown
)

// answers says how each Error looks on the wire. The codes are those of the
// specification, section "Error Codes"; it has none for ErrInternal, for which
// UNKNOWN is common.
var answers = map[Error]struct {
	status  int
	code    string
	message string
}{
	ErrInternal:            {http.StatusInternalServerError, "UNKNOWN", "internal error"},
	ErrNameInvalid:         {http.StatusBadRequest, "NAME_INVALID", "invalid repository name: it is NAMESPACE/NAME in lower case"},
	ErrNameUnknown:         {http.StatusNotFound, "NAME_UNKNOWN", "repository unknown, or not allowed to you"},
	ErrManifestUnknown:     {http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to the repository"},
	ErrBlobUnknown:         {http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to the repository"},
	ErrDigestInvalid:       {http.StatusBadRequest, "DIGEST_INVALID", "invalid digest: it is sha256: and 64, or sha512: and 128 hexadecimal digits in lower case"},
	ErrPaginationInvalid:   {http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "invalid number of results: n is a number, not negative"},
	ErrUnauthenticated:     {http.StatusUnauthorized, "UNAUTHORIZED", "authentication required: any user name, and a token as the password"},
	ErrInsufficientScope:   {http.StatusUnauthorized, "UNAUTHORIZED", "the token is bound to something else: get one for this"},
	ErrTokenRequestInvalid: {http.StatusBadRequest, "UNSUPPORTED", "invalid request for a token: GET with scopes of at most 32 repositories, or POST of a form with grant_type password or refresh_token"},
	ErrTokenTooLarge:       {http.StatusForbidden, "DENIED", "you are in more groups than a token can name: use the token of a service account"},
	ErrDenied:              {http.StatusNotFound, "NAME_UNKNOWN", "repository unknown, or not allowed to you"},
	ErrForbidden:           {http.StatusForbidden, "DENIED", "you may read this repository, but not do that: pushes need the right to update images/layers in the namespace, deletions that to delete it"},
	ErrUploadUnknown:       {http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "upload unknown to the repository: it ended, or was given up"},
	ErrUploadInvalid:       {http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "invalid upload"},
	ErrRangeInvalid:        {http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "a chunk begins where the upload ends: see the header Range"},
	ErrSizeInvalid:         {http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the content is larger than this registry accepts"},
	ErrManifestInvalid:     {http.StatusBadRequest, "MANIFEST_INVALID", "invalid manifest"},
	ErrManifestBlobUnknown: {http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "the manifest names content that is not in this repository: push that first"},
	ErrInUse:               {http.StatusConflict, "DENIED", "a manifest of this repository names it: delete that first"},
	ErrReserved:            {http.StatusForbidden, "DENIED", "tags that begin with anchor- are Tagger's own"},
	ErrConflict:            {http.StatusConflict, "UNKNOWN", "somebody else did the same at this moment: try again"},
	ErrTooMany:             {http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests: try again later"},
	ErrUnavailable:         {http.StatusServiceUnavailable, "UNKNOWN", "the server is about to stop: try again"},
	ErrNoSpace:             {http.StatusInsufficientStorage, "UNKNOWN", "the disk of the registry is full: tell the administrator"},
	ErrFull:                {http.StatusForbidden, "DENIED", "the namespace has as much as it may have in this registry: delete what it does not need"},
	ErrUnsupported:         {http.StatusMethodNotAllowed, "UNSUPPORTED", "operation not supported"},
	ErrEndpointUnknown:     {http.StatusNotFound, "UNSUPPORTED", "endpoint not supported"},
}

// Error returns the text that clients are told.
func (e Error) Error() string { return answers[e].message }

// Message is an Error with a text of its own that the client is told.
type Message struct { //nolint:errname // Error is the kind that it is of
	Kind Error
	Text string
}

// Error returns that text.
func (m *Message) Error() string { return m.Text }

// Unwrap returns the kind.
func (m *Message) Unwrap() error { return m.Kind }

// Explain returns an error of a kind with a text for the client, which says what to
// do about it and gives nothing away.
func Explain(kind Error, format string, args ...any) error {
	return &Message{kind, fmt.Sprintf(format, args...)}
}

// asError finds the Error that err wraps, ErrInternal where there is none.
func asError(err error) Error {
	var e Error
	if errors.As(err, &e) {
		return e
	}
	return ErrInternal
}

// notAllowed is ErrUnsupported with the methods that are.
func notAllowed(allowed map[string]Action) error {
	return &methodError{slices.Sorted(maps.Keys(allowed))}
}

type methodError struct{ allowed []string }

func (*methodError) Error() string { return ErrUnsupported.Error() }

func (*methodError) Unwrap() error { return ErrUnsupported }

// errorDocument is the body of every failure, section "Error Codes".
type errorDocument struct {
	Errors []errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Refuse answers a request by err, in the words of the endpoint, for who stands in
// front of it.
func Refuse(w http.ResponseWriter, err error) { writeError(w, err) }

// writeError sends err as the whole response.
func writeError(w http.ResponseWriter, err error) {
	kind := asError(err)
	answer := answers[kind]
	text := answer.message
	if message := (*Message)(nil); errors.As(err, &message) {
		text = message.Text
	}
	body, err2 := json.Marshal(errorDocument{Errors: []errorEntry{{Code: answer.code, Message: text}}})
	if err2 != nil {
		panic(err2) // two strings always marshal
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if method := (*methodError)(nil); errors.As(err, &method) {
		header.Set("Allow", strings.Join(method.allowed, ", "))
	}
	if kind == ErrTooMany || kind == ErrUnavailable {
		header.Set("Retry-After", "5")
	}
	w.WriteHeader(answer.status)
	// An error here means that the client is gone; nobody is left to tell.
	_, _ = w.Write(body)
}
