// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chart tests artifacts/chart without a cluster: what each of the supported versions of helm makes of which values, and
// what it refuses. What a cluster makes of it package e2e tests.
//
// The tests find helm3 and helm4 by PATH; `make chart` builds them and sets it. A test is skipped where one is missing, and says
// so, unless TAGGER_REQUIRE_CLIENTS is set: then it fails.
package chart
