// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package integration tests the programs as their users meet them: it starts tagger-apiserver as a process, drives it with the
// clients of others (kubectl, crane, regctl, skopeo) and plays the outside world, registries on loopback that count what they
// are asked and misbehave where a test wants them to.
//
// The tests carry the build tag integration and find all programs by PATH, and a second kubectl by TAGGER_KUBECTL; `make
// integration` builds them and sets both. A
// client that is not installed skips the tests that need it, unless TAGGER_REQUIRE_CLIENTS is set: then they fail. Tests
// share one server, each in a namespace of its own, except those that stop it or break its data. Nothing leaves loopback, and
// no configuration of the user is read or written. What a package can test by itself is tested there.
package integration
