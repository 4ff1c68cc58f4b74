// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"net/netip"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	allowing, strict := Guard{AllowLoopback: true}, Guard{RefusePrivate: true}
	tests := []struct {
		name, ip string
		guard    Guard
		want     string // class; "": allowed
	}{
		{name: "public", ip: "93.184.216.34"},
		{name: "public IPv6", ip: "2606:2800:220:1::1"},
		{name: "loopback", ip: "127.0.0.1", want: "loopback"},
		{name: "other loopback", ip: "127.8.9.1", want: "loopback"},
		{name: "loopback IPv6", ip: "::1", want: "loopback"},
		{name: "loopback mapped", ip: "::ffff:127.0.0.1", want: "loopback"},
		{name: "loopback by NAT64", ip: "64:ff9b::7f00:1", want: "loopback"},
		{name: "loopback by 6to4", ip: "2002:7f00:1::1", want: "loopback"},
		{name: "unspecified", ip: "0.0.0.0", want: "loopback"},
		{name: "unspecified IPv6", ip: "::", want: "loopback"},
		{name: "this network", ip: "0.1.2.3", want: "loopback"},
		{name: "loopback allowed", ip: "127.0.0.1", guard: allowing},
		{name: "unspecified allowed", ip: "::", guard: allowing},
		{name: "loopback strict", ip: "127.0.0.1", guard: strict, want: "loopback"},
		{name: "link-local", ip: "169.254.169.254", want: "link-local"},
		{name: "link-local though loopback is allowed", ip: "169.254.169.254", guard: allowing, want: "link-local"},
		{name: "link-local mapped", ip: "::ffff:169.254.169.254", want: "link-local"},
		{name: "link-local by NAT64", ip: "64:ff9b::a9fe:a9fe", want: "link-local"},
		{name: "link-local IPv6 with zone", ip: "fe80::1%eth0", want: "link-local"},
		{name: "multicast", ip: "224.0.0.1", want: "multicast"},
		{name: "multicast IPv6", ip: "ff05::1", want: "multicast"},
		{name: "metadata of AWS", ip: "fd00:ec2::254", want: "cloud metadata"},
		{name: "metadata of AWS for Pods", ip: "fd00:ec2::23", want: "cloud metadata"},
		{name: "metadata of Google", ip: "fd20:ce::254", want: "cloud metadata"},
		{name: "metadata of Alibaba", ip: "100.100.100.200", want: "cloud metadata"},
		{name: "private", ip: "10.0.0.1"},
		{name: "private refused", ip: "10.0.0.1", guard: strict, want: "private"},
		{name: "shared refused", ip: "100.64.0.1", guard: strict, want: "private"},
		{name: "private IPv6 refused", ip: "fd00::1", guard: strict, want: "private"},
		{name: "private by NAT64 refused", ip: "64:ff9b::a00:1", guard: strict, want: "private"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.guard.check(netip.MustParseAddr(tt.ip))
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v, want none", err)
				}
				return
			}
			if KindOf(err) != Blocked || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), tt.ip) {
				t.Errorf("got %v, want Blocked for %s, without the address", err, tt.want)
			}
		})
	}
}

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.1.2.3": true, "::1": true, "::ffff:127.0.0.1": true,
		"localhost.example.com": false, "127.0.0.1.example.com": false, "0.0.0.0": false, "10.0.0.1": false, "": false,
	} {
		if got := isLoopback(host); got != want {
			t.Errorf("isLoopback(%q) = %t", host, got)
		}
	}
}
