// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
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
	// ErrDenied: the caller may not do this. It is written as ErrNameUnknown.
	ErrDenied
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
	ErrInternal:          {http.StatusInternalServerError, "UNKNOWN", "internal error"},
	ErrNameInvalid:       {http.StatusBadRequest, "NAME_INVALID", "invalid repository name: it is NAMESPACE/NAME in lower case"},
	ErrNameUnknown:       {http.StatusNotFound, "NAME_UNKNOWN", "repository unknown, or not allowed to you"},
	ErrManifestUnknown:   {http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to the repository"},
	ErrBlobUnknown:       {http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to the repository"},
	ErrDigestInvalid:     {http.StatusBadRequest, "DIGEST_INVALID", "invalid digest: it is sha256: and 64, or sha512: and 128 hexadecimal digits in lower case"},
	ErrPaginationInvalid: {http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "invalid number of results: n is a number, not negative"},
	ErrUnauthenticated:   {http.StatusUnauthorized, "UNAUTHORIZED", "authentication required: any user name, and a token as the password"},
	ErrDenied:            {http.StatusNotFound, "NAME_UNKNOWN", "repository unknown, or not allowed to you"},
	ErrUnsupported:       {http.StatusMethodNotAllowed, "UNSUPPORTED", "operation not supported"},
	ErrEndpointUnknown:   {http.StatusNotFound, "UNSUPPORTED", "endpoint not supported"},
}

// Error returns the text that clients are told.
func (e Error) Error() string { return answers[e].message }

// asError finds the Error that err wraps, ErrInternal where there is none.
func asError(err error) Error {
	var e Error
	if errors.As(err, &e) {
		return e
	}
	return ErrInternal
}

// errorDocument is the body of every failure, section "Error Codes".
type errorDocument struct {
	Errors []errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// write sends e as the whole response.
func (e Error) write(w http.ResponseWriter) {
	answer := answers[e]
	body, err := json.Marshal(errorDocument{Errors: []errorEntry{{Code: answer.code, Message: answer.message}}})
	if err != nil {
		panic(err) // two strings always marshal
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	switch e {
	case ErrUnauthenticated:
		header.Set("WWW-Authenticate", `Basic realm="Tagger"`)
	case ErrUnsupported:
		header.Set("Allow", "GET, HEAD")
	}
	w.WriteHeader(answer.status)
	// An error here means that the client is gone; nobody is left to tell.
	_, _ = w.Write(body)
}
