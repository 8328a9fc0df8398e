package lab

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
)

const (
	clientHost = 200
	hubHost    = 254
	maxNodes   = clientHost - 1
)

// benchmarkNet is set aside for tests of networks between machines (RFC 2544, RFC 6890): nothing real is addressed in it.
var benchmarkNet = netip.MustParsePrefix("198.18.0.0/15")

// chooseSubnet returns the first /24 of benchmarkNet that overlaps with nothing in taken, nor does its subnet6.
func chooseSubnet(taken []netip.Prefix) (netip.Prefix, error) {
	base := binary.BigEndian.Uint32(benchmarkNet.Addr().AsSlice())
	for i := range uint32(1) << (24 - benchmarkNet.Bits()) {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], base+i<<8)
		candidate := netip.PrefixFrom(netip.AddrFrom4(raw), 24)
		if !overlapsAny(candidate, taken) && !overlapsAny(subnet6(candidate), taken) {
			return candidate, nil
		}
	}
	return netip.Prefix{}, errors.New("every /24 of 198.18.0.0/15 is in use on this machine")
}

func overlapsAny(p netip.Prefix, taken []netip.Prefix) bool {
	return slices.ContainsFunc(taken, p.Overlaps)
}

// subnet6 is the IPv6 subnet beside a /24 of benchmarkNet: of fd6d:6573:6800::/48 ("mesh"), a unique local range (RFC 4193).
func subnet6(subnet netip.Prefix) netip.Prefix {
	v4 := subnet.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 'm', 'e', 's', 'h', 0, v4[1], v4[2]}), 64)
}

// host returns address number n of a subnet.
func host(subnet netip.Prefix, n int) netip.Addr {
	raw := subnet.Addr().AsSlice()
	raw[len(raw)-1] = byte(n)
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// hardwareAddr derives a locally administered MAC from an address, so that neighbours need not learn a new one when a node comes back.
func hardwareAddr(addr netip.Addr) net.HardwareAddr {
	raw := addr.As4()
	return net.HardwareAddr{0x02, 0x6d, raw[0], raw[1], raw[2], raw[3]}
}
