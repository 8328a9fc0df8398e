package nft

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Directions of a connection as conntrack counts them.
const (
	original = 0
	reply    = 1
)

// statusDNAT is IPS_DST_NAT of a connection's status (linux/netfilter/nf_conntrack_common.h).
const statusDNAT = 1 << 5

// Registers of 4 bytes: a device's name takes four of them.
const (
	register    = unix.NFT_REG32_00
	afterName   = register + 4
	etherSource = 6
	etherSize   = 6
)

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// discard drops what nobody need count.
func discard() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// from: iifname; a name that ends in a zero byte is a whole one, others are how names begin.
func from(name string) []expr.Any { return named(expr.MetaKeyIIFNAME, name) }

// to: oifname.
func to(name string) []expr.Any { return named(expr.MetaKeyOIFNAME, name) }

func named(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte(name)},
	}
}

// fromOthers and toOthers: a device that is not the overlay's own.
func fromOthers() []expr.Any { return notOurs(expr.MetaKeyIIFNAME) }
func toOthers() []expr.Any   { return notOurs(expr.MetaKeyOIFNAME) }

// toOurs: what is not lo, where the node's own addresses are: a route to a network's subnet is ours.
func toOurs() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte("lo\x00")},
	}
}

// isFamily: meta nfproto.
func isFamily(v6 bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if v6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{proto}},
	}
}

// inside is within, in a table of both families.
func inside(s netip.Prefix, offset4, offset6 uint32) []expr.Any {
	return append(isFamily(s.Addr().Is6()), within(s, offset4, offset6)...)
}

// direction: ct direction; what is not tracked has none.
func direction(d byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{d}},
	}
}

// translated: ct status dnat.
func translated() []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: register}}, anyOf(statusDNAT, expr.CmpOpNeq)...)
}

// anyOf compares those bits of the register with none.
func anyOf(bits uint32, op expr.CmpOp) []expr.Any { return masked(bits, op, 0) }

// masked compares the mask's bits of the register.
func masked(mask uint32, op expr.CmpOp, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: op, Register: register, Data: binaryutil.NativeEndian.PutUint32(value)},
	}
}

// udpPort: udp dport, or sport, as the offset says.
func udpPort(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}
