// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// pathPrefix is the root of the endpoint; the specification fixes it.
const pathPrefix = "/v2/"

// kind tells the paths of the specification apart.
type kind int

const (
	// kindPing is /v2/, "Determining Support".
	kindPing kind = iota
	// kindManifest is /v2/<name>/manifests/<reference>.
	kindManifest
	// kindBlob is /v2/<name>/blobs/<digest>.
	kindBlob
	// kindUploads is /v2/<name>/blobs/uploads/, where uploads begin.
	kindUploads
	// kindUpload is the location of an upload, below that.
	kindUpload
	// kindReferrers is /v2/<name>/referrers/<digest>, "Listing Referrers".
	kindReferrers
	// kindTags is /v2/<name>/tags/list, "Listing Tags".
	kindTags
)

// methods are those of each kind, with what they do to the repository.
var methods = map[kind]map[string]Action{
	kindPing:      {http.MethodGet: ActionPull, http.MethodHead: ActionPull},
	kindManifest:  {http.MethodGet: ActionPull, http.MethodHead: ActionPull, http.MethodPut: ActionPush, http.MethodDelete: ActionDelete},
	kindBlob:      {http.MethodGet: ActionPull, http.MethodHead: ActionPull, http.MethodDelete: ActionDelete},
	kindUploads:   {http.MethodPost: ActionPush},
	kindUpload:    {http.MethodGet: ActionPush, http.MethodHead: ActionPush, http.MethodPatch: ActionPush, http.MethodPut: ActionPush, http.MethodDelete: ActionPush},
	kindReferrers: {http.MethodGet: ActionPull, http.MethodHead: ActionPull},
	kindTags:      {http.MethodGet: ActionPull, http.MethodHead: ActionPull},
}

// uploadPattern is what an upload may be called: what may stand in a path as it is.
var uploadPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// maxUploadID bounds that, in bytes: a backend may keep there what it knows of an upload.
const maxUploadID = 8 << 10

// request is a request of the specification, free of HTTP. Every field that its
// kind uses has been checked against the grammar.
type request struct {
	kind   kind
	method string
	action Action
	// repo is the zero Repository with kindPing.
	repo Repository
	// tag or digest is set with kindManifest, digest with kindBlob and
	// kindReferrers.
	tag    string
	digest digest.Digest
	// upload is set with kindUpload.
	upload string
}

// parseRequest makes a request of a method and the escaped path of a URL. Its
// error wraps the Error to answer.
//
// The path is split before it is unescaped, so that an escaped slash can only
// ever be part of a segment, where no grammar allows it.
func parseRequest(method, escapedPath string) (request, error) {
	req, err := parsePath(escapedPath)
	if err != nil {
		return request{}, err
	}
	action, ok := methods[req.kind][method]
	if !ok {
		return request{}, notAllowed(methods[req.kind])
	}
	req.method, req.action = method, action
	return req, nil
}

func parsePath(escapedPath string) (request, error) {
	rest, ok := strings.CutPrefix(escapedPath, pathPrefix)
	if !ok {
		return request{}, ErrEndpointUnknown
	}
	if rest == "" {
		return request{kind: kindPing}, nil
	}

	segments := strings.Split(rest, "/")
	for i, segment := range segments {
		unescaped, err := url.PathUnescape(segment)
		if err != nil {
			return request{}, ErrEndpointUnknown
		}
		segments[i] = unescaped
	}
	last := len(segments) - 1
	if last < 1 {
		return request{}, ErrEndpointUnknown
	}
	name, reference := segments[:last-1], segments[last]

	switch segments[last-1] {
	case "manifests":
		repo, err := repositoryOf(name)
		if err != nil {
			return request{}, err
		}
		return parseManifestRequest(repo, reference)
	case "blobs":
		if reference == "uploads" { // clients are known to leave the last slash out
			return parseUploadRequest(name, "")
		}
		return parseDigestRequest(kindBlob, name, reference)
	case "uploads":
		if last < 2 || segments[last-2] != "blobs" {
			return request{}, ErrEndpointUnknown
		}
		return parseUploadRequest(segments[:last-2], reference)
	case "referrers":
		return parseDigestRequest(kindReferrers, name, reference)
	case "tags":
		if reference != "list" {
			return request{}, ErrEndpointUnknown
		}
		repo, err := repositoryOf(name)
		if err != nil {
			return request{}, err
		}
		return request{kind: kindTags, repo: repo}, nil
	default:
		return request{}, ErrEndpointUnknown
	}
}

func parseUploadRequest(name []string, upload string) (request, error) {
	repo, err := repositoryOf(name)
	switch {
	case err != nil:
		return request{}, err
	case upload == "":
		return request{kind: kindUploads, repo: repo}, nil
	case len(upload) > maxUploadID, !uploadPattern.MatchString(upload):
		return request{}, ErrUploadUnknown
	}
	return request{kind: kindUpload, repo: repo, upload: upload}, nil
}

func parseDigestRequest(kind kind, name []string, reference string) (request, error) {
	repo, err := repositoryOf(name)
	if err != nil {
		return request{}, err
	}
	dgst, err := parseDigest(reference)
	if err != nil {
		return request{}, err
	}
	return request{kind: kind, repo: repo, digest: dgst}, nil
}

// repositoryOf takes the name's segments one by one: joining them first would
// turn a slash that was escaped into one that separates.
func repositoryOf(segments []string) (Repository, error) {
	if len(segments) != 2 {
		return Repository{}, fmt.Errorf("%d segments: %w", len(segments), ErrNameInvalid)
	}
	repo := Repository{Namespace: segments[0], Name: segments[1]}
	return repo, repo.Validate()
}

// parseManifestRequest tells a digest from a tag by the colon, which no tag can
// have. What is neither cannot exist, which the specification wants told as
// an unknown manifest.
func parseManifestRequest(repo Repository, reference string) (request, error) {
	if strings.Contains(reference, ":") {
		dgst, err := parseDigest(reference)
		if err != nil {
			return request{}, err
		}
		return request{kind: kindManifest, repo: repo, digest: dgst}, nil
	}
	if !tagPattern.MatchString(reference) {
		return request{}, fmt.Errorf("tag %q: %w", reference, ErrManifestUnknown)
	}
	return request{kind: kindManifest, repo: repo, tag: reference}, nil
}

// path is the inverse of parseRequest: the canonical path of the request.
func (r request) path() string {
	switch r.kind {
	case kindManifest:
		reference := r.tag
		if r.digest != "" {
			reference = r.digest.String()
		}
		return pathPrefix + r.repo.String() + "/manifests/" + reference
	case kindBlob:
		return pathPrefix + r.repo.String() + "/blobs/" + r.digest.String()
	case kindUploads, kindUpload:
		return pathPrefix + r.repo.String() + "/blobs/uploads/" + r.upload
	case kindReferrers:
		return pathPrefix + r.repo.String() + "/referrers/" + r.digest.String()
	case kindTags:
		return pathPrefix + r.repo.String() + "/tags/list"
	default:
		return pathPrefix
	}
}
