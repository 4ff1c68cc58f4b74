// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests in a real Kubernetes: one of a single node, which package cluster starts, or its control plane alone.
//
// The tests carry the build tag e2e and find all programs by PATH; `make e2e` builds them and sets it. The tests
// that need a node are skipped without root, and say so, and where runc, iptables or iproute2 are not installed, unless
// TAGGER_REQUIRE_CLIENTS is set: then they fail. Nothing leaves the machine.
package e2e
