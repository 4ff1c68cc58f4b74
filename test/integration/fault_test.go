// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/test/lab"
)

// recorded is what becomes of an import, in the words of the documentation.
type recorded string

const (
	again  recorded = "nothing; tried again"
	ended  recorded = "nothing; not tried again"
	healed recorded = "nothing at first; the image by the next attempt, once the source has healed"
	waited recorded = "nothing; tried again when the pause that was asked for is over, and so is whatever else comes from that host"
	whole  recorded = "the image"
	older  recorded = "the image that the tag meant when it was asked; the next import records what it means then"
)

// imported says whether an import ends with an entry in the history, without any attempt that fails.
func (r recorded) imported() bool { return r == whole || r == older }

// faultCase is a row of docs/reliability.md.
type faultCase struct {
	name      string
	transport lab.Transport
	// host is where to import from when it is not a source.
	host func(t *testing.T) string
	// fault is that of the source, which has an artifact named after the case under app:latest. It may put other things there.
	fault func(t *testing.T, bad *lab.Source) lab.Fault
	tag   string // latest unless it says otherwise
	slow  bool   // takes as long as the server's own limits
	// direct asks the importer itself, of a process that refuses loopback: a standalone server does not.
	direct bool

	reason, message string
	recorded        recorded
}

const (
	ociJSON = ocispec.MediaTypeImageIndex
	// The ends of messages that several faults have.
	authFile    = "(they are kept in the file of --registry-auth-file, which is not set)"
	brokenProxy = "something on the way changes content: look for a broken proxy or cache, or tell the registry"
	incomplete  = "the image is incomplete there, or was deleted meanwhile; push it there again"
)

// always is a fault for every request.
func always(f lab.Fault) func(*testing.T, *lab.Source) lab.Fault {
	return func(*testing.T, *lab.Source) lab.Fault { return f }
}

// onBlobs is a fault where blobs are fetched, and onManifests where manifests are.
func onBlobs(f lab.Fault) func(*testing.T, *lab.Source) lab.Fault {
	return always(lab.Only(lab.Blobs, f))
}
func onManifests(f lab.Fault) func(*testing.T, *lab.Source) lab.Fault {
	return always(lab.Only(lab.Manifests, f))
}

// onChild puts an index there, and is a fault where one of its two images is fetched.
func onChild(f lab.Fault) func(*testing.T, *lab.Source) lab.Fault {
	return func(t *testing.T, bad *lab.Source) lab.Fault {
		t.Helper()
		index := newIndex(t, ociTypes)
		bad.Push(t, "app", index)
		return lab.At(must(index.IndexManifest())(t).Manifests[1].Digest.String(), f)
	}
}

// onceNamed does something after the source has said, and before it is asked for it, which digest the tag means.
func onceNamed(do func(t *testing.T, bad *lab.Source)) func(*testing.T, *lab.Source) lab.Fault {
	return func(t *testing.T, bad *lab.Source) lab.Fault {
		return lab.When(func(r *http.Request) bool { return r.Method == http.MethodHead }, lab.After(func() { do(t, bad) }))
	}
}

// putIndex puts an index under app:latest.
func putIndex(t *testing.T, bad *lab.Source, tag string, children ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children}
	index.SchemaVersion = 2
	raw := must(json.Marshal(index))(t)
	return bad.PutManifest(t, "app", tag, index.MediaType, raw, digest.SHA256)
}

// manyChildren puts an index of so many images there, none of which is.
func manyChildren(n int) func(*testing.T, *lab.Source) lab.Fault {
	return func(t *testing.T, bad *lab.Source) lab.Fault {
		t.Helper()
		var children []ocispec.Descriptor
		for i := range n {
			children = append(children, ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 500})
		}
		putIndex(t, bad, "latest", children...)
		return nil
	}
}

// deepIndex puts an index there that has an index, that has an index, and so on.
func deepIndex(depth int) func(*testing.T, *lab.Source) lab.Fault {
	return func(t *testing.T, bad *lab.Source) lab.Fault {
		t.Helper()
		child := putIndex(t, bad, "")
		for range depth - 2 {
			child = putIndex(t, bad, "", child)
		}
		putIndex(t, bad, "latest", child)
		return nil
	}
}

