// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// maxRetryAfter bounds what a host may ask us to wait.
	maxRetryAfter = time.Hour
	// maxErrorBytes bounds how much of an error's body is read for its code.
	maxErrorBytes = 8 << 10
)

// classify gives any error of the wire its Kind and a text of ours. Host is the
// one that was asked, for errors that do not name another.
func classify(err error, host string) *Error {
	if e := recognise(err, host); e != nil {
		return e
	}
	return failure(Unavailable, err, "the request to %s failed", hostOf(err, host))
}

// recognise is classify for the errors that are known, and nil for the rest.
func recognise(err error, host string) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	host = hostOf(err, host)
	var timeout net.Error
	var dns *net.DNSError
	var status *errcode.ErrorResponse
	switch {
	case errors.Is(err, context.Canceled):
		return failure(Unavailable, err, "the import was cancelled")
	case errors.As(err, &dns):
		return unresolved(dns, err, host)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return failure(Timeout, err, "%s did not answer in time", host)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return failure(Unauthorized, err, "%s asks for a user name and a password; add credentials for it", host).wantsCredentials()
	case errors.As(err, &status):
		return tokenRefused(err, status)
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure(Unavailable, err, "%s: connection refused", host)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return failure(Unavailable, err, "%s: no route to it", host)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failure(Unavailable, err, "%s closed the connection", host)
	}
	return tlsFailure(err, host)
}

// unresolved is the failure of a name that was not resolved. That there is none is
// said by NXDOMAIN, or by an answer without addresses; resolvers of clusters say
// SERVFAIL, or nothing in time, where they do not reach the one that would know.
func unresolved(dns *net.DNSError, err error, host string) *Error {
	const remedy = "check its spelling, and the DNS of the server"
	switch {
	case dns.IsNotFound:
		return failure(NotFound, err, "%s: no such host; check its spelling", host)
	case dns.IsTimeout:
		return failure(Timeout, err, "%s: its name was not resolved in time; "+remedy, host)
	default:
		return failure(Unavailable, err, "%s: its name cannot be resolved now; "+remedy, host)
	}
}

// tlsFailure recognises what goes wrong in a TLS handshake.
func tlsFailure(err error, host string) *Error {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case speaksPlainHTTP(err):
		return failure(TLS, err, "%s does not speak TLS; if plain HTTP is meant, set insecure: true", host).
			whereRefused("%s does not speak TLS, and insecure sources are not allowed here; ask the administrator", host).
			whereMirrored(`%s does not speak TLS; if plain HTTP is meant, set the key insecure to "true"`, host)
	case errors.As(err, &authority):
		return failure(TLS, err, "the certificate of %s is signed by an unknown authority; have the administrator add its CA, or set insecure: true", host).
			whereRefused("the certificate of %s is signed by an unknown authority; have the administrator add its CA", host).
			whereMirrored(`the certificate of %s is signed by an unknown authority; put its CA into the key ca, or set the key insecure to "true"`, host)
	case errors.As(err, &name):
		return failure(TLS, err, "the certificate of %s is for another name; use the name it was issued for", host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return failure(TLS, err, "the certificate of %s has expired or is not valid yet; have it renewed, and check the clocks", host)
	case errors.As(err, &verification), errors.As(err, &invalid):
		return failure(TLS, err, "the certificate of %s is not valid", host)
	case errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error"):
		// crypto/tls alone names operations so; its alerts have no exported type.
		return failure(TLS, err, "%s and Tagger agree on no TLS connection", host)
	}
	return nil
}

// speaksPlainHTTP reports whether the answer to a TLS handshake was not TLS.
func speaksPlainHTTP(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record)
}

// hostOf returns the host of the request that failed, which may be that of a
// token service or of a redirect. One that is none is not repeated.
func hostOf(err error, host string) string {
	var failed *url.Error
	if errors.As(err, &failed) {
		if u, err := url.Parse(failed.URL); err == nil && isHost(u.Host) {
			return u.Host
		}
	}
	return host
}

// isHost reports whether a host of a URL can be one. Others come from redirects
// and challenges alone, and might hold anything.
func isHost(host string) bool {
	return hostRegexp.MatchString(host)
}

