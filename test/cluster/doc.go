// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes of one node for tests and for people: etcd, the control plane, kubelet, kube-proxy,
// containerd and network plugins, the programs themselves as child processes, at versions that this repository pins. It owns
// their configuration, certificates and lifetime. It knows nothing of Tagger, and the images that it makes are of
// programs alone.
//
// All of it runs in namespaces of its own for processes, mounts and network, whose first process dies with the thread that
// started it. So whatever runs there, Pods included, ends with the process that uses this package, however that ends; no port or
// path of two clusters clashes; nothing leaves the network of the cluster and no device is added to that of the host. Close
// removes the two things that are left then, a folder and control groups. Sockets are opened inside for callers outside by
// Dial, Listen and Forward.
//
// Linux and root are needed, and iptables, iproute2 and runc. Without root, Config.ControlPlaneOnly starts etcd, kube-apiserver
// and kube-controller-manager alone, on free ports of loopback. All programs are found by PATH; `make e2e` and `make cluster`
// build them and set it. DNS knows the names of the cluster and no others.
package cluster