// wrongSize puts an index there that says of a manifest that it is larger than it is.
func wrongSize(t *testing.T, bad *lab.Source) lab.Fault {
	t.Helper()
	child := putIndex(t, bad, "")
	child.Size++
	putIndex(t, bad, "latest", child)
	return nil
}

// faultCases are the rows of the table, in its order.
var faultCases = []faultCase{
	// The network.
	{name: "connection refused", host: fixedHost("127.0.0.1:1"), reason: v1beta1.ReasonUnavailable,
		message: "FROM: HOST: connection refused", recorded: again},
	{name: "no route to the host", host: fixedHost(lab.NoRoute), reason: v1beta1.ReasonUnavailable,
		message: "FROM: HOST: no route to it", recorded: again},
	{name: "no such host name", host: fixedHost(lab.NoSuchName), reason: v1beta1.ReasonNotFound,
		message: "FROM: HOST: no such host; check its spelling", recorded: again},
	{name: "the host accepts the connection and says nothing", host: func(t *testing.T) string { return lab.Silent(t) }, slow: true,
		reason: v1beta1.ReasonTimeout, message: "FROM: HOST did not answer in time", recorded: again},
	{name: "no header of an answer for 30 s", fault: always(lab.HangingAfter(-1)), slow: true,
		reason: v1beta1.ReasonTimeout, message: "FROM: HOST did not answer in time", recorded: again},
	{name: "a blob stands still for 60 s", fault: onBlobs(lab.HangingAfter(1)), slow: true,
		reason: v1beta1.ReasonTimeout, message: "FROM: HOST sent nothing for 1m0s", recorded: again},
	{name: "a blob trickles in, a little every two seconds for 70 s", fault: onBlobs(lab.Trickling(35, 2*time.Second)), slow: true,
		reason: v1beta1.ReasonImported, message: "FROM means DIGEST", recorded: whole},
	{name: "the connection is cut in the middle of a blob", fault: onBlobs(lab.CuttingAfter(1)), reason: v1beta1.ReasonUnavailable,
		message: "FROM: blob DIGEST: HOST closed the connection after N of M bytes", recorded: again},
	// TLS.
	{name: "an expired certificate", transport: lab.Expired, reason: v1beta1.ReasonTLS,
		message: "FROM: the certificate of HOST has expired or is not valid yet; have it renewed, and check the clocks", recorded: again},
	{name: "a certificate for another name", transport: lab.WrongName, reason: v1beta1.ReasonTLS,
		message: "FROM: the certificate of HOST is for another name; use the name it was issued for", recorded: again},
	{name: "a certificate of an unknown CA", transport: lab.UnknownCA, reason: v1beta1.ReasonTLS,
		message: "FROM: the certificate of HOST is signed by an unknown authority; have the administrator add its CA, or set insecure: true", recorded: again},
	{name: "plain HTTP", transport: lab.PlainHTTP, reason: v1beta1.ReasonTLS,
		message: "FROM: HOST does not speak TLS; if plain HTTP is meant, set insecure: true", recorded: again},
	// Refusals.
	{name: "401", fault: always(lab.Answering(http.StatusUnauthorized, "application/json", errorBody("UNAUTHORIZED"))), reason: v1beta1.ReasonUnauthorized,
		message: "FROM: manifest latest: HOST refused access (401); it does not exist or needs credentials that may read it " + authFile, recorded: again},
	{name: "403, with an error code of its own", fault: always(lab.Answering(http.StatusForbidden, "application/json", errorBody(marker))), reason: v1beta1.ReasonUnauthorized,
		message: "FROM: manifest latest: HOST refused access (403); it does not exist or needs credentials that may read it " + authFile, recorded: again},
	{name: "404: no such tag", tag: "absent", reason: v1beta1.ReasonNotFound,
		message: "FROM: manifest absent: not found at HOST (404); check the repository and the tag", recorded: again},
	{name: "429", fault: always(lab.Answering(http.StatusTooManyRequests, "application/json", errorBody("TOOMANYREQUESTS"))), reason: v1beta1.ReasonRateLimited,
		message: "FROM: HOST limits how often it may be asked (429); credentials often raise the limit " + authFile, recorded: again},
	{name: "429 with `Retry-After`", fault: always(lab.WithHeader("Retry-After", "600", lab.Answering(http.StatusTooManyRequests, "application/json", errorBody("TOOMANYREQUESTS")))),
		reason: v1beta1.ReasonRateLimited, message: "FROM: HOST limits how often it may be asked (429); credentials often raise the limit " + authFile, recorded: waited},
	{name: "500", fault: always(lab.Answering(http.StatusInternalServerError, "text/plain", marker)), reason: v1beta1.ReasonUnavailable,
		message: "FROM: manifest latest: HOST answered 500", recorded: again},
	{name: "500 where the manifest is fetched", fault: onManifests(lab.Answering(http.StatusInternalServerError, "application/json", errorBody(marker))),
		reason: v1beta1.ReasonUnavailable, message: "FROM: manifest DIGEST: HOST answered 500", recorded: again},
	{name: "503 that heals", fault: always(lab.Answering(http.StatusServiceUnavailable, "text/plain", marker)), reason: v1beta1.ReasonUnavailable,
		message: "FROM: manifest latest: HOST answered 503", recorded: healed},
	{name: "a token that expires in the middle", fault: always(lab.Tokens(2)), reason: v1beta1.ReasonImported,
		message: "FROM means DIGEST", recorded: whole},
	// Redirects.
	{name: "a redirect loop", fault: always(lab.Looping), reason: v1beta1.ReasonUnavailable,
		message: "FROM: HOST redirects more than 10 times", recorded: again},
	{name: "a redirect to a link-local address", fault: always(lab.Redirecting("https://" + lab.LinkLocal + "/" + marker)), reason: v1beta1.ReasonBlocked,
		message: "FROM: the registry is at a link-local address, which is refused here; ask the administrator or use another registry", recorded: ended},
	{name: "a redirect to loopback, where that is refused", fault: func(_ *testing.T, bad *lab.Source) lab.Fault { return lab.Redirecting(bad.URL("/" + marker)) }, direct: true,
		reason: v1beta1.ReasonBlocked, message: "FROM: the registry is at a loopback address, which is refused here; ask the administrator or use another registry", recorded: ended},
	// Documents.
	{name: "a web page", fault: always(lab.Answering(http.StatusOK, "text/html", "<title>"+marker+"</title>")), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: the registry answered with a web page; check that the host is a registry", recorded: ended},
	{name: "a web page that is said to be a manifest", fault: always(lab.Answering(http.StatusOK, ociJSON, "<title>"+marker+"</title>")), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: its manifest is not valid JSON of its kind", recorded: ended},
	{name: "a manifest of no known kind", fault: always(lab.Answering(http.StatusOK, marker+"/"+marker, `{"`+marker+`":1}`)), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: it is neither an OCI nor a docker image", recorded: ended},
	{name: "a docker image of schema 1", fault: always(lab.Answering(http.StatusOK, schema1, `{"schemaVersion":1,"name":"`+marker+`"}`)), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: it is a docker image of schema 1, which no current runtime accepts; push it again with a current tool", recorded: ended},
	{name: "a manifest of 64 MiB", fault: always(lab.Endless(ociJSON, 64<<20, true)), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: its manifest is larger than the 4194304 bytes allowed", recorded: ended},
	{name: "the same without a `Content-Length`", fault: always(lab.Endless(ociJSON, 64<<20, false)), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: its manifest is larger than the 4194304 bytes allowed", recorded: ended},
	{name: "an index of 10,000 images", fault: manyChildren(10_000), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: it has more than 1000 manifests", recorded: ended},
	{name: "indexes 100 levels deep", fault: deepIndex(100), reason: v1beta1.ReasonUnsupportedManifest,
		message: "FROM: its indexes lie more than 4 levels deep", recorded: ended},
	// Content.
	{name: "a manifest of another digest", fault: onManifests(lab.Altering(lab.Flip)), reason: v1beta1.ReasonDigestMismatch,
		message: "FROM: the registry served DIGEST as DIGEST; " + brokenProxy, recorded: again},
	{name: "an image of an index that has another digest", fault: onChild(lab.Altering(lab.Flip)), reason: v1beta1.ReasonDigestMismatch,
		message: "FROM: the registry served DIGEST as DIGEST; " + brokenProxy, recorded: again},
	{name: "an image of an index that has another size", fault: wrongSize, reason: v1beta1.ReasonDigestMismatch,
		message: "FROM: the manifest DIGEST has N bytes where its index says M; the image has to be built or pushed again", recorded: again},
	{name: "an image of an index that is not there", fault: onChild(lab.Answering(http.StatusNotFound, "application/json", errorBody("MANIFEST_UNKNOWN"))),
		reason: v1beta1.ReasonNotFound, message: "FROM: manifest DIGEST: not found at HOST (404 MANIFEST_UNKNOWN); " + incomplete, recorded: again},
	{name: "a blob of another digest", fault: onBlobs(lab.Altering(lab.Flip)), reason: v1beta1.ReasonDigestMismatch,
		message: "FROM: blob DIGEST: HOST sent other content; " + brokenProxy, recorded: again},
	{name: "a blob that is too short", fault: onBlobs(lab.Altering(lab.Half)), reason: v1beta1.ReasonUnavailable,
		message: "FROM: blob DIGEST: HOST closed the connection after N of M bytes", recorded: again},
	{name: "a blob that is too long", fault: onBlobs(lab.Altering(lab.Longer)), reason: v1beta1.ReasonDigestMismatch,
		message: "FROM: blob DIGEST: HOST sent more than its N bytes; " + brokenProxy, recorded: again},
	{name: "a blob that is not there", fault: onBlobs(lab.Answering(http.StatusNotFound, "application/json", errorBody("BLOB_UNKNOWN"))),
		reason: v1beta1.ReasonNotFound, message: "FROM: blob DIGEST: not found at HOST (404 BLOB_UNKNOWN); " + incomplete, recorded: again},
	// Changes meanwhile.
	{name: "the tag is moved in the middle", fault: onceNamed(func(t *testing.T, bad *lab.Source) { bad.Push(t, "app", newArtifact(t, bad.Reference("moved"))) }),
		reason: v1beta1.ReasonImported, message: "FROM means DIGEST", recorded: older},
	{name: "the tag is deleted in the middle", fault: onceNamed(func(t *testing.T, bad *lab.Source) { bad.Delete(t, "app:latest") }),
		reason: v1beta1.ReasonImported, message: "FROM means DIGEST", recorded: whole},
	{name: "the image is deleted in the middle", fault: func(t *testing.T, bad *lab.Source) lab.Fault {
		t.Helper()
		image := newArtifact(t, "deleted")
		bad.Push(t, "app", image)
		return onceNamed(func(t *testing.T, bad *lab.Source) { bad.Delete(t, "app@"+digestOf(t, image)) })(t, bad)
	}, reason: v1beta1.ReasonNotFound, message: "FROM: manifest DIGEST: not found at HOST (404 MANIFEST_UNKNOWN); " + incomplete, recorded: again},
}

// fixedHost is a host that needs nothing done.
func fixedHost(host string) func(*testing.T) string { return func(*testing.T) string { return host } }

// from returns the reference that a case imports, of a source where it has one.
func (c *faultCase) from(t *testing.T, bad *lab.Source) (from, host string) {
	t.Helper()
	tag := c.tag
	if tag == "" {
		tag = "latest"
	}
	switch {
	case c.host != nil:
		host = c.host(t)
		return host + "/team/app:" + tag, host
	case c.direct:
		return strings.Replace(bad.Reference("app:"+tag), bad.Host, lab.Domain, 1), lab.Domain
	}
	return bad.Reference("app:" + tag), bad.Host
}