var hostRegexp = regexp.MustCompile(`^[a-zA-Z0-9._:\[\]-]{1,261}$`)

// tokenRefused is the answer of a token service that gave no token. That a refresh
// token is not valid is said by status 400 (RFC 6749, section 5.2), and that there
// are none by 404 or 405.
func tokenRefused(err error, answer *errcode.ErrorResponse) *Error {
	host := answer.URL.Host
	switch code := answer.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden,
		answer.Method == http.MethodPost && slices.Contains([]int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed}, code):
		return failure(Unauthorized, err, "the token service %s refused access (%d); check the credentials", host, answer.StatusCode).wantsCredentials()
	default:
		return failure(Unavailable, err, "the token service %s answered %d", host, answer.StatusCode)
	}
}

// asked is what a request was for.
type asked struct {
	what        string // in words
	whenAbsent  string // what to do when that is not found
	whenRefused string // what to do when access is refused; empty: that depends on known
	known       bool   // it was sent with credentials
}

// status turns an answer other than 200 into an error, and closes it.
func status(resp *http.Response, asked asked, now time.Time) *Error {
	defer resp.Body.Close()
	code := strconv.Itoa(resp.StatusCode)
	if c := ErrorCode(resp.Body); c != "" {
		code += " " + c
	}
	answered := &answerError{resp.StatusCode}
	host := resp.Request.URL.Host
	what := asked.what
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		remedy := asked.whenRefused
		switch {
		case remedy != "":
		case asked.known:
			remedy = "the credentials for it are wrong, or may not read it"
		default:
			remedy = "it does not exist or needs credentials that may read it"
		}
		return failure(Unauthorized, answered, "%s: %s refused access (%s); %s", what, host, code, remedy).wantsCredentials()
	case http.StatusNotFound, http.StatusGone:
		return failure(NotFound, answered, "%s: not found at %s (%s); %s", what, host, code, asked.whenAbsent)
	case http.StatusTooManyRequests:
		e := failure(RateLimited, answered, "%s limits how often it may be asked (%s); credentials often raise the limit", host, code).wantsCredentials()
		e.RetryAfter = retryAfter(resp.Header, now)
		return e
	default:
		e := failure(Unavailable, answered, "%s: %s answered %s", what, host, code)
		e.RetryAfter = retryAfter(resp.Header, now)
		return e
	}
}

// answerError is the cause of errors that come from a status code.
type answerError struct{ status int }

func (e *answerError) Error() string { return http.StatusText(e.status) }

// errorCodes are the codes of the OCI distribution specification, and the one
// for rate limits that registries use.
var errorCodes = []string{
	errcode.ErrorCodeBlobUnknown, errcode.ErrorCodeBlobUploadInvalid, errcode.ErrorCodeBlobUploadUnknown,
	errcode.ErrorCodeDigestInvalid, errcode.ErrorCodeManifestBlobUnknown, errcode.ErrorCodeManifestInvalid,
	errcode.ErrorCodeManifestUnknown, errcode.ErrorCodeNameInvalid, errcode.ErrorCodeNameUnknown,
	errcode.ErrorCodeSizeInvalid, errcode.ErrorCodeUnauthorized, errcode.ErrorCodeDenied,
	errcode.ErrorCodeUnsupported, "TOOMANYREQUESTS",
}

// ErrorCode returns the first code of an error body if it is a known one: the
// rest of the body is the host's own words and goes nowhere.
func ErrorCode(body io.Reader) string {
	if code, _ := FirstErrorCode(body); slices.Contains(errorCodes, code) {
		return code
	}
	return ""
}

// FirstErrorCode returns the first code of an error body, and whether there is one.
// It is the host's own word, to compare and not to show.
func FirstErrorCode(body io.Reader) (code string, found bool) {
	var document struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	raw, _ := io.ReadAll(io.LimitReader(body, maxErrorBytes))
	if json.Unmarshal(raw, &document) != nil || len(document.Errors) == 0 {
		return "", false
	}
	return document.Errors[0].Code, true
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	var wait time.Duration
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		wait = time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
