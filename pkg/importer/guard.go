// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// Guard decides which addresses what a tenant names may lead to: it is asked when
// a connection is made, after the name was resolved, so that redirects, token
// services and names that change their address meanwhile are seen too. Link-local,
// multicast and metadata addresses are always refused. The zero value is the one
// of Options.
type Guard struct {
	// AllowLoopback allows loopback addresses.
	AllowLoopback bool
	// RefusePrivate refuses private addresses (RFC 1918, RFC 6598, RFC 4193).
	RefusePrivate bool
}

var (
	// nat64 is the well-known prefix of RFC 6052, whose last four bytes are an
	// IPv4 address.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	// sixToFour is that of RFC 3056, in which an IPv4 address follows.
	sixToFour = netip.MustParsePrefix("2002::/16")
	// thisNetwork of RFC 1122 reaches the host itself on Linux.
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	// sharedAddresses of RFC 6598 are private to a provider.
	sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")
	// metadata services of clouds that lie outside the link-local range: of AWS
	// by IPv6 and for Pods, of Google by IPv6, of Alibaba and of Azure.
	metadata = []netip.Addr{
		netip.MustParseAddr("fd00:ec2::254"),
		netip.MustParseAddr("fd00:ec2::23"),
		netip.MustParseAddr("fd20:ce::254"),
		netip.MustParseAddr("100.100.100.200"),
		netip.MustParseAddr("168.63.129.16"),
	}
)

// check returns an *Error of Kind Blocked for an address that is refused. Its
// text names the class and not the address: that of an internal name is not the
// tenant's to learn.
func (g Guard) check(ip netip.Addr) error {
	ip = ip.WithZone("").Unmap()
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	if sixToFour.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[2:6]))
	}
	refuse := func(class string) error {
		return failure(Blocked, nil, "the registry is at a %s address, which is refused here; ask the administrator or use another registry", class)
	}
	switch {
	case ip.IsLoopback(), ip.IsUnspecified(), thisNetwork.Contains(ip):
		if !g.AllowLoopback {
			return refuse("loopback")
		}
	case ip.IsLinkLocalUnicast():
		return refuse("link-local")
	case ip.IsMulticast():
		return refuse("multicast")
	case slices.Contains(metadata, ip):
		return refuse("cloud metadata")
	case g.RefusePrivate && (ip.IsPrivate() || sharedAddresses.Contains(ip)):
		return refuse("private")
	}
	return nil
}

// Control is a net.Dialer.ControlContext. A refusal is an *Error of Kind Blocked.
func (g Guard) Control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return failure(Blocked, err, "the registry is not at an IP address")
	}
	return g.check(to.Addr())
}

// Name refuses a host that is, or resolves to, a refused address. It is for
// requests through a proxy, which connects in our place. A name that cannot be
// resolved here is left to the proxy. A refusal is an *Error of Kind Blocked.
func (g Guard) Name(ctx context.Context, host string) error {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return ctx.Err()
	}
	for _, ip := range addresses {
		if err := g.check(ip); err != nil {
			return err
		}
	}
	return nil
}

// isLoopback reports whether a host of a URL, without its port, is this machine
// by its name or address.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
